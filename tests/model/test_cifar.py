"""He's CIFAR family is section 4.2 of the paper, and a plain network is its residual twin without the shortcuts."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer import recipe
from trainer.model import build_model
from trainer.model.block import Block
from trainer.model.cifar import SubsampleAndPad

DEPTHS = (18, 34, 50, 101, 152)
# Zagoruyko and Komodakis 2016 (arXiv:1605.07146), Table 4: depth 6n + 4 and width
WIDE_MILLIONS = {(40, 1): "0.6", (40, 4): "8.9", (28, 10): "36.5", (22, 8): "17.2", (16, 8): "11.0"}
CIFAR_MILLIONS = {20: "0.27", 32: "0.46", 44: "0.66", 56: "0.85", 110: "1.7", 1202: "19.4"}  # paper, Table 6
Kind = TypeVar("Kind", bound=nn.Module)


def resnet(depth: int, **settings: Any) -> recipe.ResNet:
    return recipe.ResNet(depth=cast(Any, depth), **settings)


def build(spec: recipe.ResNet | recipe.CifarResNet, num_classes: int = 10) -> nn.Module:
    torch.manual_seed(0)
    return build_model(spec, num_classes)


def images(size: int, count: int = 2) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def of_kind(model: nn.Module, kind: type[Kind]) -> list[Kind]:
    return [module for module in model.modules() if isinstance(module, kind)]


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize(("depth", "millions"), CIFAR_MILLIONS.items())
def test_cifar_networks_have_the_papers_parameter_counts(depth: int, millions: str) -> None:
    assert len(CIFAR_MILLIONS) == 6
    with torch.device("meta"):
        residual = build(recipe.CifarResNet(depth=depth))
        plain = build(recipe.CifarResNet(depth=depth, residual=False))
    assert f"{parameters(residual) / 1e6:.{len(millions.partition('.')[2])}f}" == millions
    assert parameters(plain) == parameters(residual)
    assert len(of_kind(residual, nn.Conv2d)) + 1 == depth


@pytest.mark.parametrize(("depth", "width"), WIDE_MILLIONS)
def test_wide_networks_have_the_papers_parameter_counts_but_for_stem_and_shortcuts(depth: int, width: int) -> None:
    """Theirs has 16 channels in the stem, and so fewer in the block behind it, and a 1x1 convolution at each widening:
    three, that their depth counts together with the stem and the classifier as 4."""
    assert len(WIDE_MILLIONS) == 5
    with torch.device("meta"):
        ours = parameters(build(recipe.CifarResNet(depth=depth - 2, width=width)))
        narrow = parameters(build(recipe.CifarResNet(depth=depth - 2)))
    first, second, third = 16 * width, 32 * width, 64 * width
    theirs = ours - 9 * (3 + first) * (first - 16) + 16 * first + first * second + second * third
    assert f"{theirs / 1e6:.1f}" == WIDE_MILLIONS[depth, width]
    assert ours / narrow == pytest.approx(width**2, rel=0.03)


@pytest.mark.parametrize("width", [1, 3])
def test_width_multiplies_every_number_of_channels(width: int) -> None:
    with torch.device("meta"):
        model = build(recipe.CifarResNet(depth=14, width=width))
    widths = [conv.out_channels for conv in of_kind(model, nn.Conv2d)]
    assert widths == [16 * width] * 5 + [32 * width] * 4 + [64 * width] * 4
    assert [norm.num_features for norm in of_kind(model, nn.BatchNorm2d)] == widths
    assert [(pad.before, pad.after) for pad in of_kind(model, SubsampleAndPad)] == [(8 * width,) * 2, (16 * width,) * 2]


def test_cifar_parameters_have_the_names_of_the_imagenet_family() -> None:
    with torch.device("meta"):
        names = [name for name, _ in build(recipe.CifarResNet(depth=20)).named_parameters()]
    assert names[:4] == ["conv1.weight", "bn1.weight", "bn1.bias", "layer1.0.conv1.weight"]
    assert names[-2:] == ["fc.weight", "fc.bias"]
    assert not [name for name in names if "downsample" in name]


@pytest.mark.parametrize("size", [4, 5])
def test_option_a_takes_every_second_pixel_and_puts_zeros_around_the_channels(size: int) -> None:
    x = torch.arange(2 * 4 * size * size, dtype=torch.float32).reshape(2, 4, size, size)
    y = SubsampleAndPad(4, 8)(x)
    half = (size + 1) // 2
    expected = torch.zeros(2, 8, half, half)
    for image, channel, row, column in torch.cartesian_prod(*map(torch.arange, (2, 4, half, half))).tolist():
        expected[image, channel + 2, row, column] = x[image, channel, 2 * row, 2 * column]
    assert torch.equal(y, expected)


def test_option_a_stays_channels_last_in_both_directions() -> None:
    x = torch.randn(2, 16, 5, 5).contiguous(memory_format=torch.channels_last)
    gradients = []
    (followed := x.clone().requires_grad_()).register_hook(gradients.append)
    y = SubsampleAndPad(16, 32)(followed)
    assert y.is_contiguous(memory_format=torch.channels_last)
    y.backward(weights := torch.randn_like(y))
    assert gradients[0].is_contiguous(memory_format=torch.channels_last)
    expected = torch.zeros_like(x)
    expected[:, :, ::2, ::2] = weights[:, 8:24]
    assert torch.equal(gradients[0], expected)


def written_out(weights: dict[str, Tensor], x: Tensor, blocks: int, residual: bool) -> Tensor:
    """He's CIFAR network in evaluation as section 4.2 tells it, from nothing but functions and the state_dict."""

    def conv_norm(x: Tensor, conv: str, norm: str, stride: int = 1) -> Tensor:
        x = functional.conv2d(x, weights[f"{conv}.weight"], stride=stride, padding=1)
        mean, var, gamma, beta = (weights[f"{norm}.{n}"] for n in ("running_mean", "running_var", "weight", "bias"))
        return functional.batch_norm(x, mean, var, gamma, beta, eps=1e-5)

    x = conv_norm(x, "conv1", "bn1").relu()
    for stage in (1, 2, 3):
        for block in range(blocks):
            at, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = conv_norm(x, f"{at}.conv1", f"{at}.bn1", stride).relu()
            y = conv_norm(y, f"{at}.conv2", f"{at}.bn2")
            zeros = torch.zeros(len(y), (y.shape[1] - x.shape[1]) // 2, *y.shape[2:])
            x = (y + torch.cat([zeros, x[:, :, ::stride, ::stride], zeros], dim=1) if residual else y).relu()
    return functional.linear(x.mean(dim=(2, 3)), weights["fc.weight"], weights["fc.bias"])


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize(("size", "width"), [(32, 1), (25, 1), (25, 2)])
def test_cifar_network_is_section_42_written_out(size: int, width: int, residual: bool) -> None:
    model = build(recipe.CifarResNet(depth=14, width=width, residual=residual))
    model(images(size, 8))  # moves the running statistics off their start
    model.eval()
    with torch.inference_mode():
        expected = written_out(model.state_dict(), images(size), 2, residual)
        torch.testing.assert_close(model(images(size)), expected)


@pytest.mark.parametrize("stride", [1, 2])
def test_silent_branch_leaves_the_shortcut(stride: int) -> None:
    block = next(
        block
        for block in of_kind(build(recipe.CifarResNet(depth=8, zero_init_residual=True)), Block)
        if block.get_submodule("conv1").stride == (stride, stride)
    )
    x = images(8)[:, :1].expand(2, 16, 8, 8)
    expected = x.relu() if stride == 1 else SubsampleAndPad(16, 32)(x.relu())
    assert torch.equal(block(x), expected)


# ---------------------------------------------------------------------------------------------------------- plain


@pytest.mark.slow
@pytest.mark.parametrize("depth", DEPTHS)
def test_plain_twin_lacks_the_projections_and_nothing_else(depth: int) -> None:
    with torch.device("meta"):
        residual = build(resnet(depth)).state_dict()
        plain = build(resnet(depth, residual=False)).state_dict()
    assert list(plain) == [name for name in residual if "downsample" not in name]
    assert len(residual) - len(plain) == (18 if depth < 50 else 24)  # conv and norm in 3 or 4 shortcuts


@pytest.mark.slow
@pytest.mark.parametrize(
    ("residual", "plain"),
    [
        (recipe.CifarResNet(depth=20), recipe.CifarResNet(depth=20, residual=False)),
        (recipe.ResNet(depth=18), recipe.ResNet(depth=18, residual=False)),
    ],
)
def test_plain_twin_with_the_same_weights_computes_something_else(
    residual: recipe.ResNet | recipe.CifarResNet, plain: recipe.ResNet | recipe.CifarResNet
) -> None:
    first, second = build(residual).eval(), build(plain).eval()
    second.load_state_dict(first.state_dict(), strict=False)
    assert all(block.downsample is None for block in of_kind(second, Block))
    with torch.inference_mode():
        assert not torch.allclose(first(images(32)), second(images(32)), rtol=0.1)


def test_zero_init_residual_is_refused_for_a_plain_network() -> None:
    for kind, depth in ((recipe.ResNet, 18), (recipe.CifarResNet, 20)):
        with pytest.raises(ValueError, match=r"zero_init_residual=True needs model\.residual=True"):
            kind(depth=depth, residual=False, zero_init_residual=True)
