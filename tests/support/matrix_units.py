"""CPUs without matrix units stand in for one that has them: the kernel is PyTorch's own gradient in float32."""

import sys
from types import ModuleType

import pytest
import torch
from torch import Tensor

from trainer.cpu import conv

HAS_UNITS = conv._has_matrix_units()


def weight_gradient(x: Tensor, dy: Tensor, kernel_size: int, stride: int, threads: int) -> Tensor:
    assert threads == torch.get_num_threads()
    shape = dy.shape[1], x.shape[1], kernel_size, kernel_size
    with torch.autocast("cpu", enabled=False):
        found: Tensor = torch.nn.grad.conv2d_weight(x.float(), shape, dy.float(), stride, kernel_size // 2)  # type: ignore[no-untyped-call]
    return found


def pretend_matrix_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Does nothing where the CPU has them."""
    if HAS_UNITS:
        return
    module = ModuleType("trainer.cpu.conv_kernels")
    module.weight_gradient = weight_gradient  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "trainer.cpu.conv_kernels", module)
    monkeypatch.setattr(conv, "_has_matrix_units", lambda: True)
