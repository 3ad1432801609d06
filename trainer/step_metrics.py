"""Losses, gradient norms and loss scales of the latest steps, buffered on the device and read when they are logged.

Reading also checks them: for loss spikes, values that are not finite, and a collapsed loss scale of fp16.
"""

import math
import statistics
from collections.abc import Callable
from typing import NamedTuple

import torch

from trainer.distributed.process_group import World, gather, start_sum, sum_over_ranks
from trainer.errors import UserError

DIVERGED = "restart in a new --run-dir with a lower --optimizer.lr, a longer warmup or --precision bf16"
LOSS, NORM, SCALE = range(3)
_MIN_LOSSES = 8  # fewer have no meaningful median
_MIN_SCALE = 1.0  # fp16 scales gradients up so that they do not underflow; below this they overflow unscaled


class StepRecord(NamedTuple):
    """One step, over all ranks."""

    step: int  # as in metrics.jsonl: the number of steps complete after it
    loss: float
    grad_norm: float  # of the whole gradient, before clipping; not finite where fp16's scaler skipped the step
    loss_scale: float  # 1 except for fp16


class Summary(NamedTuple):
    """The steps since the last line of the log."""

    loss: float  # mean
    grad_norm: float | None  # mean, without skipped steps; None if all were skipped
    grad_norm_max: float | None
    skipped: int  # steps that fp16's scaler skipped, because their gradient was not finite
    spikes: list[StepRecord]
    median: float  # of the losses of the latest steps, which may be more


class NotFiniteError(UserError):
    """Training cannot continue. Raised by all ranks together."""

    def __init__(self, what: str, latest: list[StepRecord], losses: list[float]) -> None:
        """`latest`: the latest steps, ending with the first that is not finite. `losses`: that step's, by rank."""
        super().__init__(f"{what}: {DIVERGED}")
        self.what, self.latest, self.losses = what, latest, losses


