"""Training starts from the weights the papers start from: He's convolutions, Goyal's gammas and classifier."""

from __future__ import annotations

import math
from typing import Any, cast

import pytest
import torch
from torch import nn

from trainer import recipe
from trainer.model import build_model
from trainer.model.block import Block

RESIDUAL_BLOCKS = {18: 8, 34: 16, 50: 16, 101: 33, 152: 50}
EITHER_FAMILY = [recipe.ResNet(depth=18, stem="cifar"), recipe.ResNet(depth=50), recipe.CifarResNet(depth=20)]


def build(spec: recipe.ResNet | recipe.CifarResNet, num_classes: int = 10) -> nn.Module:
    torch.manual_seed(0)
    return build_model(spec, num_classes)


def norms_of(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


@pytest.mark.slow
@pytest.mark.parametrize("depth", RESIDUAL_BLOCKS)
def test_zero_init_residual_zeroes_the_last_gamma_of_every_block(depth: int) -> None:
    assert len(RESIDUAL_BLOCKS) == 5
    model = build(recipe.ResNet(depth=cast(Any, depth), zero_init_residual=True))
    zeroed = [norm for norm in norms_of(model) if not norm.weight.any()]
    assert len(zeroed) == RESIDUAL_BLOCKS[depth]
    last = "bn3" if depth >= 50 else "bn2"
    assert zeroed == [block.get_submodule(last) for block in model.modules() if isinstance(block, Block)]


def test_zero_init_residual_zeroes_27_gammas_of_the_cifar_resnet56() -> None:
    model = build(recipe.CifarResNet(depth=56, zero_init_residual=True))
    zeroed = [name for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d) and not m.weight.any()]
    assert zeroed == [f"layer{stage}.{block}.bn2" for stage in (1, 2, 3) for block in range(9)]


@pytest.mark.parametrize("spec", EITHER_FAMILY)
def test_init_other_gammas_start_at_one_and_betas_at_zero(spec: recipe.ResNet | recipe.CifarResNet) -> None:
    norms = norms_of(build(spec))
    assert len(norms) in (19, 20, 53)
    assert all((norm.weight == 1).all() and not norm.bias.any() for norm in norms)


@pytest.mark.slow
@pytest.mark.parametrize("spec", EITHER_FAMILY)
def test_convolutions_start_normal_with_hes_fan_out_variance(spec: recipe.ResNet | recipe.CifarResNet) -> None:
    convs = [module for module in build(spec).modules() if isinstance(module, nn.Conv2d)]
    assert len(convs) in (19, 20, 53)
    for conv in convs:
        weight = conv.weight.detach().flatten() / math.sqrt(
            2 / (conv.out_channels * conv.kernel_size[0] * conv.kernel_size[1])
        )
        # of n standard normal draws the mean has the standard deviation 1 / sqrt(n), their deviation 1 / sqrt(2n)
        assert abs(weight.mean()) < 5 / math.sqrt(len(weight))
        assert abs(weight.std() - 1) < 5 / math.sqrt(2 * len(weight))
    everything = torch.cat([conv.weight.detach().flatten() / conv.weight.detach().std() for conv in convs])
    assert (everything.abs() < 1).float().mean() == pytest.approx(0.6827, abs=0.005)  # normal, not uniform: 0.577


@pytest.mark.parametrize("spec", [recipe.ResNet(depth=18, fc_std=0.01), recipe.CifarResNet(depth=8, fc_std=0.01)])
def test_fc_std_gives_goyals_classifier(spec: recipe.ResNet | recipe.CifarResNet) -> None:
    fc = cast(nn.Linear, build(spec, 1000).get_submodule("fc"))
    assert fc.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert abs(fc.weight.mean()) < 5 * 0.01 / math.sqrt(fc.weight.numel())
    assert not fc.bias.any()


def test_init_without_fc_std_the_classifier_is_pytorchs() -> None:
    fc = cast(nn.Linear, build(recipe.ResNet(depth=18), 1000).get_submodule("fc"))
    bound = 1 / math.sqrt(512)
    assert 0.99 * bound < fc.weight.abs().max() <= bound
    assert 0.9 * bound < fc.bias.abs().max() <= bound


@pytest.mark.slow
def test_fc_bias_is_what_every_bias_of_the_classifier_starts_at() -> None:
    for fc_std in (None, 0.01):
        with_bias = build(recipe.ResNet(depth=18, fc_std=fc_std, fc_bias=-math.log(1000)), 1000)
        without = build(recipe.ResNet(depth=18, fc_std=fc_std), 1000)
        assert torch.equal(with_bias.get_parameter("fc.bias"), torch.full((1000,), -math.log(1000)))
        others = [name for name, _ in without.named_parameters() if name != "fc.bias"]
        assert len(others) == 61
        assert all(torch.equal(with_bias.get_parameter(name), without.get_parameter(name)) for name in others)


def test_initialisation_draws_layer_by_layer_and_then_for_each_convolution_again() -> None:
    """The order of draws is part of a seed's meaning: here written out for the CIFAR network of 8 layers."""
    torch.manual_seed(0)
    shapes = [(3, 16), (16, 16), (16, 16), (16, 32), (32, 32), (32, 64), (64, 64)]
    convs = [nn.Conv2d(*shape, kernel_size=3, bias=False) for shape in shapes]
    fc = nn.Linear(64, 10)
    for conv in convs:
        nn.init.normal_(conv.weight, std=math.sqrt(2 / (9 * conv.out_channels)))
    found = [module for module in build(recipe.CifarResNet(depth=8)).modules() if isinstance(module, nn.Conv2d)]
    assert len(found) == len(convs)
    assert all(torch.equal(mine.weight, theirs.weight) for mine, theirs in zip(found, convs, strict=True))
    assert torch.equal(build(recipe.CifarResNet(depth=8, width=1)).get_parameter("fc.weight"), fc.weight)


def test_same_seed_gives_the_same_weights_and_a_different_seed_others() -> None:
    spec = recipe.CifarResNet(depth=20)
    first, second = build(spec), build(spec)
    assert all(map(torch.equal, first.parameters(), second.parameters()))
    torch.manual_seed(1)
    assert not torch.equal(build_model(spec, 10).get_parameter("conv1.weight"), first.get_parameter("conv1.weight"))
