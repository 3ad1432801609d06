"""ResNet's relatives are bit for bit torchvision's and timm's, with their parameter names, both ways."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision import models

from trainer.errors import UserError
from trainer.model import build_model, load_initial_weights
from trainer.model.block import Block
from trainer.model.blur import BlurConv2d
from trainer.model.squeeze_excitation import SqueezeExcitation
from trainer.recipe import ResNet

TORCHVISION = {
    "resnext50_32x4d": ResNet(depth=50, groups=32, width_per_group=4),
    "resnext101_32x8d": ResNet(depth=101, groups=32, width_per_group=8),
    "resnext101_64x4d": ResNet(depth=101, groups=64, width_per_group=4),
    "wide_resnet50_2": ResNet(depth=50, width_per_group=128),
    "wide_resnet101_2": ResNet(depth=101, width_per_group=128),
}
TIMM = {
    "resnet50c": ResNet(depth=50, variant="c"),
    "resnet18d": ResNet(depth=18, variant="d"),
    "resnet50d": ResNet(depth=50, variant="d"),
    "seresnet18": ResNet(depth=18, se_ratio=1 / 16),
    "seresnet50": ResNet(depth=50, se_ratio=1 / 16),
    "seresnext50_32x4d": ResNet(depth=50, groups=32, width_per_group=4, se_ratio=1 / 16),
    "resnetrs50": ResNet(depth=50, variant="rs", se_ratio=1 / 4),
}
BOTH = TORCHVISION | TIMM
SMALL = ("resnet18d", "seresnet18", "resnext50_32x4d", "resnetrs50")  # every part once


def theirs_of(name: str) -> nn.Module:
    """The library's network with every norm different, so that no two could be swapped unnoticed."""
    torch.manual_seed(2)
    model = models.get_model(name, num_classes=7) if name in TORCHVISION else timm.create_model(name, num_classes=7)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.0)
            nn.init.normal_(norm.bias, std=0.1)
            nn.init.uniform_(cast(Tensor, norm.running_var), 0.5, 1.5)
    return cast(nn.Module, model)


def build(spec: ResNet, num_classes: int = 7) -> nn.Module:
    torch.manual_seed(0)
    return build_model(spec, num_classes)


def images(size: int, count: int = 2) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.slow
def test_relatives_have_their_librarys_parameters_in_names_shapes_and_order() -> None:
    assert len(BOTH) == 12
    for name, spec in BOTH.items():
        with torch.device("meta"):
            ours, theirs = build(spec), theirs_of(name)
        shapes = [{key: tensor.shape for key, tensor in model.state_dict().items()} for model in (ours, theirs)]
        assert shapes[0] == shapes[1] and list(shapes[0]) == list(shapes[1]), name


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in BOTH if "101" not in name])  # those differ in depth alone
def test_relatives_weights_load_and_give_the_librarys_outputs_bit_for_bit(name: str) -> None:
    theirs, ours = theirs_of(name).eval(), build(BOTH[name]).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    with torch.inference_mode():
        for size in (40, 65):  # 65: odd sizes at every stride
            expected = theirs(images(size))
            assert expected.std() > 0
            assert torch.equal(ours(images(size)), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_relatives_training_step_has_the_librarys_gradients_and_statistics(name: str) -> None:
    theirs, ours = theirs_of(name), build(BOTH[name])
    ours.load_state_dict(theirs.state_dict())
    for model in (ours, theirs):
        functional.cross_entropy(model(images(40, 4)), torch.arange(4)).backward()
    for (key, mine), (_, other) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert mine.grad is not None and other.grad is not None
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-3, atol=1e-6, msg=key)
    assert all(torch.equal(mine, other) for mine, other in zip(ours.buffers(), theirs.buffers(), strict=True))


