"""Fine-tuning of weights that were trained before."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.recipe.check import check_not_negative

__all__ = ["FineTuning"]


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """How far the weights that training starts from may move. The classifier always learns at the full rate."""

    backbone_lr: float = 1.0
    """rate of all layers but the classifier, as a multiple of the classifier's; 0: they are frozen"""
    freeze_norms: bool = False
    """norms keep their running statistics, gamma and beta"""

    def __post_init__(self) -> None:
        check_not_negative("fine_tuning.backbone_lr", self.backbone_lr)
