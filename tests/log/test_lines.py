"""Lines of metrics: summed over the ranks in the background, and written one line later with their own values."""

from dataclasses import replace
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
import torch.distributed as dist

from trainer.distributed.process_group import World
from trainer.log.cadence import Cadence
from trainer.log.lines import LogLines
from trainer.run.state import Position
from trainer.step_metrics import NotFiniteError, StepMetrics


class Ranks:
    """Two ranks with the same metrics, of which this one is rank 0; rank 1 takes twice as long for its own part."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.world = World(rank=0, size=2, local_rank=0, local_size=2, device=torch.device("cpu"), gloo=MagicMock())
        self.waited = 0
        monkeypatch.setattr(dist, "all_reduce", self._all_reduce)
        self.log, self.at = MagicMock(), Position(steps_per_epoch=100)
        self.metrics = StepMetrics(4, self.world, scaled=False)
        self.lines = LogLines(self.log, Cadence(2), self.metrics, self.world)
        self.throughput = self.lines.throughput

    def _all_reduce(self, tensor: torch.Tensor, **_: Any) -> MagicMock:
        work = MagicMock()
        work.wait.side_effect = lambda: self._arrive(tensor)
        return work

    def _arrive(self, tensor: torch.Tensor) -> None:
        self.waited += 1
        tensor.copy_(torch.stack([tensor[0], 2 * tensor[0]]) if tensor.ndim == 1 else 2 * tensor)

    def step(self, loss: float) -> None:
        self.metrics.start(self.at.step)
        self.metrics.add_loss(self.at.step, torch.tensor(loss))
        self.metrics.add_gradient(self.at.step, torch.tensor(1.0), torch.tensor(1.0))
        self.throughput.wait_for(iter([None]))
        self.throughput.forward_done()
        self.throughput.images += 8
        self.at.batch += 1
        self.lines.after_step(self.at, lr=self.at.step / 10)

    @property
    def written(self) -> list[tuple[int, float, float]]:
        calls = [call for call in self.log.steps.call_args_list]
        return [(call.args[0].step, call.kwargs["lr"], call.kwargs["steps"].loss) for call in calls]


def test_line_is_written_when_the_next_begins_with_its_own_values(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = Ranks(monkeypatch)
    ranks.step(8.0)
    assert (ranks.written, ranks.waited) == ([], 0)
    ranks.step(4.0)
    assert ranks.written == [(1, 0.1, 8.0)]
    for loss in (3.0, 2.0):
        ranks.step(loss)
    assert ranks.written == [(1, 0.1, 8.0), (2, 0.2, 4.0)]
    ranks.lines.flush()
    ranks.lines.flush()
    assert ranks.written == [(1, 0.1, 8.0), (2, 0.2, 4.0), (4, 0.4, 2.5)]
    slowest = [call.kwargs["rates"].slowest_rank for call in ranks.log.steps.call_args_list]
    assert slowest == [None, 1, 1]  # that of the interval before
    assert ranks.log.progress.call_count == 4


def test_line_with_a_loss_that_is_not_finite_is_an_error_at_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = Ranks(monkeypatch)
    monkeypatch.setattr(
        StepMetrics, "_losses_by_rank", lambda self, step: [self._buffer[0, self._slot(step)].item()] * 2
    )
    for loss in (1.0, 1.0, float("nan")):
        ranks.step(loss)
    ranks.step(5.0)
    ranks.step(5.0)
    with pytest.raises(NotFiniteError, match="the loss of step 3 is not finite") as found:
        ranks.step(5.0)
    assert str(found.value.losses) == "[nan, nan]"  # still known


def test_line_of_one_process_on_a_cpu_is_written_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = Ranks(monkeypatch)
    ranks.lines._world = replace(ranks.world, size=1)
    ranks.step(8.0)
    assert [step for step, *_ in ranks.written] == [1]
