"""When the metrics of training are logged.

A function of the step alone, so that a resumed run writes the same lines as one that was not stopped.
"""

from dataclasses import dataclass
from typing import Self

LINES_PER_EPOCH = 4


@dataclass(frozen=True)
class Cadence:
    """A line every `interval` steps and, before the first of these, after steps 1, 2, 4, 8, ..."""

    interval: int

    @classmethod
    def of(cls, log_every: int, steps_per_epoch: int) -> Self:
        """`log_every` steps between two lines, or fewer if an epoch would otherwise have less than four lines."""
        return cls(max(1, min(log_every, steps_per_epoch // LINES_PER_EPOCH)))

    def has_line(self, step: int) -> bool:
        """Whether a line follows this step."""
        return step % self.interval == 0 or (step < self.interval and step & (step - 1) == 0)

    def line_before(self, step: int) -> int:
        """The last step before this one that has a line, or 0. A line's loss is the mean of the steps since then."""
        if step > self.interval:
            return (step - 1) // self.interval * self.interval
        return 1 << ((step - 1).bit_length() - 1) if step > 1 else 0
