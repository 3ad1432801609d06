"""The optimizer step, beside a plain PyTorch loop of the same recipe."""

from collections.abc import Iterator
from dataclasses import replace

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
from trainer.recipe import SGD, CifarResNet, Constant
from trainer.setup.networks import build_state
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
    with process_group.world("cpu", timeout_minutes=1) as world:
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


def test_training_step_is_a_plain_loop_bit_for_bit(world: World) -> None:
    """Three steps of two micro-batches, clipped: the same weights, statistics, losses and norms."""
    module, plain = network(), network()
    state = build_state(RECIPE, module, world, steps_per_epoch=10, log_every=3)
    step = TrainingStep(RECIPE, state, world, accumulation=ACCUMULATION)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, nesterov=True, fused=True)
    losses, norms = [], []
    for number, batch in enumerate(micro_batches(6)):
        step(batch, number % ACCUMULATION)
        loss = cross_entropy(plain(batch.images), batch.labels, label_smoothing=0.1) / ACCUMULATION
        loss.backward()
        losses.append(loss.item())
        if number % ACCUMULATION == ACCUMULATION - 1:
            norms.append(nn.utils.clip_grad_norm_(plain.parameters(), 0.5).item())
            optimizer.step()
            optimizer.zero_grad()
    ours, theirs = module.state_dict(), plain.state_dict()
    assert len(ours) == len(theirs) == 44
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    found = state.metrics.read(3)
    assert found.loss == pytest.approx(sum(losses) / 3)
    assert found.grad_norm == pytest.approx(sum(norms) / 3)
    assert max(norms) > 0.5  # clipping did something


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
