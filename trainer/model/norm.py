"""Batch normalisation over a part of the micro-batch, where a device holds more images than a norm should see."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class GhostBatchNorm2d(nn.BatchNorm2d):
    """A BatchNorm2d that normalises each group of `norm_batch_size` consecutive images by itself while training.

    Hoffer et al. 2017 (arXiv:1705.08741) call it ghost batch normalisation. [N, C, H, W] -> [N, C, H, W], in the memory
    format of the input. In training the running statistics take one step per group, in order, as they would in
    micro-batches of that size. Raises ValueError for a batch that groups do not fill: a smaller group would normalise
    by statistics that the recipe does not know. Evaluation is BatchNorm2d's.
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
        if _writes_groups(self, input):
            output: Tensor = _NormaliseGroups.apply(input, self.weight, self.bias, self)  # type: ignore[no-untyped-call]
            return output
        return torch.cat([normalise(group) for group in input.split(self.norm_batch_size)])


def _writes_groups(norm: GhostBatchNorm2d, input: Tensor) -> bool:
    """Whether _NormaliseGroups computes what BatchNorm2d would for each group.

    Torch gives fp32 and fp16 on a GPU to cuDNN, and timm's norms do more. torch.compile removes the copies by itself.
    """
    return (
        not torch.compiler.is_compiling()
        and type(norm).__mro__[1] is nn.BatchNorm2d
        and (input.dtype == torch.bfloat16 if input.is_cuda else input.device.type == "cpu")
        and input.dtype in (torch.float32, torch.bfloat16)
        and norm.affine
        and norm.weight.dtype == torch.float32
        and norm.track_running_stats
        and norm.running_mean is not None
        and norm.momentum is not None
        and (input.is_contiguous() or input.is_contiguous(memory_format=torch.channels_last))
    )


class _NormaliseGroups(torch.autograd.Function):
    """(x, weight, bias, norm) -> each group of x normalised by itself, written to its place in one output.

    The kernels are BatchNorm2d's own, and so are all values. torch.cat would copy the output once more.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, norm: GhostBatchNorm2d) -> Tensor:
        size, groups = norm.norm_batch_size, len(x) // norm.norm_batch_size
        output, moments = torch.empty_like(x), x.new_empty(2 * groups, x.shape[1], dtype=torch.float32)
        means, invstds = _halves(moments)
        assert norm.momentum is not None
        for group, *out in zip(x.split(size), output.split(size), means, invstds, strict=True):
            torch.native_batch_norm(
                group, weight, bias, norm.running_mean, norm.running_var, True, norm.momentum, norm.eps, out=out
            )
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked += groups
        ctx.save_for_backward(x, weight, moments)
        ctx.size, ctx.eps = size, norm.eps
        return output

    @staticmethod
    @once_differentiable  # type: ignore[misc]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, moments = ctx.saved_tensors
        wanted = list(ctx.needs_input_grad[:3])
        groups = zip(gradient.split(ctx.size), x.split(ctx.size), *_halves(moments), strict=True)
        of_groups = [
            torch.ops.aten.native_batch_norm_backward(dy, group, weight, None, None, *saved, True, ctx.eps, wanted)
            for dy, group, *saved in groups
        ]
        dx, dweight, dbias = zip(*of_groups, strict=True)
        return (
            torch.cat(dx) if wanted[0] else None,
            sum(dweight[-2::-1], dweight[-1]) if wanted[1] else None,  # from the last group on, as autograd adds
            sum(dbias[-2::-1], dbias[-1]) if wanted[2] else None,
            None,
        )


def _halves(moments: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The rows of the first half and those of the second: means and inverse deviations of the groups."""
    rows = moments.unbind()
    return rows[: len(rows) // 2], rows[len(rows) // 2 :]


def convert_ghost_batchnorm(model: nn.Module, norm_batch_size: int) -> None:
    """Makes each BatchNorm2d of `model` compute its statistics over groups of `norm_batch_size` images.

    Goyal et al. 2017 (arXiv:1706.02677, section 2.3) keep n = 32 images per norm whatever the batch. Parameters,
    buffers and their names stay, and every norm is still a BatchNorm2d. Raises ValueError for a size below 1.
    """
    if norm_batch_size < 1:
        raise ValueError(f"norm_batch_size={norm_batch_size} is not a positive number")
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    ghost = {kind: _ghost_class(kind) for kind in {type(norm) for norm in norms}}
    for norm in norms:
        # The class changes and the object stays, as in torch.nn.utils.parametrize: a new object would need every
        # attribute and hook that a library has given its own.
        norm.__class__ = ghost[type(norm)]
        assert isinstance(norm, GhostBatchNorm2d)
        norm.norm_batch_size = norm_batch_size


def _ghost_class(norm: type[nn.BatchNorm2d]) -> type[GhostBatchNorm2d]:
    """GhostBatchNorm2d around any kind of BatchNorm2d: timm's has an activation in it."""
    if issubclass(norm, GhostBatchNorm2d):
        return norm
    return GhostBatchNorm2d if norm is nn.BatchNorm2d else type(f"Ghost{norm.__name__}", (GhostBatchNorm2d, norm), {})
