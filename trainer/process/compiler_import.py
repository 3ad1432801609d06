"""torch's compiler, torch._dynamo, is imported by those who compile: the import takes as long as torch's own.

The compiler must not look into an optimizer. So the methods below import it when they are first called, ask it for a
version of themselves that is left alone, and keep that version (torch/_compile.py, _disable_dynamo). In eager mode the
version is the method itself, and our compiled graphs hold the network alone. If a version of torch keeps it elsewhere,
the method imports the compiler as before. DistributedDataParallel always imports it.
"""

import inspect
from typing import Any, TypeVar

import torch
from torch.optim import Optimizer

T = TypeVar("T", bound=Optimizer)

_LEFT_ALONE: tuple[Any, ...] = (
    Optimizer.add_param_group,
    Optimizer.zero_grad,
    Optimizer.state_dict,
    Optimizer.load_state_dict,
)


def eager_optimizer(kind: type[T]) -> type[T]:
    """torch.optim's class without the import of torch's compiler; it computes the same.

    torch's own step() imports the compiler in order to end a graph before and after it computes without gradients
    (torch/optim/optimizer.py, _use_grad_for_differentiable).
    """
    for method in _LEFT_ALONE:
        function = inspect.unwrap(method)
        function.__dict__.setdefault("__dynamo_disable", function)
    step = torch.no_grad()(inspect.unwrap(kind.step))
    return type(kind.__name__, (kind,), {"step": step})
