"""The loss of a batch."""

from collections.abc import Callable

import torch
from torch.nn import functional

from trainer import recipe
from trainer.recipe import BinaryCrossEntropy, CrossEntropy

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(logits of shape (n, classes), targets) -> the mean over the batch, a float32 scalar.

Targets are labels, int64 of shape (n,), or the probabilities that mixing makes, float32 of shape (n, classes).
"""


def build_loss(spec: recipe.Loss) -> Loss:
    """Builds the mean loss over a micro-batch; logits are taken to fp32 first, whatever the precision of the model."""
    match spec:
        case CrossEntropy():
            return lambda logits, targets: functional.cross_entropy(
                logits.float(), targets, label_smoothing=spec.label_smoothing
            )
        case BinaryCrossEntropy():
            return lambda logits, targets: _binary_cross_entropy(spec, logits.float(), targets)


def _binary_cross_entropy(spec: BinaryCrossEntropy, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Wightman et al. 2021 (arXiv:2110.00476), section 3; as in timm, targets are smoothed, then thresholded."""
    classes = logits.shape[1]
    if targets.ndim == 1:
        targets = functional.one_hot(targets, classes).float()
    targets = targets * (1 - spec.label_smoothing) + spec.label_smoothing / classes
    if spec.target_threshold is not None:
        targets = (targets > spec.target_threshold).float()
    losses = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    per_image = losses.mean(dim=1) if spec.over_classes == "mean" else losses.sum(dim=1)
    return per_image.mean()
