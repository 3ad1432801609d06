"""Makes a built model train faster in bf16 on a CPU, by replacing the forward passes of some of its modules.

Torchtitan and Composer change models the same way: from outside, so that the model reads as its paper does.
"""

from __future__ import annotations

import ctypes
import sys
from collections import Counter

from torch import nn

REPLACED = "_replaced_by_cpu_kernels"  # on a replacement: the name of the class it stands for


def accelerate(model: nn.Module) -> str:
    """Replaces forward passes in `model`, in place, and returns a line for the log: what was replaced, or why nothing.

    Replaced are our blocks and networks, torchvision's ResNets, and on CPUs with matrix units every nn.Conv2d that
    conv.py can serve. A module's class changes and the object stays: parameters, names, hooks and the state_dict are
    as before. Only training in bf16, on a CPU and channels-last, takes the kernels; everything else, evaluation
    included, is computed as before. Needs Numba and a PyTorch that uses GNU OpenMP.
    """
    if not _has_gnu_openmp():
        return "note: bf16 trains more slowly without CPU kernels, which need a PyTorch with GNU OpenMP"
    try:
        from trainer.cpu import blocks, conv
    except ImportError as error:
        return (
            f"note: bf16 trains more slowly without CPU kernels, which need Numba ({error}): pip install 'numba>=0.61'"
        )
    classes = blocks.CLASSES | conv.CLASSES
    if "torchvision.models.resnet" in sys.modules:  # else no module of the model can be torchvision's
        from trainer.cpu import torchvision_blocks

        classes |= torchvision_blocks.CLASSES
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and not conv.can_accelerate(module):
            continue
        if type(module) in classes:
            module.__class__ = classes[type(module)]
    found = replaced(model)
    if not found:
        return "note: no CPU kernels for bf16: none fits a layer of this model"
    return f"CPU kernels for bf16: {', '.join(f'{count} {name}' for name, count in found.items())}"


def replaced(model: nn.Module) -> dict[str, int]:
    """How many modules of `model` run our kernels, by the name of the class they had before; empty for none."""
    names = (getattr(type(module), REPLACED, None) for module in model.modules())
    return dict(sorted(Counter(name for name in names if name is not None).items()))


def _has_gnu_openmp() -> bool:
    """Whether PyTorch's threads are GNU OpenMP's; in other builds they are LLVM's, or there are none."""
    return hasattr(ctypes.CDLL(None), "GOMP_parallel")
