"""The moving average of the weights."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.recipe.check import check_below_one, check_not_negative, check_positive_int

__all__ = ["EMA"]


@dataclass(frozen=True, kw_only=True)
class EMA:
    """An exponential moving average of weights and running statistics, evaluated beside them; the result is its own."""

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
