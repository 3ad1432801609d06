"""The optimizer's state out of a checkpoint, given to the parameters by their names."""

from itertools import chain
from typing import Any

import torch
from torch import nn

from trainer.optim.optimizer import NORMS, sort_parameters


def load_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any], model: nn.Module) -> None:
    """Loads what the state_dict() of an optimizer over the same parameters of `model` returned.

    torch matches them by their place alone. Another version of the trainer or of a library may group or order them in
    another way, so they are first put into the saved groups and order: the run continues with the weight decay that it
    had. Raises ValueError if the parameters are others, or have no names and may be in another order.
    """
    names = [group.get("param_names") for group in saved["param_groups"]]
    if None not in names:
        groups = optimizer.param_groups
        ours = dict(chain(*(zip(group["param_names"], group["params"], strict=True) for group in groups)))
        if differing := {*chain(*names)} ^ ours.keys():
            raise ValueError(f"its optimizer and that of the recipe do not share {min(differing)}")
        groups[:] = [{"params": [ours[name] for name in group]} for group in names]
    elif not _sorted_as_ever(model):
        raise ValueError("its optimizer does not name its tensors, and their order has changed since")
    optimizer.load_state_dict(saved)


def _sorted_as_ever(model: nn.Module) -> bool:
    """Whether `model` has only tensors of the kinds that every version knew: those of torch's norms, and "bias"."""
    weights, biases, norms = map(set, sort_parameters(model))
    return all(
        parameter in (norms if isinstance(module, NORMS) else biases if name == "bias" else weights)
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.requires_grad
    )
