"""What a CUDA graph does, on a CPU: the operations of a function with their arguments, to be done again.

As on a GPU, tensors keep their places, numbers are those of the recording, and random numbers follow the seed of the
replay. A value that the host reads ends the recording.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trainer.cuda_graph import Computed, Recorder


class Operation(NamedTuple):
    function: Any
    args: Sequence[Any]
    kwargs: dict[str, Any]
    places: list[Any]  # where the results of a replay go: those of the recording


class Recording(TorchDispatchMode):  # type: ignore[misc]  # torch has no types for it
    """Its operations are done while it records, which a GPU would not do; record() undoes them."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[Operation] = []
        self.replays = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing")
        result = func(*args, **(kwargs or {}))
        self.operations.append(Operation(func, args, kwargs or {}, tree_leaves(result)))
        return result

    def reset(self) -> None:
        self.operations.clear()

    @torch.no_grad()
    def replay(self) -> None:
        assert self.operations, "there is nothing to replay"
        self.replays += 1
        for function, args, kwargs, places in self.operations:
            for place, result in zip(places, tree_leaves(function(*args, **kwargs)), strict=True):
                if isinstance(place, torch.Tensor) and place.data_ptr() != result.data_ptr():
                    place.copy_(result)
                elif function.namespace == "c10d" and isinstance(result, torch.ScriptObject):
                    dist.Work.unbox(result).wait()  # an exchange between ranks


def recorder(changed: Callable[[], list[torch.Tensor]], recordings: list[Recording], without: str = "") -> Recorder:
    """A Recorder of trainer.cuda_graph. `changed`: the tensors that a recording must not change.

    `recordings`: the list that gets each recording. `without`: a fault, the name of an operation that is not done
    again.
    """

    def record(step: Callable[[], Computed]) -> tuple[Recording, Computed]:
        before = [tensor.clone() for tensor in changed()]
        recording = Recording()
        with recording:
            computed = step()
        with torch.no_grad():
            for tensor, saved in zip(changed(), before, strict=True):
                tensor.copy_(saved)
        if without:
            kept = [each for each in recording.operations if without not in str(each.function)]
            assert len(kept) < len(recording.operations)
            recording.operations = kept
        recordings.append(recording)
        return recording, computed

    return record
