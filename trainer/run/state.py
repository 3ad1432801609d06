"""The state of a training run: what a checkpoint saves, and what a run that continues restores.

It holds no random state, because no generator lives from one step to the next.
"""

from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import torch
from torch import nn

from trainer.distributed.run_ahead import wait_for_device
from trainer.ema import WeightAverage
from trainer.errors import UserError, first_line
from trainer.optim.saved_state import load_optimizer
from trainer.run.checkpoint import FOREIGN, TrainingContent
from trainer.step_metrics import StepMetrics


@dataclass
class Position:
    """Where training is. After the last batch of an epoch comes its evaluation, then the next epoch's batch 0."""

    steps_per_epoch: int
    epoch: int = 0
    batch: int = 0  # optimizer steps complete in this epoch
    best_top1: float = -1.0  # of the epochs evaluated so far, in %

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Returns the position that a checkpoint holds. Raises UserError if its fields are others, or out of range."""
        names = [field.name for field in fields(cls)]
        numbers = isinstance(values, dict) and all(type(value) in (int, float) for value in values.values())
        if not numbers or [*values] != names or not 0 <= values["batch"] <= values["steps_per_epoch"]:
            raise UserError(
                f"the checkpoint's position is {values!r:.100}, not numbers for {', '.join(names)}: {FOREIGN}"
            )
        return cls(**values)

    @property
    def step(self) -> int:
        """Optimizer steps complete since the start of training."""
        return self.epoch * self.steps_per_epoch + self.batch

    @property
    def epochs(self) -> float:
        """Epochs complete since the start of training, with their fraction."""
        return self.step / self.steps_per_epoch

    def is_last(self, epochs: int) -> bool:
        """Whether the training is complete."""
        return self.step == epochs * self.steps_per_epoch

    def start_next_epoch(self, top1: float) -> None:
        """Moves the position to the next epoch, after an evaluation with that top-1, in %."""
        self.epoch, self.batch, self.best_top1 = self.epoch + 1, 0, max(top1, self.best_top1)


@dataclass
class TrainingState:
    """Everything that changes during training."""

    module: nn.Module
    average: WeightAverage | None
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    metrics: StepMetrics
    position: Position

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The networks that are evaluated, by the name of their metrics; the last one gives the result."""
        return {"eval": self.module} | ({self.average.kind: self.average.module} if self.average else {})

    def save(self) -> TrainingContent:
        """Returns the content for a checkpoint. Called by all ranks together; module and buffers are this rank's own.

        Raises NotFiniteError, the same on all ranks, where a loss or a weight is not finite: not worth keeping.
        """
        finite = torch.stack([parameter.isfinite().all() for parameter in self.module.parameters()])
        wait_for_device(finite.device)
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
            "metric_means": self.metrics.means(self.position.step),
            "metrics_from": self.metrics.known_from,
        }

    def restore(self, content: TrainingContent) -> None:
        """Restores what save() returned. Raises UserError if it does not fit."""
        for name, value in asdict(Position.from_dict(content["position"])).items():
            setattr(self.position, name, value)
        try:
            self._restore(content)
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
            raise UserError(f"the checkpoint does not fit this recipe: {first_line(error)}: {FOREIGN}") from error

    def _restore(self, content: TrainingContent) -> None:
        self.module.load_state_dict(content["model"])
        if self.average:
            if content["average"] is None:
                raise ValueError("it has no averaged weights")
            self.average.load_state_dict(content["average"])
        load_optimizer(self.optimizer, content["optimizer"])
        self.scaler.load_state_dict(content["scaler"])
        self.metrics.restore(content["metric_means"], content["metrics_from"], content["step"])
