"""A norm, the sum with a shortcut and ReLU in two passes over memory, where PyTorch makes four: in bf16 on CPUs.

PyTorch 2.15 spends half of a CIFAR ResNet's step on them, as long in bf16 as in fp32 (docs/experiments.md). On a GPU
torch.compile fuses them. The kernels are in norm_kernels.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from trainer.cpu import norm_kernels as kernels
from trainer.cpu.eligible import has_hooks, is_eligible

_NOTHING = np.empty(0, np.float32)


def norm_relu(norm: nn.BatchNorm2d, relu: nn.ReLU, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
    """relu(norm(x) + shortcut): [N, C, H, W] -> [N, C, H, W], in the memory format of x.

    In training, where x is bfloat16 and channels-last, our kernel computes it and rounds to bfloat16 once instead of
    after every operation. Otherwise the modules do, and may overwrite their inputs.
    """
    if _is_for(norm, relu, x, shortcut):
        return _fused(norm, x, shortcut)
    y = norm(x)
    if shortcut is not None:
        y += shortcut  # in place: the backward pass of a norm needs its input, not its output
    out: Tensor = relu(y)
    return out


def _is_for(norm: nn.BatchNorm2d, relu: nn.ReLU, x: Tensor, shortcut: Tensor | None) -> bool:
    return (
        type(norm) is nn.BatchNorm2d  # subclasses, GhostBatchNorm2d too, compute something else
        and type(relu) is nn.ReLU
        and norm.training
        and norm.affine
        and is_eligible(x)
        and norm.weight.dtype == torch.float32
        and not has_hooks(norm)
        and not has_hooks(relu)
        and x.shape[1] == norm.num_features
        and x.numel() > norm.num_features  # else BatchNorm2d raises, because one value has no variance
        and (shortcut is None or (shortcut.dtype == x.dtype and shortcut.shape == x.shape))
    )


def _fused(norm: nn.BatchNorm2d, x: Tensor, shortcut: Tensor | None) -> Tensor:
    if shortcut is not None:
        shortcut = shortcut.contiguous(memory_format=torch.channels_last)
    out: Tensor = _NormRelu.apply(x, norm.weight, norm.bias, shortcut, norm)  # type: ignore[no-untyped-call]
    return out


class _NormRelu(torch.autograd.Function):
    """(x, weight, bias, shortcut, norm) -> relu(norm(x) + shortcut); running statistics are updated as in BatchNorm2d.

    Ioffe and Szegedy 2015 (arXiv:1502.03167), Algorithm 1 and the gradients below it.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, shortcut: Tensor | None, norm: nn.BatchNorm2d
    ) -> Tensor:
        y, per_channel = torch.empty_like(x), x.new_empty(4, x.shape[1], dtype=torch.float32)
        kernels.forward(
            _address(x), _address(shortcut), _address(y), _pixels(x), weight.detach().numpy(), bias.detach().numpy(),
            norm.eps, per_channel.numpy(), *_running(norm), torch.get_num_threads(),
        )  # fmt: skip
        ctx.save_for_backward(x, per_channel, None if shortcut is None else y)
        ctx.eps = norm.eps
        return y

    @staticmethod
    @once_differentiable  # type: ignore[misc]
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, per_channel, y = ctx.saved_tensors
        dy = dy.contiguous(memory_format=torch.channels_last)
        dx, dshortcut = torch.empty_like(x), None if y is None else torch.empty_like(x)
        dweight, dbias = per_channel.new_empty(2, x.shape[1])
        kernels.backward(
            _address(x), _address(y), _address(dy), _address(dshortcut), _address(dx), _pixels(x), per_channel.numpy(),
            ctx.eps, dweight.numpy(), dbias.numpy(), torch.get_num_threads(),
        )  # fmt: skip
        return dx, dweight, dbias, dshortcut, None


def _running(norm: nn.BatchNorm2d) -> tuple[np.ndarray, np.ndarray, float]:
    """Running mean and variance, and this batch's weight in them; without `momentum` all batches weigh the same."""
    if not norm.track_running_stats or norm.running_mean is None or norm.running_var is None:
        return _NOTHING, _NOTHING, 0.0
    momentum = norm.momentum or 0.0
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked += 1
        momentum = 1 / int(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    return norm.running_mean.numpy(), norm.running_var.numpy(), momentum


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _pixels(x: Tensor) -> int:
    return x.numel() // x.shape[1]
