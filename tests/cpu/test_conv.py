"""The gradient of convolutions' weights by matrix units: float64's but for float32's rounding, on any threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from numba import njit
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from tests.support.matrix_units import HAS_UNITS, pretend_matrix_units
from trainer import recipe
from trainer.cpu import conv as convolution
from trainer.cpu.accelerate import accelerate
from trainer.cpu.conv import FastConv2d
from trainer.model import build_model

OURS = "_ConvolveBackward"
has_units = pytest.mark.skipif(not HAS_UNITS, reason="this CPU has no bfloat16 matrix units")

# channels of x and dy, kernel size, stride, images, height, width
SHAPES = [
    (16, 16, 3, 1, 4, 8, 8),  # CIFAR's, small
    (16, 32, 3, 2, 3, 9, 7),  # an odd number of images: the last one has no other; odd sides, four phases
    (16, 16, 3, 2, 2, 8, 8),  # even sides: the last row and column of two phases
    (32, 16, 3, 3, 2, 11, 8),
    (16, 48, 5, 1, 1, 6, 5),
    (16, 16, 7, 2, 2, 5, 4),  # a kernel larger than the image
    (16, 16, 3, 1, 2, 1, 1),
    (16, 16, 3, 2, 70, 3, 3),  # several pairs of images for each of the sums
    (144, 160, 3, 1, 3, 5, 4),  # blocks of unequal size
    (272, 16, 3, 2, 2, 6, 6),
]


def random(*shape: int, seed: int) -> Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return values.to(torch.bfloat16).contiguous(memory_format=torch.channels_last)


def convolution_of(channels: int, dy_channels: int, kernel_size: int = 3, stride: int = 1, **others: Any) -> nn.Conv2d:
    """Accelerated where that is possible."""
    if "padding" not in others:
        others["padding"] = kernel_size // 2
    others = {"bias": False, **others}
    conv = nn.Conv2d(channels, dy_channels, kernel_size, stride, **others).to(memory_format=torch.channels_last)
    accelerate(conv)
    with torch.no_grad():
        conv.weight.copy_(torch.randn(conv.weight.shape, generator=torch.Generator().manual_seed(3)))
    return conv


def forward(conv: nn.Module, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        y: Tensor = conv(x)
    return y


def exact_gradient(conv: nn.Conv2d, x: Tensor, dy: Tensor) -> Tensor:
    weight = conv.weight.detach().double().requires_grad_()
    nn.functional.conv2d(x.detach().double(), weight, None, conv.stride, conv.padding).backward(dy.double())
    assert weight.grad is not None
    return weight.grad


def gradient(conv: nn.Conv2d, x: Tensor, dy: Tensor) -> Tensor:
    conv.weight.grad = None
    y = forward(conv, x)
    assert is_ours(y)
    y.backward(dy)
    assert conv.weight.grad is not None
    return conv.weight.grad


def is_ours(y: Tensor) -> bool:
    return y.grad_fn is not None and OURS in y.grad_fn.name()


@pytest.fixture
def packed_bytes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    from trainer.cpu import conv_kernels as kernels

    def set_to(number: int) -> None:
        monkeypatch.setattr(kernels, "_PACKED_BYTES", number)
        kernels._plan.cache_clear()

    yield set_to
    kernels._plan.cache_clear()


@has_units
@pytest.mark.parametrize("memory", [1 << 20, 40_000, 1])  # all at once; some images; bands of one row
@pytest.mark.parametrize(("channels", "dy_channels", "kernel_size", "stride", "images", "height", "width"), SHAPES)
def test_gradients_are_those_in_float64(
    packed_bytes: Callable[[int], None], memory: int, channels: int, dy_channels: int, kernel_size: int, stride: int,
    images: int, height: int, width: int,
) -> None:  # fmt: skip
    packed_bytes(memory)
    conv = convolution_of(channels, dy_channels, kernel_size, stride)
    x = random(images, channels, height, width, seed=1).requires_grad_()
    dy = random(*forward(conv, x).shape, seed=2)
    found, exact = gradient(conv, x, dy), exact_gradient(conv, x, dy)
    assert found.dtype == torch.float32 and found.stride() == conv.weight.stride()
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=2e-6 * float(exact.abs().max()))


@has_units
@pytest.mark.parametrize("stride", [1, 2])
def test_conv_values_and_the_gradient_of_images_are_those_of_pytorchs_bit_for_bit(stride: int) -> None:
    conv = convolution_of(32, 48, stride=stride)
    x = random(3, 32, 10, 9, seed=1)
    dy = random(*forward(conv, x).shape, seed=2)
    found = []
    for kind in (FastConv2d.forward, nn.Conv2d.forward):
        leaf = x.clone().requires_grad_()
        with patch.object(FastConv2d, "forward", kind):
            y = forward(conv, leaf)
        assert is_ours(y) == (kind is FastConv2d.forward)
        y.backward(dy)
        found.append((y.detach(), leaf.grad))
    (y, dx), (pytorch_y, pytorch_dx) = found
    assert dx is not None and pytorch_dx is not None
    assert torch.equal(y, pytorch_y) and torch.equal(dx, pytorch_dx)


@has_units
@pytest.mark.parametrize("memory", [1 << 20, 1])
def test_conv_every_number_of_threads_computes_the_same_bits(
    packed_bytes: Callable[[int], None], threads: Callable[[int], None], memory: int
) -> None:
    packed_bytes(memory)
    conv, x, dy = convolution_of(144, 32), random(12, 144, 6, 6, seed=1), random(12, 32, 6, 6, seed=2)
    found = []
    for number in (1, 2, 3, 40):
        threads(number)
        found.append(gradient(conv, x, dy))
    assert all(torch.equal(one, found[0]) for one in found)


@has_units
def test_scratch_memory_that_others_have_written_changes_nothing() -> None:
    """It is not cleared by whoever had it before: a large gradient of other shapes, full of what is not a number."""
    conv, x, dy = convolution_of(16, 16), random(5, 16, 7, 7, seed=1), random(5, 16, 7, 7, seed=2)
    before = gradient(conv, x, dy).clone()
    for channels in (16, 64):
        other = torch.full_like(random(8, channels, 9, 9, seed=3), float("nan"))
        assert gradient(convolution_of(channels, channels), other, other).isnan().all()
        assert torch.equal(gradient(conv, x, dy), before)


@has_units
def test_matrix_unit_is_left_as_it_was(threads: Callable[[int], None]) -> None:
    """oneDNN need not tell it again what it told it last."""
    from trainer.cpu import amx
    from trainer.cpu.conv_kernels import weight_gradient

    @njit  # type: ignore[untyped-decorator]
    def configure(to: np.ndarray) -> None:
        amx.configure(to.ctypes.data)
        to[0] = to[0]  # else Numba frees it before it is read

    @njit  # type: ignore[untyped-decorator]
    def read(to: np.ndarray) -> None:
        amx.read_configuration(to.ctypes.data)
        to[0] = to[0]

    threads(1)
    found, other = np.ones(64, np.uint8), amx.CONFIGURATION.copy()
    other[48:56] = 8  # rows
    x, dy = random(2, 16, 4, 4, seed=1), random(2, 16, 4, 4, seed=2)
    for told in (other, np.zeros(64, np.uint8)):
        configure(told)
        weight_gradient(x, dy, 3, 1, 1)
        read(found)
        assert found.tolist() == told.tolist()


@has_units
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_conv_different_default_dtype_changes_nothing(dtype: torch.dtype) -> None:
    conv, x, dy = convolution_of(16, 32), random(3, 16, 6, 6, seed=1), random(3, 32, 6, 6, seed=2)
    before = gradient(conv, x, dy).clone()
    torch.set_default_dtype(dtype)
    try:
        assert torch.equal(gradient(conv, x, dy), before)
    finally:
        torch.set_default_dtype(torch.float32)


@has_units
def test_saved_tensors_may_come_back_in_a_different_memory_format() -> None:
    conv, x, dy = convolution_of(16, 32), random(3, 16, 6, 6, seed=1), random(3, 32, 6, 6, seed=2)
    before = gradient(conv, x, dy).clone()
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor.contiguous()):
        assert torch.equal(gradient(conv, x, dy), before)


@has_units
def test_gradients_accumulate_over_micro_batches() -> None:
    conv, x, dy = convolution_of(16, 32), random(4, 16, 8, 8, seed=1), random(4, 32, 8, 8, seed=2)
    exact = exact_gradient(conv, x, dy)
    for part in (slice(0, 2), slice(2, 4)):
        forward(conv, x[part]).backward(dy[part])
    assert conv.weight.grad is not None
    torch.testing.assert_close(conv.weight.grad.double(), exact, rtol=1e-5, atol=2e-6 * float(exact.abs().max()))


@pytest.mark.slow
def test_conv_every_3x3_convolution_of_a_network_but_the_first_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_matrix_units(monkeypatch)
    for spec, expected in (
        (recipe.CifarResNet(depth=20), 18),
        (recipe.ResNet(depth=18), 16),
        (recipe.ResNet(depth=50), 16),
        (recipe.ResNet(depth=18, blur_pool="convs"), 16),
    ):
        model = build_model(spec, 10).to(memory_format=torch.channels_last)
        accelerate(model)
        images = torch.randn(2, 3, 32, 32).contiguous(memory_format=torch.channels_last)
        nodes, found = [forward(model, images).grad_fn], set()
        while nodes:
            node = nodes.pop()
            if node is not None and node not in found:
                found.add(node)
                nodes += [following for following, _ in node.next_functions]
        assert sum(OURS in node.name() for node in found) == expected


class Subclass(nn.Conv2d):
    """Nobody knows what it computes."""


ORDINARY = (
    "float32 images", "frozen weights", "weights in bfloat16", "a 1x1 kernel", "a 4x4 kernel", "3 channels",
    "24 channels out", "contiguous images", "no images", "an oblong kernel", "an oblong stride", "other padding",
    "reflected padding", "dilation", "groups", "a bias", "a subclass",
)  # fmt: skip


def ordinary(name: str) -> tuple[nn.Conv2d, Tensor]:
    """A case for which the gradient is not ours."""
    conv, x = convolution_of(16, 16), random(2, 16, 6, 6, seed=1)
    match name:
        case "float32 images":
            x = x.float()
        case "frozen weights":
            conv.weight.requires_grad_(False)
        case "weights in bfloat16":
            conv.bfloat16()
        case "a 1x1 kernel":
            conv = convolution_of(16, 16, 1)
        case "a 4x4 kernel":
            conv = convolution_of(16, 16, 4)
        case "3 channels":
            conv, x = convolution_of(3, 16), random(2, 3, 6, 6, seed=1)
        case "24 channels out":
            conv = convolution_of(16, 24)
        case "contiguous images":
            x = x.contiguous()
        case "no images":
            x = x[:0]
        case "an oblong kernel":
            conv = convolution_of(16, 16, (3, 1), padding=1)  # type: ignore[arg-type]
        case "an oblong stride":
            conv = convolution_of(16, 16, 3, (1, 2))  # type: ignore[arg-type]
        case "other padding":
            conv = convolution_of(16, 16, padding=0)
        case "reflected padding":
            conv = convolution_of(16, 16, padding_mode="reflect")
        case "dilation":
            conv = convolution_of(16, 16, dilation=2)
        case "groups":
            conv = convolution_of(16, 16, groups=2)
        case "a bias":
            conv = convolution_of(16, 16, bias=True)
        case "a subclass":
            conv = Subclass(16, 16, 3, padding=1, bias=False)
            accelerate(conv)
    return conv, x


@pytest.mark.parametrize("name", ORDINARY)
def test_conv_it_is_pytorchs_convolution_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_matrix_units(monkeypatch)
    assert is_ours(forward(convolution_of(16, 16), random(2, 16, 6, 6, seed=1)))
    conv, x = ordinary(name)
    x = x.requires_grad_()
    y = conv(x) if name == "float32 images" else forward(conv, x)
    assert y.grad_fn is not None and not is_ours(y)
    y.sum().backward()
    assert conv.weight.grad is not None or not conv.weight.requires_grad


def test_conv_it_is_pytorchs_without_gradients_and_without_matrix_units(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_matrix_units(monkeypatch)
    conv, x, dy = convolution_of(16, 16), random(2, 16, 6, 6, seed=1), random(2, 16, 6, 6, seed=2)
    with torch.no_grad():
        assert forward(conv, x).grad_fn is None
    assert is_ours(forward(conv, x))
    monkeypatch.setattr(convolution, "_has_matrix_units", lambda: False)
    conv = convolution_of(16, 16)
    assert type(conv) is nn.Conv2d
    y = forward(conv, x)
    assert y.grad_fn is not None and not is_ours(y)
    y.backward(dy)
    assert conv.weight.grad is not None
    exact = exact_gradient(conv, x, dy)
    torch.testing.assert_close(conv.weight.grad.double(), exact, rtol=2**-8, atol=2**-8 * float(exact.abs().max()))


@pytest.mark.slow
def test_torch_compile_fake_tensors_and_who_counts_operations_see_pytorchs(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_matrix_units(monkeypatch)
    conv, x = convolution_of(16, 16), random(2, 16, 6, 6, seed=1)
    assert is_ours(forward(conv, x))
    with FlopCounterMode(display=False) as counter:
        forward(conv, x).sum().backward()
    assert counter.get_total_flops() == 2 * 2 * (2 * 16 * 6 * 6 * 16 * 9)  # images have no gradient
    y = forward(torch.compile(conv, backend="eager", fullgraph=True), x)
    assert not is_ours(y)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert not is_ours(forward(conv, mode.from_tensor(x)))


@has_units
@pytest.mark.parametrize("reason", ["CPU_NAME", "CPU_FEATURES", "another architecture", "another CPU", "not allowed"])
def test_matrix_units_are_left_alone_where_numba_the_cpu_or_the_system_has_none(
    monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    from trainer.cpu import amx

    features = {**amx.binding.get_host_cpu_features(), "amx-bf16": False}
    match reason:
        case "another architecture":
            monkeypatch.setattr(amx.platform, "machine", lambda: "aarch64")
        case "another CPU":
            monkeypatch.setattr(amx.binding, "get_host_cpu_features", lambda: features)
        case "not allowed":
            monkeypatch.setattr(amx, "_REQUEST_PERMISSION", -1)
        case setting:
            monkeypatch.setattr(amx.config, setting, "other")
    amx.is_available.cache_clear()
    assert not amx.is_available()
    monkeypatch.undo()
    amx.is_available.cache_clear()
    assert amx.is_available()
