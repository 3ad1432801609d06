"""Averages of the weights over time."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.recipe.check import check_below_one, check_not_negative, check_positive_int

__all__ = ["EMA", "SWA"]


@dataclass(frozen=True, kw_only=True)
class EMA:
    """An exponential moving average of weights and running statistics. The result of the run is its own."""

    decay: float
    """share of the old average that each update keeps"""
    every: int = 1
    """steps from one update to the next"""
    start_epoch: float = 0.0
    """until then the average is a copy of the weights"""

    def __post_init__(self) -> None:
        check_below_one("ema.decay", self.decay)
        check_positive_int("ema.every", self.every)
        check_not_negative("ema.start_epoch", self.start_epoch)


@dataclass(frozen=True, kw_only=True)
class SWA:
    """Stochastic weight averaging: the mean of the weights after several epochs, each counted once, evaluated beside
    them; the result is its own (Izmailov et al. 2018, arXiv:1803.05407, algorithm 1). Its norms are recomputed over
    the recipe's `precise_norm_images`."""

    start_epoch: int
    """the weights after this many epochs are the first of the mean; until then the average is a copy of the weights"""
    every: int = 1
    """epochs from one set of weights to the next, the paper's cycle"""

    def __post_init__(self) -> None:
        if self.start_epoch < 1:
            raise ValueError(f"swa.start_epoch={self.start_epoch} averages the initial weights too: use 1 or more")
        check_positive_int("swa.every", self.every)
