"""Where kernels of our own, compiled by Numba, take the place of PyTorch's operations on a CPU."""

from __future__ import annotations

import ctypes
from functools import cache

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode


def takes_kernels(x: Tensor) -> bool:
    """Whether images x [N, C, H, W] are what they are for: bfloat16 and channels-last, in a CPU's memory.

    torch.compile, and modes that count operations or do without memory, see PyTorch's own.
    """
    return (
        x.dtype == torch.bfloat16
        and x.device.type == "cpu"
        and type(x) is Tensor
        and not torch.compiler.is_compiling()
        and not is_in_torch_dispatch_mode()
        and x.numel() > 0
        and x.is_contiguous(memory_format=torch.channels_last)
        and _has_gnu_openmp()
    )


@cache
def _has_gnu_openmp() -> bool:
    """Whether PyTorch's threads are GNU OpenMP's; elsewhere they are LLVM's or none."""
    return hasattr(ctypes.CDLL(None), "GOMP_parallel")