@pytest.mark.slow
def test_variant_a_is_torchvisions_network_with_the_stride_on_the_first_1x1() -> None:
    theirs = models.resnet50(num_classes=7).eval()
    for stage in (theirs.layer2, theirs.layer3, theirs.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    ours = build(ResNet(depth=50, variant="a")).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    with torch.inference_mode():
        assert torch.equal(ours(images(40)), theirs(images(40)))


def test_squeeze_excitation_is_the_papers_formula() -> None:
    se, x = SqueezeExcitation(32, 1 / 4), images(5)[:, :1].repeat(1, 32, 1, 1) * torch.rand(1, 32, 1, 1)
    hidden = (se.fc1.weight.flatten(1) @ x.mean((2, 3)).T + se.fc1.bias[:, None]).relu()  # type: ignore[index]
    weights = (se.fc2.weight.flatten(1) @ hidden + se.fc2.bias[:, None]).sigmoid()  # type: ignore[index]
    assert hidden.shape[0] == 8
    torch.testing.assert_close(se(x), x * weights.T[:, :, None, None])


@pytest.mark.parametrize("channels", [64, 72, 256, 2048])
@pytest.mark.parametrize("ratio", [1 / 16, 1 / 4, 0.01])
def test_squeeze_excitation_has_timms_number_of_hidden_channels(channels: int, ratio: float) -> None:
    theirs = timm.layers.SEModule(channels, rd_ratio=ratio)
    assert SqueezeExcitation(channels, ratio).fc1.weight.shape == theirs.fc1.weight.shape


@pytest.mark.slow
def test_relatives_weight_files_of_torchvision_load(tmp_path: Path) -> None:
    name = "resnext50_32x4d"
    theirs = theirs_of(name)
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    ours = build(TORCHVISION[name], 5)
    sentence = load_initial_weights(ours, tmp_path / "weights.pth")
    assert "the file has 7 classes and the model 5" in sentence
    assert torch.equal(ours.get_parameter("layer4.2.conv2.weight"), theirs.get_parameter("layer4.2.conv2.weight"))
    with pytest.raises(UserError, match=r"of another model: .* of another shape"):
        load_initial_weights(build(ResNet(depth=50), 5), tmp_path / "weights.pth")


def test_blur_pool_of_relatives_is_before_their_strided_convolutions_only() -> None:
    with torch.device("meta"):
        grouped = build(ResNet(depth=50, groups=32, width_per_group=4, blur_pool="convs"))
        averaging = build(ResNet(depth=50, variant="d", blur_pool="convs"))
    blurs = [[m for m in model.modules() if isinstance(m, BlurConv2d)] for model in (grouped, averaging)]
    assert [conv.groups for conv in blurs[0]] == [32, 1] * 3  # the 3x3, the projection
    assert len(blurs[1]) == 3  # the shortcuts of variant d have no strided convolution


def test_dropout_precedes_the_classifier_in_training_only() -> None:
    plain, dropping = build(ResNet(depth=18, stem="cifar")), build(ResNet(depth=18, stem="cifar", dropout=0.9))
    assert list(plain.state_dict()) == list(dropping.state_dict())
    seen: list[Tensor] = []
    dropping.get_submodule("fc").register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    dropping(images(8, 16))
    dropping.eval()(images(8, 16))
    dropped = [(features == 0).float().mean() for features in seen]
    assert dropped[0] > 0.85 and dropped[1] < 0.7
    generator = torch.get_rng_state()
    plain(images(8))
    assert torch.equal(torch.get_rng_state(), generator)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_relatives_start_silent_with_zero_init_residual_and_every_parameter_gets_a_gradient(name: str) -> None:
    model = build(replace(BOTH[name], zero_init_residual=True, drop_path=0.1))
    blocks = [block for block in model.modules() if isinstance(block, Block)]
    silent = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d) and not m.weight.any()]
    assert len(silent) == len(blocks) > 0
    functional.cross_entropy(model(images(32)), torch.tensor([0, 1])).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())  # DDP waits for each


def test_variant_that_no_paper_has_is_refused() -> None:
    with pytest.raises(UserError, match=r"model\.variant='e' is not a ResNet: there are a, b, c, d, rs"):
        build(ResNet(depth=50, variant="e"))  # type: ignore[arg-type]
