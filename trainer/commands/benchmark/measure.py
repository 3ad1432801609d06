"""Rates in images/s, measured on all ranks at once: the windows, their length, and the medians over rounds.

A window is a number of micro-batches, the same on all ranks, because ranks that train wait for one another. Some
uncounted micro-batches come before it: an idle loader has read batches ahead, which would cost no time. The device is
synchronised at both ends of a window; inside it a host is at most a few micro-batches ahead of its GPU.
"""

import math
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch.distributed as dist

from trainer.commands.benchmark.peak import wait_for
from trainer.data.loader import BATCHES_AHEAD
from trainer.distributed.process_group import World, gather
from trainer.distributed.run_ahead import RunAhead
from trainer.log.throughput import Rates, Throughput

WARM_UP = BATCHES_AHEAD + 2  # batches that may be ready when a window begins: those of the loader and one on the GPU
_GROWTH = 8  # from one trial window to the next


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of training that is measured on its own."""

    batches: Callable[[int], Generator[Any, None, None]]
    """yields the micro-batches of a round without end; closed after the round, so that no thread reads ahead then"""
    work: Callable[[Any], None]
    """is called with each micro-batch"""
    images: int
    """of a micro-batch"""
    warm_up: int = 1
    """uncounted micro-batches before a window"""
    first: int = 0
    """uncounted micro-batches before the first trial window, among which a CUDA graph is recorded and checked"""
    accumulation: int = 1
    """micro-batches of one step: a window holds whole steps if it is at least this long"""


@dataclass
class Measured:
    """The measurements of one part: for each round a list over the ranks."""

    images_per_second: list[list[float]] = field(default_factory=list)
    data_wait: list[list[float]] = field(default_factory=list)

    @property
    def ranks(self) -> list[float]:
        """Each rank's median over the rounds, in images/s."""
        return [median(rates) for rates in zip(*self.images_per_second, strict=True)]

    @property
    def slowest_rank(self) -> int:
        return self.ranks.index(min(self.ranks))

    @property
    def total(self) -> float:
        """Images/s of all processes together: in training they wait for the slowest one."""
        return len(self.ranks) * min(self.ranks)

    @property
    def rounds(self) -> list[float]:
        """The total of each round."""
        return [len(rates) * min(rates) for rates in self.images_per_second]

    @property
    def waits(self) -> list[float]:
        """The share of its time that each rank waited for images, the median over the rounds."""
        return [median(waits) for waits in zip(*self.data_wait, strict=True)]

    def as_json(self) -> dict[str, Any]:
        """Images/s: the median of the rounds, then its parts."""
        return {
            "images_per_second": self.total,
            "rounds": self.rounds,
            "ranks": self.ranks,
            "slowest_rank": self.slowest_rank,
        }


def window(part: Part, count: int, round_number: int, world: World) -> Rates:
    """Measures one window of `count` micro-batches. Returns this rank's own rates."""
    with closing(part.batches(round_number)) as batches:
        for _ in range(part.warm_up):
            part.work(next(batches))
        wait_for(world.device)
        dist.barrier(group=world.gloo)
        throughput = Throughput(world)
        run_ahead = RunAhead(world.device)  # a step has its own, the other parts have none
        for _ in range(count):
            part.work(throughput.wait_for(batches))
            throughput.images += part.images
            run_ahead.after_batch()
        wait_for(world.device)
        return throughput.read()


def window_length(part: Part, seconds: float, world: World) -> int:
    """The micro-batches that take the slowest rank about `seconds`. Its trial windows also trigger compilation."""
    if part.first:
        window(part, part.first, 0, world)
    count = 1
    while True:
        rate = min(gather(world, window(part, count, 0, world).images_per_second))
        taken = count * part.images / rate
        if taken >= seconds / 4:
            break
        count = min(_GROWTH * count, math.ceil(count * seconds / 3 / taken))
    count = math.ceil(count * seconds / taken)
    return count if count < part.accumulation else math.ceil(count / part.accumulation) * part.accumulation
