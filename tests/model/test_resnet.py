"""The ImageNet family is bit for bit torchvision's, with the stem for small images; both families run on any input."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import pytest
import timm
import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn
from torch.nn import functional
from torchvision import models

from trainer import recipe
from trainer.errors import UserError
from trainer.model import build_model
from trainer.model.block import BasicBlock, Block, Bottleneck

RESIDUAL_BLOCKS = {18: 8, 34: 16, 50: 16, 101: 33, 152: 50}
NORMS = {18: 20, 34: 36, 50: 53, 101: 104, 152: 155}
EITHER_FAMILY: list[recipe.ResNet | recipe.CifarResNet] = [
    recipe.ResNet(depth=18, stem="cifar"),
    recipe.ResNet(depth=50),
    recipe.CifarResNet(depth=20),
]

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


# ------------------------------------------------------------------------------------------------ torchvision's twin


@pytest.mark.slow
@pytest.mark.parametrize("depth", RESIDUAL_BLOCKS)
def test_torchvisions_weights_load_and_give_its_outputs_bit_for_bit(depth: int) -> None:
    assert len(RESIDUAL_BLOCKS) == 5
    torch.manual_seed(2)
    theirs = models.get_model(f"resnet{depth}", num_classes=7).eval()
    for norm in of_kind(theirs, nn.BatchNorm2d):  # so that no two norms could be swapped unnoticed
        nn.init.uniform_(norm.weight, 0.5, 1.0)
        nn.init.normal_(norm.bias, std=0.1)
        nn.init.uniform_(cast(Tensor, norm.running_var), 0.5, 1.5)
    ours = build(resnet(depth), 7).eval()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict(), strict=True)
    with torch.inference_mode():
        expected = theirs(images(40))
        assert expected.std() > 0
        assert torch.equal(ours(images(40)), expected)


@pytest.mark.slow
def test_training_step_on_resnet18_has_torchvisions_gradients_and_statistics() -> None:
    theirs = models.get_model("resnet18", num_classes=7)
    ours = build(recipe.ResNet(depth=18), 7)
    ours.load_state_dict(theirs.state_dict())
    for model in (ours, theirs):
        functional.cross_entropy(model(images(40, 4)), torch.arange(4)).backward()
    pairs = list(zip(ours.named_parameters(), theirs.named_parameters(), strict=True))
    assert len(pairs) == 62
    assert all(torch.equal(mine[1].grad, other[1].grad) for mine, other in pairs)  # type: ignore[arg-type]
    buffers = list(zip(ours.buffers(), theirs.buffers(), strict=True))
    assert len(buffers) == 60
    assert all(torch.equal(mine, other) for mine, other in buffers)


# ---------------------------------------------------------------------------------------------------- architecture


@pytest.mark.parametrize("depth", NORMS)
def test_resnet_every_depth_has_its_norms_and_residual_blocks(depth: int) -> None:
    with torch.device("meta"):
        model = build(resnet(depth))
    norms = of_kind(model, nn.BatchNorm2d)
    assert len(norms) == NORMS[depth]
    assert sum(len(list(norm.parameters())) for norm in norms) == 2 * NORMS[depth]  # 106 in ResNet-50, 40 in 18
    assert len(of_kind(model, Block)) == RESIDUAL_BLOCKS[depth]
    outside_shortcuts = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and "downsample" not in n]
    assert len(outside_shortcuts) + len(of_kind(model, nn.Linear)) == depth  # what the depth counts


def test_bottleneck_strides_on_its_3x3() -> None:
    with torch.device("meta"):
        model = build(recipe.ResNet(depth=50))
    strided = [block for block in of_kind(model, Bottleneck) if block.conv2.stride == (2, 2)]
    assert len(strided) == 3
    assert all(block.conv2.kernel_size == (3, 3) for block in strided)
    assert all(c.stride == (1, 1) for block in of_kind(model, Bottleneck) for c in (block.conv1, block.conv3))


def test_depth_or_stem_that_no_paper_has_is_refused() -> None:
    with pytest.raises(UserError, match=r"model\.depth=26 is not a ResNet: there are 18, 34, 50, 101, 152"):
        build(resnet(26))
    with pytest.raises(UserError, match=r"model\.stem='cifar10' is neither"):
        build(resnet(18, stem="cifar10"))


# -------------------------------------------------------------------------------------------------------- forward


@pytest.mark.parametrize("size", [1, 75, 160, 224])
def test_imagenet_network_takes_any_resolution(size: int) -> None:
    model = build(recipe.ResNet(depth=18), 7).eval()
    with torch.inference_mode():
        assert model(images(size)).shape == (2, 7)


@pytest.mark.slow
def test_stems_reduce_224_px_to_7_and_32_px_to_4() -> None:
    cases: list[tuple[recipe.ResNet | recipe.CifarResNet, int, tuple[int, int, int]]] = [
        (recipe.ResNet(depth=18), 224, (512, 7, 7)),
        (recipe.ResNet(depth=18, stem="cifar"), 32, (512, 4, 4)),
        (recipe.CifarResNet(depth=8), 32, (64, 8, 8)),
    ]
    for spec, size, rest in cases:
        shapes: list[tuple[int, ...]] = []
        model = build(spec).eval()
        model.get_submodule("avgpool").register_forward_pre_hook(
            lambda _module, args, shapes=shapes: shapes.append(args[0].shape[1:])
        )
        with torch.inference_mode():
            model(images(size))
        assert shapes == [rest]


@pytest.mark.parametrize("spec", [*EITHER_FAMILY, recipe.CifarResNet(depth=20, residual=False)])
def test_channels_last_gives_the_same_values_and_stays_channels_last(spec: recipe.ResNet | recipe.CifarResNet) -> None:
    model = build(spec).eval()
    outputs: list[Tensor] = []
    with torch.inference_mode():
        expected = model(images(32))
        model.to(memory_format=torch.channels_last)
        for block in of_kind(model, Block):
            block.register_forward_hook(lambda _module, _args, out: outputs.append(out))
        found = model(images(32).to(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert len(outputs) == len(of_kind(model, Block)) > 0
    assert all(out.is_contiguous(memory_format=torch.channels_last) for out in outputs if out.shape[2] > 1)


@pytest.mark.slow
@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("family", ["basic", "bottleneck", "cifar"])
def test_resnet_every_parameter_gets_a_gradient(family: str, residual: bool) -> None:
    spec: recipe.ResNet | recipe.CifarResNet
    match family:
        case "basic":
            spec = recipe.ResNet(depth=18, stem="cifar", residual=residual, zero_init_residual=residual)
        case "bottleneck":
            spec = recipe.ResNet(depth=50, residual=residual)
        case _:
            spec = recipe.CifarResNet(depth=20, residual=residual, zero_init_residual=residual)
    model = build(spec)
    functional.cross_entropy(model(images(32)), torch.tensor([0, 1])).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())  # DDP waits for each


# ------------------------------------------------------------------------------------------------------- drop path


def rates(model: nn.Module) -> list[float]:
    """Each block's probability of being dropped; 0 where it has nothing that drops."""
    return [cast(float, getattr(block.drop_path, "p", 0.0)) for block in of_kind(model, Block)]


