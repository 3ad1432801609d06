"""The host waits for a GPU that is too far behind, and for nothing else."""

import time
from collections.abc import Callable
from types import ModuleType
from unittest.mock import MagicMock

import pytest
import torch

from tests.support.recorded_run import RECIPE, Run
from trainer import cuda_graph, precise_bn
from trainer.distributed import process_group, same_weights
from trainer.distributed.run_ahead import AHEAD, RunAhead, wait_for_device, wait_for_gpu, waits_since
from trainer.run import state


class Event:
    """As torch.cuda.Event, of a GPU whose work ends when it is waited for."""

    recorded = 0
    waited_for: list[int]

    def __init__(self, *, blocking: bool) -> None:
        assert blocking, "a host that spins takes a core from the loader"

    def record(self) -> None:
        Event.recorded += 1
        self._number = Event.recorded

    def synchronize(self) -> None:
        Event.waited_for.append(self._number)


def test_host_is_at_most_so_many_micro_batches_ahead_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", Event)
    Event.recorded, Event.waited_for = 0, []
    run_ahead = RunAhead(torch.device("cuda", 0))
    for _ in range(AHEAD):
        run_ahead.after_batch()
    assert Event.waited_for == []
    for _ in range(3):
        run_ahead.after_batch()
    assert Event.waited_for == [1, 2, 3]


def test_wait_for_a_gpu_is_known_while_it_lasts() -> None:
    seen: list[float | None] = []

    def synchronize() -> None:
        seen.append(waits_since())
        raise RuntimeError("CUDA error: unspecified launch failure")

    before = time.monotonic()
    with pytest.raises(RuntimeError):
        wait_for_gpu(MagicMock(synchronize=synchronize))
    assert seen[0] is not None and before <= seen[0] <= time.monotonic()
    assert waits_since() is None


def test_wait_for_a_device_is_for_all_that_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", Event)
    Event.recorded, Event.waited_for = 0, []
    wait_for_device(torch.device("cuda", 0))
    assert Event.waited_for == [1]


class WaitedError(Exception):
    pass


READS: list[tuple[ModuleType, Callable[[Run], object]]] = [
    (cuda_graph, Run.train),  # compares the first replay with a plain step
    (cuda_graph, lambda run: run.step.close()),
    (state, lambda run: run.state.save()),
    (same_weights, lambda run: same_weights.digest(run.state.module.parameters())),
    (
        precise_bn,
        lambda run: precise_bn.measure_norms(run.state.module, [torch.ones(2, 3, 16, 16)], run.world, "fp32"),
    ),
]


@pytest.mark.parametrize(("module", "read"), READS)
def test_reader_of_a_device_waits_where_the_watchdog_sees_it(
    module: ModuleType, read: Callable[[Run], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU that hangs in the first replay of a CUDA graph, or before a save, would otherwise hang for ever."""

    def wait(_device: torch.device) -> None:
        raise WaitedError

    with process_group.initialize("cpu", timeout_minutes=1) as world:
        run = Run(world, RECIPE)
        monkeypatch.setattr(module, "wait_for_device", wait)
        with pytest.raises(WaitedError):
            read(run)


def test_cpu_is_never_ahead_nor_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", lambda **_: pytest.fail("an event of a GPU"))
    RunAhead(torch.device("cpu")).after_batch()
    wait_for_device(torch.device("cpu"))
