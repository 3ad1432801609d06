"""The host waits for a GPU that is too far behind, and for nothing else."""

import time
from unittest.mock import MagicMock

import pytest
import torch

from trainer.distributed.run_ahead import AHEAD, RunAhead, wait_for_gpu, waits_since


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


def test_cpu_is_never_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", lambda **_: pytest.fail("an event of a GPU"))
    RunAhead(torch.device("cpu")).after_batch()
