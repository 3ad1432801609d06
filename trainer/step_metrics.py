"""Losses, gradient norms and loss scales of the latest steps: kept on the device, read only when they are logged.

Also what is found in them then: a spike, a loss that is not finite, a loss scale of fp16 that has collapsed.
"""

import math
import statistics
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import nn

from trainer.distributed.process_group import World, sum_over_ranks
from trainer.errors import UserError

DIVERGED = "start anew in another --run-dir with a lower --optimizer.lr, a longer warmup or --precision bf16"
LOSS, NORM, SCALE = range(3)
_FEWEST = 8  # losses that have a median worth the name
_LEAST_SCALE = 1.0  # fp16 scales gradients up so that they do not vanish; here they overflow by themselves


class StepRecord(NamedTuple):
    """Of one step, over all ranks."""

    step: int  # as in metrics.jsonl: so many steps are complete after it
    loss: float
    grad_norm: float  # of the whole gradient, before it is clipped; not finite where fp16's scaler left the step out
    loss_scale: float  # 1 but for fp16


class Summary(NamedTuple):
    """Of the steps from one line of the log to the next."""

    loss: float  # mean
    grad_norm: float | None  # mean of the steps that were not left out; None where all were
    grad_norm_max: float | None
    skipped: int  # steps that fp16's scaler left out, because their gradient was not finite
    spikes: list[StepRecord]
    median: float  # of the losses


class NotFiniteError(UserError):
    """Training cannot go on from here. Raised by all ranks together."""

    def __init__(self, what: str, latest: list[StepRecord], losses: list[float]) -> None:
        """`latest`: the steps up to the one that is to blame, the last. `losses`: that one's, by rank."""
        super().__init__(f"{what}: {DIVERGED}")
        self.what, self.latest, self.losses = what, latest, losses


class StepMetrics:
    """What is known of the latest `count` steps."""

    def __init__(self, count: int, world: World, *, scaled: bool) -> None:
        """`scaled`: the loss has a scale, as for fp16, and a step whose gradient is not finite is left out."""
        self._world, self._scaled = world, scaled
        self._numbers = torch.zeros(3, count, dtype=torch.float64, device=world.device)
        self.known_from = 0  # first step that is here

    def start(self, step: int) -> None:
        """Makes room for the step after `step` complete ones."""
        self._numbers[:, self._place(step)] = 0

    def add_loss(self, step: int, loss: torch.Tensor) -> None:
        """Adds a micro-batch's share of that step's loss."""
        self._numbers[LOSS, self._place(step)] += loss.detach()

    def add_gradient(self, step: int, norm: torch.Tensor, scale: torch.Tensor) -> None:
        """The norm of that step's gradient, before clipping, and the scale of its loss."""
        self._numbers[NORM, self._place(step)] = norm.detach()
        self._numbers[SCALE, self._place(step)] = scale

    def read(self, step: int) -> Summary:
        """Of the latest of `step` complete steps. Called by all ranks together; raises NotFiniteError."""
        told = self._told(self.summed(step), step)
        losses = [one.loss for one in told]
        norms = [one.grad_norm for one in told if math.isfinite(one.grad_norm)]
        median = statistics.median(losses)
        return Summary(
            loss=math.fsum(losses) / len(losses),
            grad_norm=math.fsum(norms) / len(norms) if norms else None,
            grad_norm_max=max(norms, default=None),
            skipped=len(told) - len(norms),
            spikes=[told[index] for index in spikes(losses)],
            median=median,
        )

    def summed(self, step: int) -> torch.Tensor:
        """Everything summed over the ranks: float64, on the CPU. Raises NotFiniteError for an unsound step."""
        numbers = sum_over_ranks(self._world, self._numbers)
        latest = self._told(numbers, step)
        for number, told in enumerate(latest, 1):
            if what := _wrong(told, self._scaled):
                raise NotFiniteError(what, latest[:number], self._by_rank(told.step - 1))
        return numbers

    def not_finite(self, what: str, step: int) -> NotFiniteError:
        """For what is found elsewhere after `step` complete steps, on all ranks."""
        return NotFiniteError(
            what, self._told(sum_over_ranks(self._world, self._numbers), step), self._by_rank(step - 1)
        )

    def restore(self, summed: torch.Tensor, known_from: int, step: int) -> None:
        """Takes what summed() returned after `step` steps; where it was another `count`, starts anew from there."""
        self.known_from = known_from
        if summed.shape != self._numbers.shape:
            self.known_from = step
        elif self._world.is_main:  # the sum over the ranks is one rank's from now on
            self._numbers.copy_(summed)

    def _told(self, summed: torch.Tensor, step: int) -> list[StepRecord]:
        first = max(self.known_from, step - summed.shape[1])
        means = (summed / self._world.size).T.tolist()
        return [StepRecord(number + 1, *means[self._place(number)]) for number in range(first, step)]

    def _by_rank(self, step: int) -> list[float]:
        losses: list[float] = [0.0] * self._world.size
        dist.all_gather_object(losses, self._numbers[LOSS, self._place(step)].item(), group=self._world.gloo)
        return losses

    def _place(self, step: int) -> int:
        return step % self._numbers.shape[1]


def gradient_norm(module: nn.Module, limit: float | None) -> torch.Tensor:
    """The norm of the whole gradient, on its device; then it is clipped to `limit`, where there is one."""
    if limit is not None:
        return nn.utils.clip_grad_norm_(module.parameters(), limit)
    return nn.utils.get_total_norm([each.grad for each in module.parameters() if each.grad is not None])


def spikes(losses: list[float]) -> list[int]:
    """The losses that stand out: above twice the median, and by more than 20 median absolute deviations.

    Losses of a batch near the end of training are spread like an exponential distribution rather than a normal one; of
    such, one in 30,000 is that far out.
    """
    if len(losses) < _FEWEST:
        return []
    median = statistics.median(losses)
    deviation = statistics.median(abs(loss - median) for loss in losses)
    limit = max(2 * median, median + 20 * deviation)
    return [index for index, loss in enumerate(losses) if loss > limit]


def _wrong(told: StepRecord, scaled: bool) -> str | None:
    if not math.isfinite(told.loss):
        return f"the loss of step {told.step} is not finite"
    if scaled and told.loss_scale < _LEAST_SCALE:
        return f"fp16's loss scale has collapsed to {told.loss_scale:g} at step {told.step}, its gradients overflow"
    if not scaled and not math.isfinite(told.grad_norm):
        return f"the gradient of step {told.step} is not finite"
    return None
