"""The optimizer's state out of a checkpoint, given to the parameters by their names."""

from itertools import chain
from typing import Any

import torch


def load_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Loads what the state_dict() of an optimizer over the same parameters returned.

    torch matches them by their place alone. Another version of the trainer or of a library may group or order them in
    another way, so they are first put into the saved groups and order: the run continues with the weight decay that it
    had. Raises ValueError if the parameters are others.
    """
    names = [group["param_names"] for group in saved["param_groups"]]
    groups = optimizer.param_groups
    ours = dict(chain(*(zip(group["param_names"], group["params"], strict=True) for group in groups)))
    if differing := {*chain(*names)} ^ ours.keys():
        raise ValueError(f"its optimizer and that of the recipe do not share {min(differing)}")
    groups[:] = [{"params": [ours[name] for name in group]} for group in names]
    optimizer.load_state_dict(saved)
