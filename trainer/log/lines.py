"""The lines of metrics: summed over the ranks while training continues, and written one line later.

A line that was read at once would wait for the device, and then for all ranks one after another.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from trainer.data.operations import upload
from trainer.distributed.process_group import World, start_sum
from trainer.log.cadence import Cadence
from trainer.log.log import Log
from trainer.log.throughput import Interval, Throughput
from trainer.run.state import Position
from trainer.step_metrics import StepMetrics, Summary


@dataclass(frozen=True, kw_only=True)
class _Line:
    """A line whose values are still being summed."""

    at: Position
    lr: float
    metrics: Callable[[], Summary]
    own_seconds: Callable[[], torch.Tensor]  # of each rank, in the interval before that of the line
    interval: Interval


class LogLines:
    """Called after each step, by all ranks together."""

    def __init__(self, log: Log, cadence: Cadence, metrics: StepMetrics, world: World) -> None:
        self._log, self._cadence, self._metrics, self._world = log, cadence, metrics, world
        self.throughput = Throughput(world)
        """between two lines; the caller marks its parts"""
        self._pending: _Line | None = None
        self._last_interval: Interval | None = None

    def after_step(self, at: Position, lr: float) -> None:
        """Begins a line where one is due, and writes the one before. Raises NotFiniteError for that one's steps."""
        if self._cadence.has_line(at.step):
            self.flush()
            self._begin(at, lr)
            if self._world.size == 1 and self._world.device.type == "cpu":  # there is nothing to wait for
                self.flush()
        self._log.progress(at)

    def flush(self) -> None:
        """Writes the line that is pending, if there is one. Before a save: a resumed run begins after its step."""
        if line := self._pending:
            self._pending = None
            summary, own_seconds = line.metrics(), line.own_seconds().tolist()
            self._log.steps(
                line.at, lr=line.lr, steps=summary, rates=line.interval.rates(own_seconds if any(own_seconds) else None)
            )

    def _begin(self, at: Position, lr: float) -> None:
        interval = self.throughput.end_interval()
        own = np.zeros(self._world.size)
        if self._last_interval and self._world.size > 1:
            own[self._world.rank] = self._last_interval.own_seconds  # the device has done with it
        self._pending = _Line(
            at=replace(at),
            lr=lr,
            metrics=self._metrics.start_reading(at.step, since=self._cadence.line_before(at.step)),
            own_seconds=start_sum(self._world, upload(own, self._world.device)),
            interval=interval,
        )
        self._last_interval = interval
