"""A convolution whose weights get their gradient faster than PyTorch's: in bf16, on CPUs with matrix units.

PyTorch 2.15 (oneDNN) spends a third of a step of ResNet-20 and 40 % of one of ResNet-18 on it (docs/performance.md).
What is compiled here is in weight_gradient_kernels.py.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from trainer.model.cpu_kernels import takes_kernels

_CHANNELS = 16  # that a multiplication of the matrix units takes


class Convolution(nn.Conv2d):
    """A square convolution without bias, padded by half of its kernel. Its values are nn.Conv2d's.

    Under bf16's autocast on a CPU with matrix units the gradient of its weights is our own, and is not rounded to
    bfloat16: where kernels are odd and larger than 1x1, channels multiples of 16, and images channels-last. It cannot
    be differentiated a second time.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if _is_for(self, x):
            return _Convolve.apply(x, self.weight, self.stride[0])  # type: ignore[no-any-return, no-untyped-call]
        return super().forward(x)


def _is_for(conv: Convolution, x: Tensor) -> bool:
    return (
        torch.is_grad_enabled()
        and conv.weight.requires_grad
        and conv.weight.dtype == torch.float32
        and takes_kernels(x)
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == x.dtype
        and conv.kernel_size[0] > 1  # of 1x1 PyTorch's is as fast, or faster
        and conv.kernel_size[0] % 2 == 1
        and conv.in_channels % _CHANNELS == conv.out_channels % _CHANNELS == 0
        and _has_matrix_units()
    )


@cache
def _has_matrix_units() -> bool:
    from trainer.model import amx  # loads Numba

    return amx.is_available()


class _Convolve(torch.autograd.Function):
    """(x [N, C, H, W] bfloat16, weight [K, C, k, k] float32, stride) -> [N, K, H', W'] bfloat16."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        narrow = weight.to(x.dtype)
        ctx.save_for_backward(x, narrow)
        ctx.stride = stride
        return functional.conv2d(x, narrow, stride=stride, padding=weight.shape[-1] // 2)

    @staticmethod
    @once_differentiable  # type: ignore[misc]
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        from trainer.model.weight_gradient_kernels import weight_gradient

        x, weight = ctx.saved_tensors
        kernel_size, stride = weight.shape[-1], ctx.stride
        # neither a hook on saved tensors nor what comes behind need have kept the memory format
        x, dy = (images.contiguous(memory_format=torch.channels_last) for images in (x, dy))
        dx = None
        if ctx.needs_input_grad[0]:
            geometry = [stride] * 2, [kernel_size // 2] * 2, [1, 1], False, [0, 0], 1
            dx = torch.ops.aten.convolution_backward(dy, x, weight, None, *geometry, [True, False, False])[0]
        return dx, weight_gradient(x, dy, kernel_size, stride, torch.get_num_threads()), None
