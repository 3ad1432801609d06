"""A convolution whose weight gradient is faster than PyTorch's: in bf16, on CPUs with matrix units (AMX).

PyTorch 2.15 (oneDNN) spends a third of a step of ResNet-20 on it, and 40 % of one of ResNet-18 (docs/experiments.md).
The kernel is in conv_kernels.py.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from trainer.cpu import amx
from trainer.cpu.eligible import is_eligible
from trainer.model.blur import BlurConv2d, blur

_CHANNELS = 16  # that one multiplication of the matrix units takes


class FastConv2d(nn.Conv2d):
    """Its values are nn.Conv2d's. The gradient of its weights is our kernel's, and is not rounded to bfloat16.

    It cannot be differentiated a second time.
    """

    _replaced_by_cpu_kernels = "Conv2d"

    def forward(self, x: Tensor) -> Tensor:
        return convolve(self, x)


class FastBlurConv2d(BlurConv2d):
    _replaced_by_cpu_kernels = "BlurConv2d"

    def forward(self, x: Tensor) -> Tensor:
        return convolve(self, blur(x, self.blur_filter))


CLASSES: dict[type[nn.Module], type[nn.Module]] = {nn.Conv2d: FastConv2d, BlurConv2d: FastBlurConv2d}


def can_accelerate(conv: nn.Conv2d) -> bool:
    """Whether the kernel is made for such a convolution, and for this CPU.

    It is for square, odd kernels larger than 1x1 (for 1x1 PyTorch's is as fast, or faster), padded by half their
    size, without bias, groups or dilation, and for channels that are multiples of 16.
    """
    size, stride = conv.kernel_size[0], conv.stride[0]
    return (
        conv.kernel_size == (size, size)
        and size > 1
        and size % 2 == 1
        and conv.stride == (stride, stride)
        and conv.padding == (size // 2, size // 2)
        and conv.padding_mode == "zeros"
        and conv.dilation == (1, 1)
        and conv.groups == 1
        and conv.bias is None
        and conv.in_channels % _CHANNELS == conv.out_channels % _CHANNELS == 0
        and _has_matrix_units()
    )


def convolve(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """nn.Conv2d's forward, with our weight gradient under bf16's autocast, for channels-last images on a CPU."""
    if _is_for(conv, x):
        return _Convolve.apply(x, conv.weight, conv.stride[0])  # type: ignore[no-any-return, no-untyped-call]
    return nn.Conv2d.forward(conv, x)


def _is_for(conv: nn.Conv2d, x: Tensor) -> bool:
    return (
        torch.is_grad_enabled()
        and conv.weight.requires_grad
        and conv.weight.dtype == torch.float32
        and is_eligible(x)
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == x.dtype
    )


@cache
def _has_matrix_units() -> bool:
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
        from trainer.cpu.conv_kernels import weight_gradient  # compiles for matrix units, which a CPU has to have

        x, weight = ctx.saved_tensors
        kernel_size, stride = weight.shape[-1], ctx.stride
        # hooks on saved tensors, and whatever computed dy, may have changed the memory format
        x, dy = (images.contiguous(memory_format=torch.channels_last) for images in (x, dy))
        dx = None
        if ctx.needs_input_grad[0]:
            geometry = [stride] * 2, [kernel_size // 2] * 2, [1, 1], False, [0, 0], 1
            dx = torch.ops.aten.convolution_backward(dy, x, weight, None, *geometry, [True, False, False])[0]
        return dx, weight_gradient(x, dy, kernel_size, stride, torch.get_num_threads()), None
