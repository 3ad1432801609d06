"""Delays the import of torch._dynamo, torch's compiler, until something compiles: it takes as long as torch's own.

The compiler must not look into an optimizer, nor into DistributedDataParallel. So the methods below import it when they
are first called, ask it for a version of themselves that is left alone, and keep that version (torch/_compile.py,
_disable_dynamo). In eager mode the version is the method itself, and our compiled graphs hold the network alone. If a
version of torch keeps it elsewhere, the method imports the compiler as before.
"""

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch.nn.parallel import DistributedDataParallel
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
        _leave_alone(method)
    step = torch.no_grad()(inspect.unwrap(kind.step))
    return type(kind.__name__, (kind,), {"step": step})


@contextmanager
def eager_ddp() -> Iterator[None]:
    """DistributedDataParallel is built in the block without the import of torch's compiler.

    Its constructor asks the compiler's configuration whether the compiler reduces the gradients. Nobody can have said
    so before the compiler is imported. Whatever else is asked for in the block, the compiler answers itself.
    """
    if "torch._dynamo" in sys.modules:
        yield
        return
    if forward := getattr(DistributedDataParallel, "_inside_ddp_forward", None):
        _leave_alone(forward)
    mode = _NotImported(_utils, get_optimize_ddp_mode=lambda *_: "ddp_optimizer")  # the default
    torch._dynamo = _NotImported(_compiler, utils=mode)  # type: ignore[assignment]
    try:
        yield
    finally:
        _remove_stand_in()


class _NotImported:
    """A module of the compiler that is imported when an attribute is read that is not known here."""

    def __init__(self, load: Callable[[], Any], **known: object) -> None:
        self._load = load
        vars(self).update(known)

    def __getattr__(self, name: str) -> Any:
        _remove_stand_in()
        return getattr(self._load(), name)


def _compiler() -> Any:
    import torch._dynamo as compiler

    return compiler


def _utils() -> Any:
    import torch._dynamo.utils as utils

    return utils


def _remove_stand_in() -> None:
    if isinstance(vars(torch).get("_dynamo"), _NotImported):  # else the import has replaced it
        del torch._dynamo


def _leave_alone(method: Any) -> None:
    """The method keeps itself as the version that the compiler leaves alone."""
    function = inspect.unwrap(method)
    function.__dict__.setdefault("__dynamo_disable", function)
