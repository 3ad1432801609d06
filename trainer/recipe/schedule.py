"""The learning rate over time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trainer.recipe.check import check_not_negative

__all__ = ["Constant", "Cosine", "Linear", "Schedule", "Steps", "Warmup"]


@dataclass(frozen=True, kw_only=True)
class Warmup:
    """The first epochs, before the schedule proper begins."""

    epochs: float
    """length of the warmup, in epochs"""
    lr: float
    """learning rate of the first step (Goyal et al. 2017, section 2.2: 0.1, whatever the batch)"""
    shape: Literal["linear", "constant"] = "linear"
    """linear: from `lr` to the peak by equal amounts (Goyal: gradual); constant: `lr` until the end of the warmup"""

    def __post_init__(self) -> None:
        check_not_negative("schedule.warmup.epochs", self.epochs)
        check_not_negative("schedule.warmup.lr", self.lr)


@dataclass(frozen=True, kw_only=True)
class _Schedule:
    warmup: Warmup | None = None
    changes_every: Literal["step", "epoch"] = "step"
    """epoch: the rate changes only at the start of an epoch, as in many reference scripts"""


@dataclass(frozen=True, kw_only=True)
class Steps(_Schedule):
    """The peak rate, multiplied by `factor` at each milestone."""

    milestones: tuple[float, ...]
    """epochs at which the rate drops"""
    factor: float = 0.1
    """what each drop multiplies the rate by"""

    def __post_init__(self) -> None:
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"schedule.milestones={self.milestones} are not in increasing order")
        check_not_negative("schedule.factor", self.factor)


@dataclass(frozen=True, kw_only=True)
class Cosine(_Schedule):
    """Half a cosine from the peak to `final_lr` at the end of training (Loshchilov 2016, arXiv:1608.03983)."""

    final_lr: float = 0.0
    """learning rate at the end of training"""
    start_epoch: float | None = None
    """where the cosine begins; None: at the end of the warmup; 0: at once, the warmup covers its beginning (timm)"""

    def __post_init__(self) -> None:
        check_not_negative("schedule.final_lr", self.final_lr)
        if self.start_epoch is not None:
            check_not_negative("schedule.start_epoch", self.start_epoch)


@dataclass(frozen=True, kw_only=True)
class Linear(_Schedule):
    """A straight line from the peak, at the end of the warmup, to `final_lr` at the end of training."""

    final_lr: float = 0.0
    """learning rate at the end of training"""

    def __post_init__(self) -> None:
        check_not_negative("schedule.final_lr", self.final_lr)


@dataclass(frozen=True, kw_only=True)
class Constant(_Schedule):
    """The peak rate throughout."""


Schedule = Steps | Cosine | Linear | Constant