class StepMetrics:
    """A ring buffer on the device with the metrics of the latest `count` steps, and of as many before them.

    A problem of a step may be found `count` steps later, and the losses of that step's ranks are then still there.
    """

    def __init__(self, count: int, world: World, *, scaled: bool) -> None:
        """`scaled`: there is a loss scale, as for fp16, and steps whose gradient is not finite are skipped."""
        self._count, self._world, self._scaled = count, world, scaled
        self._buffer = torch.zeros(3, 2 * count, dtype=torch.float64, device=world.device)
        self._restored = torch.zeros(3, 2 * count, dtype=torch.float64)  # means over the ranks of an earlier start
        self._restored_until = 0  # the first step that they do not know
        self.known_from = 0  # the first step that was recorded here or in them

    def start(self, step: int) -> None:
        """Clears the slot of the step that begins, after `step` complete ones."""
        self._buffer[:, self._slot(step)] = 0

    def add_loss(self, step: int, loss: torch.Tensor) -> None:
        """Adds one micro-batch's share of the step's loss."""
        self._buffer[LOSS, self._slot(step)] += loss.detach()

    def add_gradient(self, step: int, norm: torch.Tensor, scale: torch.Tensor) -> None:
        """Records the norm of the step's gradient, before clipping, and its loss scale."""
        self._buffer[NORM, self._slot(step)] = norm.detach()
        self._buffer[SCALE, self._slot(step)] = scale

    def read(self, step: int, since: int = 0) -> Summary:
        """Summarises the steps after `since`, of `step` complete ones: see start_reading."""
        return self.start_reading(step, since)()

    def start_reading(self, step: int, since: int = 0) -> Callable[[], Summary]:
        """Begins to sum over the ranks; the function that is returned waits for the sums and summarises them.

        It summarises the steps after `since`, of `step` complete ones. Spikes are judged among the latest `count`
        steps, which may be more: a median needs enough losses. All ranks must call both; the second one raises
        NotFiniteError, and no more than `count` further steps may be complete by then.
        """
        summed = start_sum(self._world, self._buffer)
        return lambda: self._summarise(self._checked(self._means(summed(), step), step), since)

    def means(self, step: int) -> torch.Tensor:
        """Computes the buffer's means over the ranks: float64, on the CPU.

        Raises NotFiniteError for an invalid step.
        """
        means = self._means(sum_over_ranks(self._world, self._buffer), step)
        self._checked(means, step)
        return means

    def _checked(self, means: torch.Tensor, step: int) -> list[StepRecord]:
        latest = self._records(means, step)
        for number, record in enumerate(latest, 1):
            if what := _problem(record, self._scaled):
                raise NotFiniteError(what, latest[:number], self._losses_by_rank(record.step - 1))
        return latest

    def _summarise(self, latest: list[StepRecord], since: int) -> Summary:
        records = [record for record in latest if record.step > since]
        losses = [record.loss for record in records]
        norms = [record.grad_norm for record in records if math.isfinite(record.grad_norm)]
        found = [latest[index] for index in spikes([record.loss for record in latest])]
        return Summary(
            loss=math.fsum(losses) / len(losses),
            grad_norm=math.fsum(norms) / len(norms) if norms else None,
            grad_norm_max=max(norms, default=None),
            skipped=len(records) - len(norms),
            spikes=[spike for spike in found if spike.step > since],
            median=statistics.median(record.loss for record in latest),
        )

    def not_finite(self, what: str, step: int) -> NotFiniteError:
        """Returns the error for a problem found elsewhere after `step` complete steps. Called by all ranks together."""
        means = self._means(sum_over_ranks(self._world, self._buffer), step)
        return NotFiniteError(what, self._records(means, step), self._losses_by_rank(step - 1))

    def restore(self, means: torch.Tensor, known_from: int, step: int) -> None:
        """Takes what means() returned after `step` steps, of any number of ranks.

        If its `count` differs, the records begin there.
        """
        if means.shape != self._restored.shape:
            self.known_from = step
        else:
            self._restored, self._restored_until, self.known_from = means, step, known_from

    def _means(self, summed: torch.Tensor, step: int) -> torch.Tensor:
        """The means over the ranks of each slot after `step` steps, from the sums of those that were recorded here."""
        means = summed / self._world.size
        first = max(0, step - means.shape[1])
        restored = [self._slot(number) for number in range(first, min(step, self._restored_until))]
        means[:, restored] = self._restored[:, restored]
        return means

    def _records(self, means: torch.Tensor, step: int) -> list[StepRecord]:
        first = max(self.known_from, step - self._count)
        values = means.T.tolist()
        return [StepRecord(number + 1, *values[self._slot(number)]) for number in range(first, step)]

    def _losses_by_rank(self, step: int) -> list[float]:
        return gather(self._world, float(self._buffer[LOSS, self._slot(step)]))

    def _slot(self, step: int) -> int:
        return step % self._buffer.shape[1]


def spikes(losses: list[float]) -> list[int]:
    """Finds the indices of outliers: above twice the median, and above it by more than 20 median absolute deviations.

    Near the end of training the losses of batches follow an exponential distribution rather than a normal one. Of such
    values one in 30,000 is that far out.
    """
    if len(losses) < _MIN_LOSSES:
        return []
    median = statistics.median(losses)
    deviation = statistics.median(abs(loss - median) for loss in losses)
    limit = max(2 * median, median + 20 * deviation)
    return [index for index, loss in enumerate(losses) if loss > limit]


def _problem(record: StepRecord, scaled: bool) -> str | None:
    if not math.isfinite(record.loss):
        return f"the loss of step {record.step} is not finite"
    if scaled and record.loss_scale < _MIN_SCALE:
        return f"fp16's loss scale has collapsed to {record.loss_scale:g} at step {record.step}, its gradients overflow"
    if not scaled and not math.isfinite(record.grad_norm):
        return f"the gradient of step {record.step} is not finite"
    return None
