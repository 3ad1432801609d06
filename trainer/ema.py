"""An average of the weights over time, evaluated beside them: exponential (EMA) or equal (SWA)."""

from typing import Any

import torch
from torch import nn

from trainer.recipe import EMA, SWA


class WeightAverage:
    """A copy of a network that holds the average of its weights and running statistics.

    Create it after `module` is on its device, and before `module` is compiled or wrapped in DDP.
    """

    def __init__(self, spec: EMA | SWA, module: nn.Module) -> None:
        from timm.utils.model_ema import ModelEmaV3

        self._spec = spec
        self.kind = "eval_ema" if isinstance(spec, EMA) else "eval_swa"
        """what its evaluations are called in the log"""
        self._average = ModelEmaV3(module)  # a copy, whose state it moves by one kernel for all
        self.module: nn.Module = self._average.module
        """the averaged network: in eval mode, without gradients"""
        self.module.eval().requires_grad_(False)

    def update(self, module: nn.Module, step: int, epochs: float) -> None:
        """Updates the average after an optimizer step. `step` steps and `epochs`, with a fraction, are complete.

        Until spec.start_epoch, that included, the average is a copy. Then at each update it becomes
        decay * average + (1 - decay) * weights, and so do running statistics; counts are copied. An EMA is updated
        after each spec.every steps. An SWA is updated after each spec.every epochs, with n / (n + 1) for decay where n
        sets of weights are in the mean. Nothing is read from the device.
        """
        if epochs <= self._spec.start_epoch:
            self._average.apply_update_(module, decay=0.0)  # exact: the end of a linear interpolation
            return
        match self._spec:
            case EMA(decay=decay, every=every):
                if step % every == 0:
                    self._average.apply_update_(module, decay=decay)
            case SWA(start_epoch=start, every=every):
                if (epochs - start) % every == 0:  # exact: a step that ends an epoch is a whole number of them
                    count = round(epochs - start) // every
                    self._average.apply_update_(module, decay=count / (count + 1))

    def state_dict(self) -> dict[str, Any]:
        """Returns the averaged network's state, under the names of the network itself."""
        return self.module.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes what state_dict() returned, bit for bit. Raises RuntimeError for another network's."""
        with torch.no_grad():
            self.module.load_state_dict(state)
