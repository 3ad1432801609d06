"""Reports the progress of a task that takes more than three seconds, with the time left."""

import sys
import time

from trainer.process.units import rough_duration

FIRST, EVERY = 3.0, 10.0  # seconds before the first line, and between two lines


class LongTask:
    """Prints lines to stderr while the task is done. Quick tasks print nothing."""

    def __init__(self, what: str, total: float, unit: str) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._start = time.monotonic()
        self._next = self._start + FIRST

    def update(self, done: float) -> None:
        """Takes how much of the total is done by now."""
        now = time.monotonic()
        if now < self._next or not done:
            return
        self._next = now + EVERY
        left = time_left(now - self._start, done, self._total)
        print(
            f"{self._what}: {_amount(done)} of {_amount(self._total)} {self._unit}, {left}", file=sys.stderr, flush=True
        )


def _amount(number: float) -> str:
    return f"{number:,.0f}" if number >= 1000 else f"{number:.3g}"


def time_left(seconds: float, done: float, total: float) -> str:
    """The rest at the speed so far, as "about 90 s left". `seconds`: what `done` of the total took; done is not 0."""
    left = seconds * (total - done) / done
    return f"about {rough_duration(left)} left"
