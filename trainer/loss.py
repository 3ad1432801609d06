"""The loss of a batch."""

from collections.abc import Callable

import torch
from torch.nn import functional

from trainer.recipe import CrossEntropy

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(logits of shape (n, classes), labels of shape (n,)) -> the mean over the batch, a scalar"""


def build_loss(spec: CrossEntropy) -> Loss:
    """The mean loss over a micro-batch; logits are taken to fp32 first, whatever the precision of the model."""
    return lambda logits, labels: functional.cross_entropy(logits.float(), labels, label_smoothing=spec.label_smoothing)
