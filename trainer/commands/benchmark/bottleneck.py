"""The bottleneck of training: a pure function of the measured rates.

The device is fed at the slower rate of reading and copying, and both overlap with computing. So the bottleneck is the
lower of two rates, feed and compute, each measured alone. The rate of both together shows how much they slow each other
down.
"""

import math
from dataclasses import dataclass
from typing import Literal

from trainer.recipe import RandomResizedCrop

BALANCED = (0.9, 1.25)
"""feed / compute within these is balanced: below, the device waits in every step; above, the loader has headroom"""
TOGETHER = 0.8
"""share of the slower rate: if loader and compute together reach less, they slow each other down"""
COST_EXPONENT = 2.0
"""The time to read a photograph grows with this power of its stored side, as the number of its pixels does: for crops
of 224 px the loader's CPU time grew with the power 1.86 from 420 to 500 px and 2.02 from 350 (195 ImageNet JPEGs)."""

Kind = Literal["loader-bound", "copy-bound", "compute-bound", "balanced"]


@dataclass(frozen=True, kw_only=True)
class Rates:
    """The measured rates, in images per second over all processes, and the settings that could be changed."""

    loader: float
    compute: float
    real: float  # loader and compute together, as in training
    copy: float | None  # host to device; None if the CPU is the device
    workers: int  # loader threads of each process
    cpus: int  # that each process may use, its share of the machine's
    processes: int
    stored_side: int | None = None  # px, the longest side of a typical image in a .beton; None if it cannot change
    smallest_side: int = 0  # px, below which images should not be stored for this recipe

    @property
    def feed(self) -> float:
        """The rate at which images reach the device when nothing is computed."""
        return self.loader if self.copy is None else min(self.loader, self.copy)


@dataclass(frozen=True, kw_only=True)
class Bottleneck:
    """What limits training."""

    kind: Kind
    text: str
    """the kind with its numbers, and what would remove it"""


def find_bottleneck(rates: Rates) -> Bottleneck:
    """The part that limits training, with the numbers and what would remove the limit."""
    headroom = rates.feed / rates.compute
    if headroom < BALANCED[0]:
        if rates.copy is not None and rates.copy < rates.loader:
            kind: Kind = "copy-bound"
            text = f"{rates.copy:,.0f} of {rates.compute:,.0f} images/s reach the device, the loader reads "
            text += f"{rates.loader:,.0f}"
        else:
            kind = "loader-bound"
            text = f"{rates.loader:,.0f} of {rates.compute:,.0f} images/s; {_remedy(rates)} would remove it"
    elif headroom > BALANCED[1]:
        kind = "compute-bound"
        text = f"the loader could feed {headroom:,.{1 if headroom < 10 else 0}f} times as much"
    else:
        kind = "balanced"
        text = f"the loader feeds {headroom:.2f} times what compute takes"
    return Bottleneck(kind=kind, text=f"{kind}: {text}{_hindrance(rates)}")


def more_threads(rates: Rates) -> int:
    """The loader threads that each process lacks, if each thread has its own CPU and they share the work evenly."""
    return math.ceil(rates.workers * (rates.compute / rates.loader - 1))


def smaller_side(rates: Rates) -> int | None:
    """The stored side, in px, at which the loader would keep up; None if images should not be that small."""
    if rates.stored_side is None:
        return None
    side = rates.stored_side * (rates.loader / rates.compute) ** (1 / COST_EXPONENT)
    rounded = int(side // 10 * 10)
    return rounded if rounded >= rates.smallest_side else None


def smallest_useful_side(crop: object) -> int | None:
    """The shortest stored side, in px, for a random crop: 256 px for one of 224, as images are evaluated."""
    return math.ceil(crop.resolution * 256 / 224) if isinstance(crop, RandomResizedCrop) else None


def _remedy(rates: Rates) -> str:
    more = more_threads(rates)
    threads = f"about {more} more loader thread{'s' if more > 1 else ''} (CPUs)"
    if rates.processes > 1:
        threads += " for each process"
    if rates.workers + more <= rates.cpus:
        threads += f", --workers {rates.workers + more},"
    side = smaller_side(rates)
    return f"{threads} or images stored at {side} px" if side else threads.removesuffix(",")


def _hindrance(rates: Rates) -> str:
    slower = min(rates.feed, rates.compute)
    if rates.real >= TOGETHER * slower:
        return ""
    in_turn = 1 / (1 / rates.feed + 1 / rates.compute)  # the rate of CPUs that do both
    if rates.copy is not None:
        why = "something between them costs as well"
    elif rates.real < TOGETHER * in_turn:
        why = "more than sharing the CPUs costs: was the machine busy otherwise?"
    else:
        why = "they share the CPUs"
    return f"; together they reach {rates.real:,.0f} images/s, {rates.real / slower:.0%} of the slower one alone: {why}"
