"""What a measurement has found so far: said and written as soon as it is found, within a limit of time."""

import json
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from trainer.atomic import replace_text
from trainer.errors import first_line


class TimeUp(BaseException):
    """Not an Exception: what catches a failing part must let it pass."""


class Record:
    """`results` is what the file holds, complete or not."""

    def __init__(self, file: Path | None, minutes: float) -> None:
        self.results: dict[str, Any] = {
            "images_per_second": {}, "variants": {}, "reserved_gb": [], "failed": {}, "compiled": {}, "waits": {},
            "profile": {},
        }  # fmt: skip
        self._file, self._minutes, self._begun = file, minutes, time.monotonic()

    @property
    def seconds(self) -> float:
        """Since it was begun."""
        return time.monotonic() - self._begun

    @property
    def seconds_left(self) -> float:
        return 60 * self._minutes - self.seconds

    def say(self, text: str) -> None:
        """Prints a line with the time, and writes everything that was found into the file."""
        print(f"{self.seconds:6.1f} s  {text}", flush=True)
        if self._file:
            self.results["minutes"] = self.seconds / 60
            replace_text(self._file, json.dumps(self.results, indent=2) + "\n")

    def failed(self, what: str, error: Exception) -> None:
        """Notes it; the others are measured still."""
        traceback.print_exception(error)
        self.results["failed"][what] = f"{type(error).__name__}: {first_line(error)}"
        self.say(f"{what} failed: {self.results['failed'][what]}")

    def note(self, what: str, look: Callable[[], Any]) -> None:
        """Finds `what`, something else than a rate."""
        try:
            self.results[what] = look()
        except Exception as error:
            self.failed(what, error)
        else:
            self.say(what)

    @contextmanager
    def time_limit(self) -> Iterator[None]:
        """Ends the block early, without an error, when the time is up or the process is asked to end."""

        def up(number: int, _: FrameType | None) -> None:
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise TimeUp("the time is up" if number == signal.SIGALRM else signal.Signals(number).name)

        before = {number: signal.signal(number, up) for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGINT)}
        signal.setitimer(signal.ITIMER_REAL, max(0.001, self.seconds_left))
        try:
            yield
        except TimeUp as reason:
            self.say(f"ended early: {reason}")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            for number, handler in before.items():
                signal.signal(number, handler)
