"""Batch normalisation over the micro-batches of all processes, for few images per GPU.

torch.nn.SyncBatchNorm does this on GPUs only. Here sums of each rank are added by all-reduce, with gloo or NCCL.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from trainer.errors import UserError


class SyncNorm(nn.BatchNorm2d):
    """A BatchNorm2d that while training normalises by the statistics of all ranks' inputs together.

    [N, C, H, W] -> [N, C, H, W], in the memory format of the input. All ranks call it together, with the same N: two
    all-reduces of 2 C numbers each, one in the forward and one in the backward pass. The running statistics are the
    same on all ranks. In evaluation, and with one process, it is BatchNorm2d.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
            return super().forward(input)
        output: Tensor = _outside_graphs(self, input)
        return output

    def over_all_ranks(self, input: Tensor) -> Tensor:
        """What forward() does in training on several ranks."""
        mean, var, count = _statistics(input.detach())
        if self.track_running_stats:
            self._update(mean, var * count / (count - 1))
        output: Tensor = _Normalise.apply(input, self.weight, self.bias, mean, var, self.eps)  # type: ignore[no-untyped-call]
        return output

    def _update(self, mean: Tensor, unbiased_var: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        weight = self.momentum if self.momentum is not None else 1 / self.num_batches_tracked
        self.running_mean.lerp_(mean, weight)
        self.running_var.lerp_(unbiased_var, weight)


@torch.compiler.disable  # type: ignore[untyped-decorator]  # its collectives end a graph
def _outside_graphs(norm: SyncNorm, input: Tensor) -> Tensor:
    return norm.over_all_ranks(input)


class _Normalise(torch.autograd.Function):
    """(x - mean) / sqrt(var + eps) * weight + bias, where mean and var are functions of all ranks' x.

    The gradient of x is that of Ioffe and Szegedy 2015 (arXiv:1502.03167, section 3), with the means over all ranks.
    Those of weight and bias are of this rank: DDP averages them with the others.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(x, weight, mean, (var + eps).rsqrt())
        return functional.batch_norm(x, mean, var, weight, bias, training=False, eps=eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale = ctx.saved_tensors
        (gradient,) = gradients
        normalised = (x.float() - _per_channel(mean)) * _per_channel(scale)
        own = torch.stack([gradient.float().sum((0, 2, 3)), (gradient.float() * normalised).sum((0, 2, 3))])
        means = own.clone()
        dist.all_reduce(means)
        means /= _count(x)
        inner = gradient.float() - _per_channel(means[0]) - normalised * _per_channel(means[1])
        return (inner * _per_channel(scale * weight)).to(x.dtype), own[1], own[0], None, None, None


def sync_norms(model: nn.Module) -> None:
    """Makes each BatchNorm2d of `model` a SyncNorm; parameters, buffers and their names stay.

    Raises UserError for another kind of batch norm, such as timm's with an activation in it.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            if type(module) is not nn.BatchNorm2d or not module.affine:
                raise UserError(f"sync_norm knows BatchNorm2d only, but {name} is {type(module).__name__}")
            module.__class__ = SyncNorm  # the object stays, as in norm.py


def _statistics(x: Tensor) -> tuple[Tensor, Tensor, int]:
    """The mean and the biased variance of all ranks' x together, float32 [C], and the values of a channel.

    From each rank's moments about its own mean, so that float64 is needed for their sums only: see precise_bn.py.
    """
    var, mean = torch.var_mean(x.float(), dim=(0, 2, 3), correction=0)
    var, mean = var.double(), mean.double()
    sums = torch.stack([mean, var + mean.square()])
    dist.all_reduce(sums)
    mean, squares = sums / dist.get_world_size()
    return mean.float(), (squares - mean.square()).clamp(min=0).float(), _count(x)


def _count(x: Tensor) -> int:
    """The values of a channel on all ranks."""
    return x.numel() // x.shape[1] * dist.get_world_size()


def _per_channel(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1)
