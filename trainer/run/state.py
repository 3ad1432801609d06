"""The whole state of a run: what a checkpoint holds, and what is put back when a run goes on.

There is no random state in it, because nothing draws from a generator that goes on from step to step.
"""

from dataclasses import asdict, dataclass, fields
from typing import Self

import torch
from torch import nn

from trainer.ema import Average
from trainer.errors import UserError, first_line
from trainer.run.checkpoint import State
from trainer.step_metrics import StepMetrics

FOREIGN = "it is of another version of this program, use another --run-dir"


@dataclass
class Position:
    """Where training is. After the last batch of an epoch comes its evaluation, then the next epoch's batch 0."""

    steps_per_epoch: int
    epoch: int = 0
    batch: int = 0  # optimizer steps complete in this epoch
    best_top1: float = -1.0  # of the epochs evaluated so far, in %

    @classmethod
    def of(cls, state: State) -> Self:
        """That of a checkpoint. Raises UserError where it holds another program's, or nonsense."""
        found = state["position"]
        names = [field.name for field in fields(cls)]
        numbers = isinstance(found, dict) and all(type(value) in (int, float) for value in found.values())
        if not numbers or [*found] != names or not 0 <= found["batch"] <= found["steps_per_epoch"]:
            raise UserError(
                f"the checkpoint's position is {found!r:.100}, not numbers for {', '.join(names)}: {FOREIGN}"
            )
        return cls(**found)

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


@dataclass
class TrainingState:
    """Everything that changes while training."""

    module: nn.Module
    average: Average | None
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    metrics: StepMetrics
    position: Position

    @property
    def networks(self) -> dict[str, nn.Module]:
        """What is evaluated, by the name of its metrics; the last one's is the result."""
        return {"eval": self.module} | ({"eval_ema": self.average.module} if self.average else {})

    def save(self) -> State:
        """For a checkpoint. Called by all ranks together; module and buffers are this rank's own.

        Raises NotFiniteError, the same on all ranks, where a loss or a weight is not: that is not worth keeping.
        """
        finite = torch.stack([parameter.isfinite().all() for parameter in self.module.parameters()])
        if not finite.all():
            step = self.position.step
            raise self.metrics.not_finite(f"the weights are not finite after step {step}", step)
        return {
            "step": self.position.step,
            "position": asdict(self.position),
            "model": self.module.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "numbers": self.metrics.summed(self.position.step),
            "numbers_from": self.metrics.known_from,
        }

    def restore(self, state: State) -> None:
        """Takes what save() returned. Raises UserError where it does not fit."""
        for name, value in asdict(Position.of(state)).items():
            setattr(self.position, name, value)
        try:
            self._restore(state)
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
            raise UserError(f"the checkpoint does not fit this recipe: {first_line(error)}: {FOREIGN}") from error

    def _restore(self, state: State) -> None:
        self.module.load_state_dict(state["model"])
        if self.average:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.metrics.restore(state["numbers"], state["numbers_from"], state["step"])
