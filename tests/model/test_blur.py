"""Blur comes before the strides, as FFCV and Composer define it, and leaves every name in the state_dict as it was."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision import models

from trainer import recipe
from trainer.errors import UserError
from trainer.model import build_model
from trainer.model.blur import BlurConv2d, BlurMaxPool2d, binomial_filter, blur

STRIDED = {18: 6, 34: 6, 50: 6, 101: 6, 152: 6}  # a stage after the first has two: its first block's and its shortcut's


def build(blur_pool: str | None, depth: int = 18, **settings: Any) -> nn.Module:
    torch.manual_seed(0)
    return build_model(recipe.ResNet(depth=cast(Any, depth), blur_pool=cast(Any, blur_pool), **settings), 10)


def images(size: int, count: int = 2, channels: int = 3) -> Tensor:
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(1))


def summed(x: Tensor, stride: int = 1) -> Tensor:
    """The filter in float64 as nine shifted images, with zeros around them."""
    height, width = x.shape[2:]
    padded = functional.pad(x.double(), (1, 1, 1, 1))
    weights = (0.25, 0.5, 0.25)
    total = torch.zeros_like(x, dtype=torch.float64)
    for row in range(3):
        for column in range(3):
            total += weights[row] * weights[column] * padded[:, :, row : row + height, column : column + width]
    return total[:, :, ::stride, ::stride]


@pytest.mark.parametrize("size", [1, 2, 7, 8])
@pytest.mark.parametrize("stride", [1, 2])
def test_filter_is_the_binomial_sum_over_nine_neighbours(size: int, stride: int) -> None:
    x = images(size, channels=5)
    torch.testing.assert_close(blur(x, binomial_filter(5), stride).double(), summed(x, stride), rtol=1e-6, atol=1e-6)


def test_filter_removes_the_finest_pattern_and_keeps_a_constant() -> None:
    board = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(1, 16, 4, 4)
    inside = blur(board, binomial_filter(16))[:, :, 1:-1, 1:-1]
    assert torch.equal(inside, torch.zeros_like(inside))
    constant = blur(torch.full((1, 16, 8, 8), 3.0), binomial_filter(16))
    assert torch.equal(constant[:, :, 1:-1, 1:-1], torch.full((1, 16, 6, 6), 3.0))


@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize("size", [8, 9])
def test_blurred_convolution_is_the_filter_and_then_the_convolution(size: int, kernel_size: int) -> None:
    conv = BlurConv2d(16, 8, kernel_size, 2)
    x = images(size, channels=16)
    expected = functional.conv2d(summed(x), conv.weight.double(), stride=2, padding=kernel_size // 2)
    torch.testing.assert_close(conv(x).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [7, 8])
def test_blurred_max_pool_is_the_maximum_and_then_the_filter_at_stride_2(size: int) -> None:
    x = images(size, channels=4)
    padded = functional.pad(x, (1, 1, 1, 1), value=float("-inf"))
    maxima = padded.unfold(2, 3, 1).unfold(3, 3, 1).amax(dim=(4, 5))
    found = BlurMaxPool2d(4)(x)
    assert found.shape == functional.max_pool2d(x, kernel_size=3, stride=2, padding=1).shape
    torch.testing.assert_close(found.double(), summed(maxima, 2), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("depth", STRIDED)
def test_blur_every_strided_convolution_but_the_stems_is_blurred(depth: int) -> None:
    assert len(STRIDED) == 5
    with torch.device("meta"):
        model = build("convs", depth)
    strided = {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and max(m.stride) > 1}
    blurred = [name for name, module in strided.items() if isinstance(module, BlurConv2d)]
    assert len(blurred) == STRIDED[depth]
    assert blurred == [name for name, module in strided.items() if module.in_channels >= 16]  # FFCV's condition
    assert set(strided) - set(blurred) == {"conv1"}
    inner = "conv1" if depth < 50 else "conv2"
    assert blurred[:2] == [f"layer2.0.{inner}", "layer2.0.downsample.0"]
    assert sum(isinstance(module, BlurConv2d) for module in model.modules()) == STRIDED[depth]


@pytest.mark.slow
def test_max_pool_is_blurred_where_composer_is_asked_for() -> None:
    kinds = {name: type(build(name).get_submodule("maxpool")) for name in ("convs", "convs_and_pool")}
    assert kinds == {"convs": nn.MaxPool2d, "convs_and_pool": BlurMaxPool2d}
    assert type(build("convs_and_pool", stem="cifar").get_submodule("maxpool")) is nn.Identity


@pytest.mark.slow
@pytest.mark.parametrize("blur_pool", ["convs", "convs_and_pool"])
def test_torchvisions_weights_go_both_ways_and_mean_something_else(blur_pool: str) -> None:
    theirs = models.resnet18(num_classes=10).eval()
    ours = build(blur_pool).eval()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict(), strict=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    with torch.inference_mode():
        assert not torch.allclose(ours(images(40)), theirs(images(40)), rtol=0.01)


@pytest.mark.slow
def test_seed_gives_the_same_weights_with_and_without_blur() -> None:
    plain = build(None)
    for blur_pool in ("convs", "convs_and_pool"):
        assert all(map(torch.equal, build(blur_pool).parameters(), plain.parameters()))


@pytest.mark.slow
def test_blurred_network_is_torchvisions_with_ffcvs_surgery() -> None:
    """Every strided convolution of torchvision's network gets a filter in front, by a hook on its input."""
    theirs = models.resnet50(num_classes=10).eval()
    ours = build("convs", 50).eval()
    ours.load_state_dict(theirs.state_dict())
    hooked = 0
    for module in theirs.modules():
        if isinstance(module, nn.Conv2d) and max(module.stride) > 1 and module.in_channels >= 16:
            module.register_forward_pre_hook(lambda _module, args: (summed(args[0]).float(),))
            hooked += 1
    assert hooked == 6
    with torch.inference_mode():
        torch.testing.assert_close(ours(images(64)), theirs(images(64)), rtol=1e-4, atol=1e-4)


def test_blur_stays_channels_last_and_in_bf16_under_autocast() -> None:
    conv = BlurConv2d(16, 8, 3, 2).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    pool = BlurMaxPool2d(16).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = images(8, channels=16).to(memory_format=torch.channels_last)
    for module in (conv, pool):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = module(x)
        assert out.dtype == torch.bfloat16
        assert out.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(out.float(), module(x), rtol=0.02, atol=0.02)
    assert torch.equal(binomial_filter(3).bfloat16().float(), binomial_filter(3))


@pytest.mark.slow
def test_blur_every_parameter_of_a_blurred_network_gets_a_gradient() -> None:
    model = build("convs_and_pool", 50)
    functional.cross_entropy(model(images(32)), torch.tensor([0, 1])).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


def test_blur_different_kind_of_blur_is_refused() -> None:
    with pytest.raises(UserError, match=r"model\.blur_pool='pool' is neither 'convs' nor 'convs_and_pool'"):
        build("pool")
