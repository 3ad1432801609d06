"""What a recipe costs: counted figures against published ones, against arithmetic, and against what really happens."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from tests.support.small_recipe import recipe as small
from trainer.commands.cost import (
    checkpoint_bytes,
    flop_counter,
    forward_flops,
    gradient_bytes,
    memory,
    parameter_count,
    pass_cost,
    saved_storages,
)
from trainer.ema import WeightAverage
from trainer.errors import UserError
from trainer.fine_tuning import apply_fine_tuning
from trainer.loss import build_loss
from trainer.model import build_model
from trainer.optim.optimizer import build_optimizer, state_tensors
from trainer.precision import autocast
from trainer.recipe import (
    EMA,
    LAMB,
    LARS,
    SGD,
    AdamW,
    CifarResNet,
    DecoupledSGD,
    FineTuning,
    LibraryModel,
    Model,
    Optimizer,
    RandomResizedCrop,
    Recipe,
    ResNet,
    WideResNet,
)
from trainer.recipe_file import load_recipe
from trainer.run.checkpoint import write

IMAGENET = replace(load_recipe("resnet50_torchvision_v1"), micro_batch_size=2)


def network(recipe: Recipe) -> nn.Module:
    return build_model(recipe.model, recipe.num_classes, recipe.norm_batch_size)


def of_depth(depth: int) -> Recipe:
    return replace(IMAGENET, model=ResNet(depth=depth))  # type: ignore[arg-type]


def really_saved(recipe: Recipe, model: nn.Module) -> int:
    """Bytes that autograd saves in a forward pass that happens, each memory once, but for what was there before."""
    torch.manual_seed(0)
    storages: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    images = torch.randn(recipe.micro_batch_size, 3, *[recipe.train_crop.resolution] * 2)
    labels = torch.arange(recipe.micro_batch_size) % recipe.num_classes
    known = [images, *model.parameters(), *model.buffers()]
    with saved_tensors_hooks(pack, lambda tensor: tensor), autocast(recipe.precision, images.device):
        build_loss(recipe.loss)(model(images), labels).backward()
    for tensor in known:
        storages.pop(tensor.untyped_storage().data_ptr(), None)
    return sum(storage.nbytes() for storage in storages.values())


def test_saved_storages_are_those_of_a_small_network_by_hand() -> None:
    """The norm saves its input and two statistics a channel, the ReLU its output, the pooling the indices beside it."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2))
    images = torch.randn(2, 3, 8, 8)
    with saved_storages([images, *network.parameters(), *network.buffers()]) as saved:
        network(images)
    pixels, pooled = 2 * 4 * 8 * 8, 2 * 4 * 4 * 4
    assert sum(storage.nbytes() for storage in saved.values()) == 2 * 4 * pixels + 2 * 4 * 4 + 8 * pooled


def test_multiply_add_counts_as_two_operations() -> None:
    with FlopCounterMode(display=False) as counter:
        nn.functional.conv2d(torch.empty(1, 5, 8, 8, device="meta"), torch.empty(7, 5, 3, 3, device="meta"), padding=1)
    assert counter.get_total_flops() == 2 * (8 * 8 * 7) * (5 * 3 * 3)


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("transposed", [False, True])
def test_backward_pass_of_a_convolution_is_two_forward_passes_also_in_groups(groups: int, transposed: bool) -> None:
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    layer = kind(6, 12, 3, padding=1, groups=groups, device="meta")
    with flop_counter() as counter:
        result = layer(torch.empty(2, 6, 8, 8, device="meta", requires_grad=True))
        forward = counter.get_total_flops()
        result.sum().backward()
    assert forward == 2 * (2 * 8 * 8) * (6 * 12 * 9) // groups
    assert counter.get_total_flops() == 3 * forward


