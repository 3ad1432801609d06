"""The optimizer step, beside a plain PyTorch loop of the same recipe."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from tests.support.small_recipe import recipe as small
from trainer.data.device import DeviceBatch
from trainer.distributed import process_group
from trainer.distributed.process_group import World
from trainer.distributed.watchdog import COMPUTING, EXCHANGING
from trainer.model import build_model
from trainer.recipe import SGD, CifarResNet, Constant, FineTuning
from trainer.settings import TrainSettings
from trainer.setup.networks import build_module, build_state
from trainer.step import TrainingStep

ACCUMULATION = 2
RECIPE = replace(
    small,
    model=CifarResNet(depth=8),
    optimizer=SGD(lr=0.1, momentum=0.9, weight_decay=1e-4, nesterov=True),
    schedule=Constant(),
    clip_grad_norm=0.5,
    mixing=None,
    ema=None,
    precision="fp32",
    global_batch_size=8 * ACCUMULATION,
    micro_batch_size=8,
)


@pytest.fixture
def world() -> Iterator[World]:
    with process_group.initialize("cpu", timeout_minutes=1) as world:
        yield world


def network() -> nn.Module:
    torch.manual_seed(0)
    return build_model(RECIPE.model, RECIPE.num_classes).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def micro_batches(count: int) -> list[DeviceBatch]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(count, 8, 3, 32, 32, generator=generator)
    labels = torch.randint(RECIPE.num_classes, (count, 8), generator=generator)
    return [
        DeviceBatch(pixels.to(memory_format=torch.channels_last), classes, torch.arange(8))
        for pixels, classes in zip(images, labels, strict=True)
    ]


def plain_loop(
    plain: nn.Module, optimizer: torch.optim.Optimizer, batches: list[DeviceBatch]
) -> tuple[list[float], list[float]]:
    """Trains the network as a user of PyTorch would; returns each micro-batch's loss and each step's gradient norm."""
    losses, norms = [], []
    for number, batch in enumerate(batches):
        loss = cross_entropy(plain(batch.images), batch.labels, label_smoothing=0.1) / ACCUMULATION
        loss.backward()
        losses.append(loss.item())
        if number % ACCUMULATION == ACCUMULATION - 1:
            norms.append(nn.utils.clip_grad_norm_(plain.parameters(), 0.5).item())
            optimizer.step()
            optimizer.zero_grad()
    return losses, norms


def test_training_step_is_a_plain_loop_bit_for_bit(world: World) -> None:
    """Three steps of two micro-batches, clipped: the same weights, statistics, losses and norms."""
    module, plain = network(), network()
    state = build_state(RECIPE, module, world, steps_per_epoch=10, log_every=3)
    step = TrainingStep(RECIPE, state, world, accumulation=ACCUMULATION)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, nesterov=True, fused=True)
    for number, batch in enumerate(micro_batches(6)):
        step(batch, number % ACCUMULATION)
    losses, norms = plain_loop(plain, optimizer, micro_batches(6))
    ours, theirs = module.state_dict(), plain.state_dict()
    assert len(ours) == len(theirs) == 44
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    found = state.metrics.read(3)
    assert found.loss == pytest.approx(sum(losses) / 3)
    assert found.grad_norm == pytest.approx(sum(norms) / 3)
    assert max(norms) > 0.5  # clipping did something


def test_training_step_of_fine_tuning_is_a_plain_loop_with_two_rates_and_frozen_norms(
    world: World, tmp_path: Path
) -> None:
    """Bit for bit, with the network and the optimizer that the setup builds for the recipe."""
    recipe = replace(RECIPE, fine_tuning=FineTuning(backbone_lr=0.25, freeze_norms=True))
    torch.save(network().state_dict(), tmp_path / "start.pt")
    settings = TrainSettings(data="", run_dir=tmp_path, initial_weights=tmp_path / "start.pt")
    module, _ = build_module(recipe, settings, world, fresh=True)
    state = build_state(recipe, module, world, steps_per_epoch=10)
    step = TrainingStep(recipe, state, world, accumulation=ACCUMULATION)
    for number, batch in enumerate(micro_batches(4)):
        step(batch, number % ACCUMULATION)

    start, plain = network().state_dict(), network()
    norms = [norm for norm in plain.modules() if isinstance(norm, nn.BatchNorm2d)]
    for norm in norms:
        norm.eval().requires_grad_(False)
    learning = [(name, tensor) for name, tensor in plain.named_parameters() if tensor.requires_grad]
    groups = [
        {"params": [tensor for name, tensor in learning if name.startswith("fc.")], "lr": 0.1},
        {"params": [tensor for name, tensor in learning if not name.startswith("fc.")], "lr": 0.1 / 4},
    ]
    optimizer = torch.optim.SGD(groups, momentum=0.9, weight_decay=1e-4, nesterov=True, fused=True)
    plain_loop(plain, optimizer, micro_batches(4))
    ours, theirs = module.state_dict(), plain.state_dict()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    unchanged = [name for name in ours if torch.equal(ours[name], start[name])]
    assert len(norms) == 7
    assert len(unchanged) == 7 * 5 == len(ours) - len(learning)


def test_training_step_seeds_dropout_by_the_place_of_a_micro_batch_in_the_step(world: World) -> None:
    """Two ranks with a micro-batch each draw what one process draws with both of them."""

    def seeds(rank: int, accumulation: int) -> list[int]:
        one = replace(world, rank=rank)  # of one process, which has no gradients to exchange
        state = build_state(RECIPE, module, one, steps_per_epoch=10)
        step = TrainingStep(RECIPE, state, one, accumulation=accumulation)
        found = []
        for number, batch in enumerate(micro_batches(2 * accumulation)):
            step(batch, number % accumulation)
            found.append(torch.initial_seed())
        return found

    module = network()
    alone = seeds(rank=0, accumulation=2)
    assert len(set(alone)) == 4
    assert [alone[0::2], alone[1::2]] == [seeds(rank=0, accumulation=1), seeds(rank=1, accumulation=1)]


def test_training_step_updates_weights_and_position_with_the_last_micro_batch(world: World) -> None:
    module = network()
    state = build_state(RECIPE, module, world, steps_per_epoch=10)
    step = TrainingStep(RECIPE, state, world, accumulation=ACCUMULATION)
    before = {name: tensor.detach().clone() for name, tensor in module.named_parameters()}
    first, last = micro_batches(2)
    phases: list[str] = []
    step(first, 0, phases.append)
    assert state.position.step == 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.named_parameters())
    step(last, 1, phases.append)
    assert state.position.step == 1
    assert not any(torch.equal(tensor, before[name]) for name, tensor in module.named_parameters())
    assert phases == [COMPUTING, EXCHANGING] * 2
    assert all(tensor.grad is None for tensor in module.parameters())
