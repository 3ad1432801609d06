"""The speed of training: images per second, the share of time spent waiting for images, the slowest rank.

Nothing synchronises with the device inside a step. On a CPU the host clock is read. On a GPU, events are recorded
between the kernels and read one line later, so all is measured on the device: if the host waits for images while the
device is still busy, nothing is lost.
"""

import statistics
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch

from trainer.distributed.process_group import World
from trainer.distributed.run_ahead import wait_for_gpu

T = TypeVar("T")
Mark = float | torch.cuda.Event
AGREEING_INTERVALS = 3  # in a row, before a rank is named as a straggler
NOTABLE = 0.1  # slower than the median rank by more than this share
NOTABLE_OF_TWO = 0.5  # of two ranks one is always the slower one, and there is no majority to compare it with


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Measurements of the steps between two reads."""

    images_per_second: float  # over all ranks
    data_wait: float  # share of the time that this rank waited for images
    slowest_rank: int | None = None  # None if there is only one rank
    slower_by: float = 0.0  # share by which its own part of a step is longer than the median rank's


class StragglerDetector:
    """Names a rank as a straggler once several intervals agree: one alone may be noise of the machine."""

    def __init__(self, ranks: int) -> None:
        self._notable = NOTABLE if ranks > 2 else NOTABLE_OF_TWO
        self._rank: int | None = None
        self._shares: deque[float] = deque(maxlen=AGREEING_INTERVALS)

    def update(self, rates: Rates) -> str | None:
        """Takes the next interval's rates. Returns a claim that holds for each of the last intervals, or None."""
        if rates.slowest_rank != self._rank or rates.slower_by <= self._notable:
            self._shares.clear()
        self._rank = rates.slowest_rank
        if rates.slower_by > self._notable:
            self._shares.append(rates.slower_by)
        if len(self._shares) < AGREEING_INTERVALS:
            return None
        least = min(self._shares)
        return f"{AGREEING_INTERVALS} intervals in a row: rank {self._rank} is {least:.0%} slower than the median"


class _MicroStep(NamedTuple):
    asked: Mark  # before waiting for its images
    got: Mark
    forward_done: Mark | None = None  # None: forward_done was not called


@dataclass(frozen=True, kw_only=True)
class Interval:
    """What was marked between two lines. Its properties wait for the device, unless it has come so far."""

    images: int
    began: Mark
    ended: Mark
    micro_steps: list[_MicroStep]

    @property
    def own_seconds(self) -> float:
        """The time that this rank took for images and forward passes; in backward passes the ranks wait for others."""
        return sum(_seconds(step.asked, step.forward_done) for step in self.micro_steps if step.forward_done)

    def rates(self, own_seconds_of_ranks: list[float] | None = None) -> Rates:
        """`own_seconds_of_ranks`: of all ranks, in an interval; None: not known."""
        seconds = _seconds(self.began, self.ended)
        waited = sum(_seconds(step.asked, step.got) for step in self.micro_steps)
        rank, slower_by = slowest(own_seconds_of_ranks) if own_seconds_of_ranks else (None, 0.0)
        return Rates(
            images_per_second=self.images / seconds,
            data_wait=min(1.0, waited / seconds),
            slowest_rank=rank,
            slower_by=slower_by,
        )


class Throughput:
    """Called at each micro-step, which reads nothing from the device."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.start()

    def start(self) -> None:
        """Starts an epoch and its first interval. Time before this call, such as an evaluation, does not count."""
        self._epoch_began, self._epoch_images = time.perf_counter(), 0
        self._begin_interval()

    def _begin_interval(self) -> None:
        self.images = 0
        """images trained on since the last interval, over all ranks; counted by the caller"""
        self._began = self._mark()
        self._micro_steps: list[_MicroStep] = []

    @property
    def images_per_second_of_epoch(self) -> float:
        """Images trained on since start() by the time since then, with all that has been done besides."""
        return (self._epoch_images + self.images) / (time.perf_counter() - self._epoch_began)

    def wait_for(self, batches: Iterator[T]) -> T:
        """Returns the next batch and measures the wait for it."""
        asked = self._mark()
        batch = next(batches)
        self._micro_steps.append(_MicroStep(asked, self._mark()))
        return batch

    def forward_done(self) -> None:
        """Marks the end of the forward pass, the last part that a rank does alone: backward synchronises the ranks."""
        self._micro_steps[-1] = self._micro_steps[-1]._replace(forward_done=self._mark())

    def end_interval(self) -> Interval:
        """The interval since the last one or start(). Starts the next; reads nothing from the device."""
        interval = Interval(images=self.images, began=self._began, ended=self._mark(), micro_steps=self._micro_steps)
        self._epoch_images += self.images
        self._begin_interval()
        return interval

    def read(self) -> Rates:
        """The rates of this rank since the last read or start."""
        return self.end_interval().rates()

    def _mark(self) -> Mark:
        if self._world.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True, blocking=True)  # who waits for it, sleeps
        event.record()
        return event


def slowest(seconds: list[float]) -> tuple[int, float]:
    """The index of the largest value, and its excess over the median as a share. The median of two is the lower."""
    rank = max(range(len(seconds)), key=seconds.__getitem__)
    median = statistics.median_low(seconds)
    return rank, seconds[rank] / median - 1 if median > 0 else 0.0


def _seconds(first: Mark, last: Mark) -> float:
    if isinstance(first, float):
        assert isinstance(last, float)
        return last - first
    assert not isinstance(last, float)
    wait_for_gpu(last)
    return float(first.elapsed_time(last)) / 1000