@pytest.mark.slow
@pytest.mark.parametrize(("depth", "gmacs"), [(18, 1.814), (50, 4.089), (101, 7.801), (152, 11.514)])
def test_imagenet_networks_have_the_operations_that_torchvision_publishes(depth: int, gmacs: float) -> None:
    """`_ops` of its weights' metadata, in 1e9 multiply-adds."""
    recipe = of_depth(depth)
    assert forward_flops(recipe, network(recipe), 224) / 2e9 == pytest.approx(gmacs, abs=0.0006)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "gmacs"),
    [
        (ResNet(depth=50, groups=32, width_per_group=4), 4.230),
        (ResNet(depth=101, groups=64, width_per_group=4), 15.460),
        (ResNet(depth=50, width_per_group=128), 11.398),
    ],
)
def test_relatives_have_the_operations_that_torchvision_publishes(model: ResNet, gmacs: float) -> None:
    recipe = replace(IMAGENET, model=model)
    with torch.device("meta"):
        built = network(recipe)
    assert forward_flops(recipe, built, 224) / 2e9 == pytest.approx(gmacs, abs=0.0006)


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        ResNet(depth=18, variant="rs", se_ratio=1 / 4, dropout=0.5),
        CifarResNet(depth=11, preactivation=True, bottleneck=True),
        WideResNet(depth=10, width=1, dropout=0.3),
    ],
)
def test_relatives_keep_the_activations_that_a_real_step_does(model: Model) -> None:
    crop = RandomResizedCrop(resolution=32)
    recipe = replace(IMAGENET, model=model, train_crop=crop, precision="fp32")
    assert pass_cost(recipe, network(recipe)).activations == really_saved(recipe, network(recipe))


def test_published_numbers_of_parameters() -> None:
    """torchvision's metadata; He et al. 2015, Table 6, has 0.27 M for ResNet-20."""
    assert parameter_count(network(of_depth(50))) == 25_557_032
    assert parameter_count(network(load_recipe("resnet20_he2015"))) == 269_722


def test_resnet20_has_its_operations_by_hand() -> None:
    """The 40.8 million multiply-adds that are often quoted hold two projections; the paper has none here."""
    recipe = replace(load_recipe("resnet20_he2015"), micro_batch_size=2)
    stages = [32 * 32 * 16 * 9 * (3 + 6 * 16), 16 * 16 * 32 * 9 * (16 + 5 * 32), 8 * 8 * 64 * 9 * (32 + 5 * 64)]
    by_hand = sum(stages) + 64 * 10
    projections = 16 * 16 * 16 * 32 + 8 * 8 * 32 * 64
    assert forward_flops(recipe, network(recipe), 32) == 2 * by_hand
    assert (by_hand + projections) / 1e6 == pytest.approx(40.8, abs=0.05)


@pytest.mark.slow
def test_training_is_three_forward_passes_less_the_gradient_of_the_images() -> None:
    recipe = replace(small, micro_batch_size=4)
    cost = pass_cost(recipe, network(recipe))
    first_convolution = 2 * 16 * 16 * 16 * 3 * 9
    assert cost.training_flops == 3 * cost.forward_flops - first_convolution
    assert cost.forward_flops == forward_flops(recipe, network(recipe), 16)


@pytest.mark.slow
def test_frozen_backbone_costs_less_in_operations_and_in_memory() -> None:
    tuned = FineTuning(backbone_lr=0)
    whole, frozen = network(small), network(small)
    apply_fine_tuning(frozen, tuned)
    full, less = pass_cost(small, whole), pass_cost(small, frozen)
    classifier = 2 * 64 * 10
    assert less.forward_flops == full.forward_flops
    assert less.training_flops == less.forward_flops + classifier  # no gradient of what the backbone gave
    assert less.activations < full.activations / 20
    assert gradient_bytes(frozen) == 4 * (64 * 10 + 10)


@pytest.mark.slow
@pytest.mark.parametrize("norm_batch_size", [None, 4])
@pytest.mark.parametrize("drop_path", [0.0, 0.1])
def test_activations_are_those_of_a_real_step_to_the_byte(norm_batch_size: int | None, drop_path: float) -> None:
    recipe = replace(
        small,
        model=ResNet(depth=18, stem="cifar", drop_path=drop_path),
        norm_batch_size=norm_batch_size,
        micro_batch_size=8,
        precision="fp32",
    )
    assert pass_cost(recipe, network(recipe)).activations == really_saved(recipe, network(recipe))


