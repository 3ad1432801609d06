"""Batch normalisation over a part of the micro-batch, where a device holds more images than a norm should see."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SplitNorm(nn.BatchNorm2d):
    """A BatchNorm2d that normalises each group of `norm_batch_size` consecutive images by itself while training.

    [N, C, H, W] -> [N, C, H, W], in the memory format of the input. In training the running statistics take one step
    per group, in order, as they would in micro-batches of that size. Raises ValueError for a batch that groups do not
    fill: a smaller group would normalise by statistics that the recipe does not know. Evaluation is BatchNorm2d's.
    """

    norm_batch_size: int

    def forward(self, input: Tensor) -> Tensor:
        normalise = super().forward
        if not self.training or len(input) == self.norm_batch_size:
            return normalise(input)
        if len(input) % self.norm_batch_size:
            raise ValueError(
                f"a micro-batch of {len(input)} images is not a multiple of norm_batch_size={self.norm_batch_size}"
            )
        return torch.cat([normalise(group) for group in input.split(self.norm_batch_size)])


def split_norms(model: nn.Module, norm_batch_size: int) -> None:
    """Makes each BatchNorm2d of `model` compute its statistics over groups of `norm_batch_size` images; see SplitNorm.

    Goyal et al. 2017 (arXiv:1706.02677, section 3) keep n = 32 images per norm whatever the batch; Hoffer et al. 2017
    (arXiv:1705.08741) call it ghost batch normalisation. Parameters, buffers and their names stay, and
    every norm is still a BatchNorm2d. Raises ValueError for a size below 1.
    """
    if norm_batch_size < 1:
        raise ValueError(f"norm_batch_size={norm_batch_size} is not a positive number")
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    split = {kind: _split_class(kind) for kind in {type(norm) for norm in norms}}
    for norm in norms:
        # The class changes and the object stays, as in torch.nn.utils.parametrize: a new object would need every
        # attribute and hook that a library has given its own.
        norm.__class__ = split[type(norm)]
        assert isinstance(norm, SplitNorm)
        norm.norm_batch_size = norm_batch_size


def _split_class(norm: type[nn.BatchNorm2d]) -> type[SplitNorm]:
    """SplitNorm around any kind of BatchNorm2d: timm's has an activation in it."""
    if issubclass(norm, SplitNorm):
        return norm
    return SplitNorm if norm is nn.BatchNorm2d else type(f"Split{norm.__name__}", (SplitNorm, norm), {})
