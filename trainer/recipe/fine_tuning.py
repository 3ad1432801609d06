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
    layer_decay: float = 1.0
    """rate of each layer as a multiple of the next one's, from the classifier down to the stem, with `backbone_lr` as a
    further factor; layers are timm's, in a ResNet the residual blocks; 1: all are alike. Layer-wise learning-rate
    decay, Clark et al. 2020, arXiv:2003.10555, appendix A, and Bao et al. 2021, arXiv:2106.08254"""
    freeze_norms: bool = False
    """norms keep their running statistics, gamma and beta"""

    def __post_init__(self) -> None:
        check_not_negative("fine_tuning.backbone_lr", self.backbone_lr)
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"fine_tuning.layer_decay={self.layer_decay} is not within (0, 1]; 1 switches it off")
        if self.layer_decay != 1 and not self.backbone_lr:
            raise ValueError("fine_tuning.layer_decay sets rates of layers that fine_tuning.backbone_lr=0 freezes")

    @property
    def keeps_statistics(self) -> bool:
        """Whether the norms outside the classifier keep the running statistics that they start with."""
        return self.freeze_norms or not self.backbone_lr
