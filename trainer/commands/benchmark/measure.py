"""Rates measured in turn, on all ranks at once: the windows, how long they are, and what is made of them.

A window is a number of micro-batches, the same on all ranks, because ranks that train wait for one another. Before it
some pass that do not count: a loader that was idle has batches read ahead, which would come for nothing. The device is
waited for at both ends of a window and nowhere within it.
"""

import math
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, field
from statistics import median
from typing import Any, TypeVar

import torch.distributed as dist

from trainer.commands.benchmark.peak import wait_for
from trainer.data.loader import BATCHES_AHEAD
from trainer.distributed.process_group import World
from trainer.log.throughput import Rates, Throughput

WARM_UP = BATCHES_AHEAD + 2  # batches that may wait when a window begins: those of the loader and one on the GPU
_GROWTH = 8  # from one trial window to the next

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Part:
    """One thing to measure."""

    batches: Callable[[int], Generator[Any, None, None]]
    """the micro-batches of a round, for ever; closed when the round is over, so that no thread reads ahead then"""
    work: Callable[[Any], None]
    """what is done with each"""
    warm_up: int = 1
    """micro-batches before a window"""
    accumulation: int = 1
    """a window is a multiple of so many micro-batches, where it holds so many at all"""


@dataclass
class Measured:
    """What was measured of one part: a list over the ranks for each round."""

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
        """Images/s of all processes: those that train wait for the slowest one."""
        return len(self.ranks) * min(self.ranks)

    @property
    def rounds(self) -> list[float]:
        """The same of each round."""
        return [len(rates) * min(rates) for rates in self.images_per_second]

    @property
    def waits(self) -> list[float]:
        """Each rank's share of the time spent waiting for images, the median over the rounds."""
        return [median(waits) for waits in zip(*self.data_wait, strict=True)]

    def as_json(self) -> dict[str, Any]:
        """For machines: images/s, the medians first."""
        return {
            "images_per_second": self.total,
            "rounds": self.rounds,
            "ranks": self.ranks,
            "slowest_rank": self.slowest_rank,
        }


def window(part: Part, count: int, images: int, round_number: int, world: World) -> Rates:
    """One window of `count` micro-batches of `images` each: this rank's own rates."""
    with closing(part.batches(round_number)) as batches:
        for _ in range(part.warm_up):
            part.work(next(batches))
        wait_for(world.device)
        dist.barrier(group=world.gloo)
        throughput = Throughput(world)
        for _ in range(count):
            part.work(throughput.wait_for(batches))
            throughput.images += images
        wait_for(world.device)
        return throughput.read()


def window_length(part: Part, seconds: float, images: int, world: World) -> int:
    """Micro-batches that take the slowest rank about `seconds`, found in trial windows, which also compile."""
    count = 1
    while True:
        rate = min(gather(world, window(part, count, images, 0, world).images_per_second))
        taken = count * images / rate
        if taken >= seconds / 4:
            break
        count = min(_GROWTH * count, math.ceil(count * seconds / 3 / taken))
    count = math.ceil(count * seconds / taken)
    return count if count < part.accumulation else math.ceil(count / part.accumulation) * part.accumulation


def gather(world: World, value: T) -> list[T]:
    """The value of every rank, on every rank."""
    values: list[Any] = [None] * world.size
    dist.all_gather_object(values, value, group=world.gloo)
    return values
