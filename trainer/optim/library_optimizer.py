"""Optimizers of timm by their name there, over our parameter groups."""

import difflib
import inspect
from collections.abc import Iterable
from typing import Any

import torch

from trainer.errors import UserError, first_line
from trainer.recipe import LibraryOptimizer


def library_optimizer(spec: LibraryOptimizer, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Builds timm's optimizer over `groups`, each with its own "lr" and "weight_decay".

    What `spec.options` leaves out has timm's default for the name. Raises UserError for a name or an option that timm
    does not have, for a value that it refuses, and for an optimizer that a run could not continue exactly.
    """
    from timm import optim as timm_optim

    library: Any = timm_optim  # whose names are not exported for mypy
    name = spec.name.partition("/")[2]
    known = library.list_optimizers()
    if name not in known:
        raise UserError(f"optimizer.name: timm has no optimizer {name!r}; {_similar(name, known)}")
    if library.get_optimizer_info(name).second_order:
        raise UserError(
            f"optimizer.name={spec.name!r} is of second order: it differentiates the gradient, which DDP and "
            f"accumulation cannot do. Choose an optimizer of first order"
        )
    try:
        kind = library.get_optimizer_class(name, bind_defaults=False)
    except (ImportError, AssertionError) as error:  # of apex and bitsandbytes
        raise UserError(f"optimizer.name={spec.name!r} cannot be used here: {first_line(error)}") from error
    if kind.__name__ == "Kron":
        raise UserError(
            f"optimizer.name={spec.name!r} is not deterministic, so that a stopped run would not continue to the same "
            f"weights. Choose a different optimizer"
        )
    options = inspect.signature(kind).parameters.keys() - {"params", "lr", "weight_decay"}
    for option in spec.options:
        if option not in options:
            raise UserError(f"optimizer.options: {spec.name} has no option {option!r}; {_similar(option, options)}")
    try:
        optimizer: torch.optim.Optimizer = library.create_optimizer_v2(
            groups, opt=name, lr=spec.lr, weight_decay=spec.weight_decay, **spec.options
        )
    except (AssertionError, TypeError, ValueError, RuntimeError) as error:  # each checks its values in its own way
        raise UserError(f"optimizer.options={spec.options}: {spec.name} refuses them: {first_line(error)}") from error
    return optimizer


def tensors_per_parameter(spec: LibraryOptimizer) -> int:
    """Counts the tensors of a parameter's size that the optimizer keeps for it, after a step on a small one."""
    weight = torch.nn.Parameter(torch.ones(16, 16, 3, 3))
    optimizer = library_optimizer(spec, [{"params": [weight], "weight_decay": spec.weight_decay, "lr": spec.lr}])
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    kept = [value for value in optimizer.state[weight].values() if isinstance(value, torch.Tensor)]
    return round(sum(value.numel() for value in kept) / weight.numel())


def _similar(name: str, known: Iterable[str]) -> str:
    listed = sorted(known)
    if close := difflib.get_close_matches(name, listed, n=3):
        return f"did you mean {' or '.join(close)}?"
    return f"it has {', '.join(listed)}"