@pytest.mark.parametrize(("depth", "blocks"), [(18, 8), (50, 16), (101, 33)])
def test_drop_path_grows_linearly_from_0_to_its_value_as_timms(depth: int, blocks: int) -> None:
    with torch.device("meta"):
        ours = rates(build(resnet(depth, drop_path=0.2)))
        theirs = timm.create_model(f"resnet{depth}", drop_path_rate=0.2)
    assert ours == pytest.approx([0.2 * index / (blocks - 1) for index in range(blocks)])
    assert ours[1:] == pytest.approx([module.drop_prob for module in of_kind(theirs, DropPath)])


def test_dropped_image_keeps_its_shortcut_and_the_others_get_more_of_the_branch() -> None:
    block = of_kind(build(resnet(18, stem="cifar", drop_path=0.75)), BasicBlock)[1]
    p = rates(block)[0]
    assert p == pytest.approx(0.75 / 7)
    x = torch.randn(400, 64, 2, 2, generator=torch.Generator().manual_seed(1))
    hidden = block.relu(block.bn1(block.conv1(x)))
    branch = block.bn2(block.conv2(hidden)).detach()
    out = block(x).detach()
    dropped = torch.tensor([torch.equal(image, shortcut) for image, shortcut in zip(out, x.relu(), strict=True)])
    torch.testing.assert_close(out[~dropped], (x + branch / (1 - p)).relu()[~dropped])
    assert abs(dropped.float().mean() - p) < 5 * (p * (1 - p) / len(x)) ** 0.5
    assert dropped.any() and not dropped.all()


def test_drop_path_draws_from_torchs_generator_in_training_only() -> None:
    model = build(resnet(18, stem="cifar", drop_path=0.5))
    outputs = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        outputs.append(model(images(8, 8)))
    assert torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[0], outputs[2])
    generator = torch.get_rng_state()
    model.eval()(images(8))
    assert torch.equal(torch.get_rng_state(), generator)


def test_drop_path_is_the_identity_in_evaluation_and_no_module_at_0() -> None:
    plain, dropping = build(resnet(18)), build(resnet(18, drop_path=0.5))
    assert list(plain.state_dict()) == list(dropping.state_dict())
    assert [block.drop_path is None for block in of_kind(dropping, Block)] == [True] + 7 * [False]
    assert all(block.drop_path is None for block in of_kind(plain, Block))
    generator = torch.get_rng_state()
    plain(images(32))
    assert torch.equal(torch.get_rng_state(), generator)
    dropping.load_state_dict(plain.state_dict())
    with torch.inference_mode():
        assert torch.equal(dropping.eval()(images(32)), plain.eval()(images(32)))


def test_resnet_every_parameter_gets_a_gradient_although_its_block_is_dropped() -> None:
    model = build(resnet(18, stem="cifar", drop_path=0.999))
    functional.cross_entropy(model(images(8)), torch.tensor([0, 1])).backward()
    last = of_kind(model, BasicBlock)[-1].bn2.weight.grad
    assert last is not None and not last.any()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_drop_path_is_refused_for_a_plain_network() -> None:
    with pytest.raises(ValueError, match=r"drop_path=0\.1 needs model\.residual=True"):
        recipe.ResNet(depth=18, residual=False, drop_path=0.1)