@pytest.mark.slow
def test_activations_in_bf16_are_those_of_a_real_step_but_for_the_norms_statistics() -> None:
    """The CPU keeps a mean and a deviation per channel in float32, the fake tensors say bf16."""
    model = network(small)
    channels = sum(norm.num_features for norm in model.modules() if isinstance(norm, nn.BatchNorm2d))
    half = replace(small, precision="bf16")
    difference = really_saved(half, model) - pass_cost(half, model).activations
    assert 0 <= difference <= channels * 2 * 2


@pytest.mark.slow
def test_cost_half_precision_halves_the_activations_and_adds_copies_of_weights_and_images() -> None:
    model = network(small)
    assert small.precision == "fp32"
    single = pass_cost(small, model).activations
    half = pass_cost(replace(small, precision="bf16"), model).activations
    copies = 2 * (parameter_count(model) + 16 * 3 * 16 * 16)
    assert half == pytest.approx(single / 2 + copies, rel=0.002)


def test_counting_leaves_the_model_as_it_was() -> None:
    model = network(small)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pass_cost(small, model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.slow
def test_network_costs_the_same_wherever_it_is() -> None:
    """The meta device stands for a GPU: another one than the CPU."""
    here, there = network(small), network(small).to("meta")
    there.layer1.requires_grad_(False)
    here.layer1.requires_grad_(False)
    assert pass_cost(small, there) == pass_cost(small, here)
    assert forward_flops(small, there, 64) == forward_flops(small, here, 64)


@pytest.mark.parametrize(
    "spec",
    [
        SGD(lr=0.1),
        SGD(lr=0.1, momentum=0),
        DecoupledSGD(lr=0.1),
        AdamW(lr=0.1),
        LAMB(lr=0.1),
        LARS(lr=0.1),
        LARS(lr=0.1, momentum=0),
    ],
)
def test_optimizer_holds_what_is_reported(spec: Optimizer) -> None:
    model = network(small)
    optimizer = build_optimizer(spec, model)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    held = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, torch.Tensor)]
    assert sum(value.nbytes for value in held if value.ndim) == state_tensors(spec) * gradient_bytes(model)


def test_checkpoint_is_as_long_as_is_reported(tmp_path: Path) -> None:
    recipe = replace(small, model=CifarResNet(depth=8, width=4), ema=EMA(decay=0.9))
    model = network(recipe)
    optimizer = build_optimizer(recipe.optimizer, model)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert recipe.ema is not None
    average = WeightAverage(recipe.ema, model)
    state = {"model": model.state_dict(), "average": average.state_dict(), "optimizer": optimizer.state_dict()}
    write(tmp_path / "step_00000001.pt", state)
    expected = checkpoint_bytes(memory(recipe, model, activations=0))
    assert os.path.getsize(tmp_path / "step_00000001.pt") == pytest.approx(expected, rel=0.02)


def test_memory_adds_up() -> None:
    model = network(small)
    used = memory(replace(small, ema=EMA(decay=0.9)), model, activations=1000)
    assert used.parameters == used.gradients == used.optimizer == 4 * parameter_count(model)
    assert used.average == used.parameters + used.buffers
    assert used.images == 4 * 16 * 3 * 16 * 16
    assert used.total == 4 * used.parameters + 2 * used.buffers + used.images + 1000


@pytest.mark.slow
def test_batch_that_the_network_cannot_run_is_an_error_that_names_it() -> None:
    recipe = replace(
        small,
        model=LibraryModel(name="torchvision/vit_b_32"),
        train_crop=RandomResizedCrop(resolution=32),
        micro_batch_size=2,
    )
    with pytest.raises(UserError, match=r"cannot run a micro-batch of 2 images of 32 px: AssertionError: .*224"):
        pass_cost(recipe, network(recipe))
