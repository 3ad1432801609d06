"""The average against its formula in float64, and bit for bit across a checkpoint."""

import copy
import io
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from trainer.ema import WeightAverage
from trainer.evaluation.protocol import WeightMean
from trainer.model import build_model
from trainer.recipe import EMA, SWA, CifarResNet


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))


def move(module: nn.Module, step: int) -> dict[str, torch.Tensor]:
    """Puts weights and statistics where training might, and returns a copy of the state."""
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for tensor in module.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype))
            else:
                tensor.add_(1)
    return copy.deepcopy(module.state_dict())


def check(average: WeightAverage, expected: dict[str, torch.Tensor]) -> None:
    assert average.state_dict().keys() == expected.keys()
    for name, tensor in average.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("start_epoch", [0.0, 1.0])
def test_average_is_the_formula_for_weights_and_statistics_and_a_copy_of_counts(every: int, start_epoch: float) -> None:
    module = network().double()
    average = WeightAverage(EMA(decay=0.9, every=every, start_epoch=start_epoch), module)
    expected = copy.deepcopy(module.state_dict())
    updates = 0
    for step in range(1, 13):
        state = move(module, step)
        average.update(module, step, epochs=step / 4)
        if step / 4 <= start_epoch:
            expected = state
        elif step % every == 0:
            updates += 1
            for name, tensor in state.items():
                is_count = name.endswith("num_batches_tracked")
                expected[name] = tensor if is_count else 0.9 * expected[name] + (1 - 0.9) * tensor
        check(average, expected)
    assert updates == {(1, 0.0): 12, (1, 1.0): 8, (3, 0.0): 4, (3, 1.0): 3}[every, start_epoch]


@pytest.mark.parametrize(("start_epoch", "every"), [(1, 1), (2, 1), (1, 3)])
def test_swa_is_the_mean_of_the_weights_after_its_epochs(start_epoch: int, every: int) -> None:
    """Beside torch.optim.swa_utils and the mean written out."""
    module, exact = network().double(), {"rtol": 1e-12, "atol": 1e-12}
    average = WeightAverage(SWA(start_epoch=start_epoch, every=every), module)
    theirs = torch.optim.swa_utils.AveragedModel(module, use_buffers=True)
    taken: list[dict[str, torch.Tensor]] = []
    for step in range(4 * 8 + 1):
        state = copy.deepcopy(module.state_dict()) if step == 0 else move(module, step)
        if step:
            average.update(module, step, epochs=step / 4)
        if step >= 4 * start_epoch and step % 4 == 0 and (step // 4 - start_epoch) % every == 0:
            taken.append(state)
            theirs.update_parameters(module)
        if step <= 4 * start_epoch:
            check(average, state)
            continue
        for name, tensor in average.module.named_parameters():
            torch.testing.assert_close(tensor, torch.stack([each[name] for each in taken]).mean(0), **exact)
            torch.testing.assert_close(tensor, theirs.module.get_parameter(name), **exact)
    assert WeightMean.of_swa(SWA(start_epoch=start_epoch, every=every), 8).count == len(taken)


def test_ema_until_its_start_the_average_is_the_weights_bit_for_bit() -> None:
    module = network()
    average = WeightAverage(EMA(decay=0.999, start_epoch=2.5), module)
    for step in range(1, 6):
        state = move(module, step)
        average.update(module, step, epochs=step / 2)
        assert all(torch.equal(tensor, state[name]) for name, tensor in average.state_dict().items())
    move(module, 6)
    average.update(module, 6, epochs=3.0)
    assert not torch.equal(average.module[3].weight, module[3].weight)  # type: ignore[index]


def test_decay_zero_is_the_weights_themselves() -> None:
    module = network()
    average = WeightAverage(EMA(decay=0.0), module)
    state = move(module, 1)
    average.update(module, 1, epochs=0.1)
    assert all(torch.equal(tensor, state[name]) for name, tensor in average.state_dict().items())


@pytest.mark.parametrize("spec", [EMA(decay=0.99, every=2, start_epoch=1.0), SWA(start_epoch=1)])
@pytest.mark.parametrize("epochs", [0.5, 2.0])
def test_run_that_continues_from_a_checkpoint_has_the_same_average(epochs: float, spec: EMA | SWA) -> None:
    module = network()
    average = WeightAverage(spec, module)
    for step in range(1, 4):
        move(module, step)
        average.update(module, step, epochs)
    file = io.BytesIO()
    torch.save({"model": module.state_dict(), "ema": average.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    other = network()
    other_average = WeightAverage(spec, other)
    other.load_state_dict(saved["model"])
    other_average.load_state_dict(saved["ema"])
    for step in range(4, 9):
        move(module, step)
        average.update(module, step, epochs)
        move(other, step)
        other_average.update(other, step, epochs)
    ours, theirs = average.state_dict(), other_average.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_averaged_network_evaluates_without_gradients_and_leaves_the_trained_one_in_training() -> None:
    module = network().to(memory_format=torch.channels_last)
    average = WeightAverage(EMA(decay=0.9), module)
    move(module, 1)
    average.update(module, 1, epochs=0.1)
    assert module.training
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert not any(part.training for part in average.module.modules())
    assert not any(parameter.requires_grad for parameter in average.module.parameters())
    addresses = {tensor.data_ptr() for tensor in module.state_dict().values()}
    assert addresses.isdisjoint(tensor.data_ptr() for tensor in average.state_dict().values())


def test_channels_last_is_kept_by_the_copy_the_updates_and_a_checkpoint() -> None:
    module = build_model(CifarResNet(depth=8), 10).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = WeightAverage(EMA(decay=0.9, start_epoch=1.0), module)
    average.update(module, 1, epochs=0.5)
    average.update(module, 2, epochs=1.5)
    average.load_state_dict({name: tensor.contiguous() for name, tensor in average.state_dict().items()})
    convolutions = [part.weight for part in average.module.modules() if isinstance(part, nn.Conv2d)]
    assert len(convolutions) == 7
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in convolutions)


def test_average_of_a_different_network_is_not_taken() -> None:
    with pytest.raises(RuntimeError, match="Missing key"):
        WeightAverage(EMA(decay=0.9), network()).load_state_dict({"0.weight": torch.zeros(4, 3, 3, 3)})


def test_update_reads_nothing_from_the_device() -> None:
    class Reads(TorchDispatchMode):
        found = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.found += func is torch.ops.aten._local_scalar_dense.default
            return func(*args, **(kwargs or {}))

    module = network()
    average = WeightAverage(EMA(decay=0.9, start_epoch=1.0), module)
    with Reads() as reads:
        average.update(module, 1, epochs=0.5)
        average.update(module, 2, epochs=1.5)
        assert reads.found == 0
        torch.ones(1).item()
    assert reads.found == 1
