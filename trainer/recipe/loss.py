"""Losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trainer.recipe.check import check_below_one

__all__ = ["BinaryCrossEntropy", "CrossEntropy", "Loss"]


@dataclass(frozen=True, kw_only=True)
class CrossEntropy:
    """Softmax cross-entropy."""

    label_smoothing: float = 0.0
    """probability spread over all classes (Szegedy et al. 2015, arXiv:1512.00567, section 7)"""

    def __post_init__(self) -> None:
        check_below_one("loss.label_smoothing", self.label_smoothing)


@dataclass(frozen=True, kw_only=True)
class BinaryCrossEntropy:
    """Every class a question of its own: sigmoid cross-entropy (Wightman et al. 2021, arXiv:2110.00476, section 3)."""

    label_smoothing: float = 0.0
    """probability spread over all classes"""
    target_threshold: float | None = None
    """targets above it become 1 and the others 0, so that a mixture holds both its classes; None: as they are"""
    over_classes: Literal["mean", "sum"] = "mean"
    """how the classes' losses make an image's: timm takes the mean, Composer the sum"""

    def __post_init__(self) -> None:
        check_below_one("loss.label_smoothing", self.label_smoothing)
        if self.target_threshold is not None:
            check_below_one("loss.target_threshold", self.target_threshold)


Loss = CrossEntropy | BinaryCrossEntropy
