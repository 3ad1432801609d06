"""Which tensors and modules the kernels may serve; PyTorch's own operations serve all others."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_in_torch_dispatch_mode


def is_eligible(x: Tensor) -> bool:
    """Whether images x [N, C, H, W] are bfloat16 and channels-last, in a CPU's memory.

    torch.compile, and modes that count operations or use fake tensors, see PyTorch's own operations.
    """
    return (
        x.dtype == torch.bfloat16
        and x.device.type == "cpu"
        and type(x) is Tensor
        and not torch.compiler.is_compiling()
        and not is_in_torch_dispatch_mode()
        and x.numel() > 0
        and x.is_contiguous(memory_format=torch.channels_last)
    )


def has_hooks(module: nn.Module) -> bool:
    """Whether calling `module` runs hooks of its own besides forward()."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )
