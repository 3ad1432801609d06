"""Distillation: a trained network, the teacher, whose predictions are targets."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.recipe.check import check_share
from trainer.recipe.model import Model

__all__ = ["Distillation"]


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """Learns what a teacher predicts for the same augmented and mixed images (Hinton et al. 2015, arXiv:1503.02531;
    Beyer et al. 2022, arXiv:2106.05237, section 3.1). The teacher is frozen and in evaluation mode.

    Loss: label_weight * loss of the labels + weight * temperature^2 * KL(teacher || student), both at the temperature.
    """

    teacher: Model
    """a LibraryModel with pretrained=True, or any network whose weights are a file: --teacher-weights FILE"""
    temperature: float = 1.0
    """divides the logits of both networks before their softmax (Hinton et al. 2015, section 2)"""
    weight: float = 0.5
    """weight of the teacher's part of the loss; 1: the labels are not used, as by Beyer et al."""
    label_weight: float | None = None
    """weight of the labels' part; None: 1 - weight"""
    hard: bool = False
    """the target is the teacher's most probable class (Touvron et al. 2020, arXiv:2012.12877, equation 3)"""

    def __post_init__(self) -> None:
        check_share("distillation.weight", self.weight)
        if not self.weight:
            raise ValueError("distillation.weight=0 learns nothing from the teacher; distillation=None switches it off")
        if not self.temperature > 0:
            raise ValueError(f"distillation.temperature={self.temperature} is not positive")
        if self.label_weight is not None and self.label_weight < 0:
            raise ValueError(f"distillation.label_weight={self.label_weight} is negative; None is 1 - weight")
        if self.hard and self.temperature != 1:
            raise ValueError("distillation.hard needs temperature=1, which has no effect on the most probable class")

    @property
    def weight_of_labels(self) -> float:
        return 1 - self.weight if self.label_weight is None else self.label_weight
