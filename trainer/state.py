"""The whole state of a run: what a checkpoint holds, and what is put back when a run goes on.

There is no random state in it, because nothing draws from a generator that goes on from step to step.
"""

import math
from dataclasses import asdict, dataclass

import torch
from torch import nn

from trainer.checkpoint import State
from trainer.distributed import World, sum_over_ranks
from trainer.ema import Average
from trainer.errors import UserError

DIVERGED = "start anew in another --run-dir with a lower --optimizer.lr, a longer warmup or --precision bf16"


@dataclass
class Position:
    """Where training is. After the last batch of an epoch comes its evaluation, then the next epoch's batch 0."""

    steps_per_epoch: int
    epoch: int = 0
    batch: int = 0  # optimizer steps complete in this epoch
    best_top1: float = -1.0  # of the epochs evaluated so far, in %

    @property
    def step(self) -> int:
        """Optimizer steps complete since the start of training."""
        return self.epoch * self.steps_per_epoch + self.batch

    @property
    def epochs(self) -> float:
        """Epochs complete since the start of training, with their fraction."""
        return self.step / self.steps_per_epoch

    def is_last(self, epochs: int) -> bool:
        """Whether nothing is left to train."""
        return self.step == epochs * self.steps_per_epoch

    def start_next_epoch(self, top1: float) -> None:
        """After an evaluation with that top-1, in %."""
        self.epoch, self.batch, self.best_top1 = self.epoch + 1, 0, max(top1, self.best_top1)


class StepLosses:
    """The losses of the latest `count` steps, kept on the device and read only when they are logged or saved."""

    def __init__(self, count: int, world: World) -> None:
        self._world = world
        self._losses = torch.zeros(count, dtype=torch.float64, device=world.device)
        self.known_from = 0  # first step whose loss is here

    def start(self, step: int) -> None:
        """Makes room for the loss of the step after `step` complete ones."""
        self._losses[step % len(self._losses)] = 0

    def add(self, step: int, loss: torch.Tensor) -> None:
        """Adds a micro-batch's share of that loss."""
        self._losses[step % len(self._losses)] += loss.detach()

    def mean(self, step: int) -> float:
        """The mean over the latest steps, of which `step` are complete, and over all ranks; called by all together."""
        return math.fsum(self.summed().tolist()) / self._world.size / min(len(self._losses), step - self.known_from)

    def summed(self) -> torch.Tensor:
        """Each step's loss, summed over the ranks: float64, on the CPU. Raises UserError where one is not finite."""
        losses = sum_over_ranks(self._world, self._losses)
        if not losses.isfinite().all():
            raise UserError(f"the loss is not finite: {DIVERGED}")
        return losses

    def restore(self, summed: torch.Tensor, known_from: int, step: int) -> None:
        """Takes what summed() returned after `step` steps; where it was another `count`, starts anew from there."""
        self.known_from = known_from
        if len(summed) != len(self._losses):
            self.known_from = step
        elif self._world.is_main:  # the sum over the ranks is one rank's from now on
            self._losses.copy_(summed)


@dataclass
class TrainingState:
    """Everything that changes while training."""

    module: nn.Module
    average: Average | None
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    losses: StepLosses
    position: Position

    @property
    def networks(self) -> dict[str, nn.Module]:
        """What is evaluated, by the name of its metrics; the last one's is the result."""
        return {"eval": self.module} | ({"eval_ema": self.average.module} if self.average else {})

    def save(self) -> State:
        """For a checkpoint. Called by all ranks together; module and buffers are this rank's own.

        Raises UserError, the same on all ranks, where a loss or a weight is not finite: that is not worth keeping.
        """
        finite = torch.stack([parameter.isfinite().all() for parameter in self.module.parameters()])
        if not finite.all():
            raise UserError(f"the weights are not finite after step {self.position.step}: {DIVERGED}")
        return {
            "step": self.position.step,
            "position": asdict(self.position),
            "model": self.module.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "losses": self.losses.summed(),
            "losses_from": self.losses.known_from,
        }

    def restore(self, state: State) -> None:
        for name, value in state["position"].items():
            setattr(self.position, name, value)
        self.module.load_state_dict(state["model"])
        if self.average:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.losses.restore(state["losses"], state["losses_from"], state["step"])
