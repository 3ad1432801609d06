"""What is decayed and what is not, counted for every depth, by what a parameter is."""

import pytest
import torch
from torch import nn

from trainer.model import build_model
from trainer.optimizer import audit, build_optimizer, sort_parameters
from trainer.recipe import SGD, CifarResNet, LibraryModel, ResNet
from trainer.recipe_file import load_recipe

NORM_TENSORS = {18: 40, 34: 72, 50: 106, 101: 208, 152: 310}
BLOCKS = {18: 8, 34: 16, 50: 16, 101: 33, 152: 50}
GOYAL = load_recipe("resnet50_goyal2017_8k").optimizer


@pytest.mark.parametrize("depth", sorted(NORM_TENSORS))
def test_goyals_rule_misses_no_norm_tensor_and_no_last_gamma(depth: int) -> None:
    model = build_model(ResNet(depth=depth, zero_init_residual=True), 1000)  # type: ignore[arg-type]
    counted = audit(GOYAL, model)
    assert counted.norm_tensors == NORM_TENSORS[depth]
    assert counted.norm_tensors_decayed == 0
    assert (counted.biases, counted.biases_decayed) == (1, 1)
    assert counted.gammas_zero == BLOCKS[depth]
    decayed, exempt = build_optimizer(GOYAL, model).param_groups
    assert (decayed["weight_decay"], exempt["weight_decay"]) == (1e-4, 0.0)
    assert len(exempt["params"]) == NORM_TENSORS[depth]
    assert len(decayed["params"]) + len(exempt["params"]) == len(list(model.parameters()))


def test_torchvisions_rule_decays_everything() -> None:
    optimizer = build_optimizer(load_recipe("resnet50_torchvision_v1").optimizer, build_model(ResNet(depth=50), 1000))
    (group,) = optimizer.param_groups
    assert (len(group["params"]), group["weight_decay"]) == (161, 1e-4)


def test_a_norm_is_found_whatever_its_name() -> None:
    model = nn.ModuleDict({"shortcut": nn.BatchNorm2d(4), "bn_like": nn.Conv2d(3, 4, 1), "ln": nn.LayerNorm(4)})
    weights, biases, norms = sort_parameters(model)
    assert weights == [model["bn_like"].weight]
    assert biases == [model["bn_like"].bias]
    assert len(norms) == 4


@pytest.mark.parametrize("spec", [CifarResNet(depth=20), LibraryModel(name="timm/resnet18")])
def test_every_parameter_is_in_exactly_one_group(spec: CifarResNet | LibraryModel) -> None:
    model = build_model(spec, 10)
    optimizer = build_optimizer(SGD(lr=0.1, decay_norm=False, decay_bias=False), model)
    grouped = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters())


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_the_formula_in_its_docstring(nesterov: bool) -> None:
    """So that the paper's momentum correction, which is for another form, is not needed (Goyal, section 3)."""
    model = nn.Linear(3, 1, bias=False)
    spec = SGD(lr=0.5, momentum=0.9, nesterov=nesterov, weight_decay=0.1)
    optimizer = build_optimizer(spec, model)
    weight, velocity = model.weight.detach().clone(), torch.zeros(1, 3)
    for lr in (0.5, 0.05):  # the rate falls while the velocity goes on
        optimizer.param_groups[0]["lr"] = lr
        gradient = torch.tensor([[1.0, -2.0, 3.0]])
        model.weight.grad = gradient.clone()
        optimizer.step()
        decayed = gradient + 0.1 * weight
        velocity = 0.9 * velocity + decayed
        weight -= lr * (decayed + 0.9 * velocity if nesterov else velocity)
        torch.testing.assert_close(model.weight.detach(), weight)
