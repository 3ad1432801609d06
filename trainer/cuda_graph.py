"""The whole optimizer step as a CUDA graph: one launch instead of a thousand, where micro-batches are small.

The first steps with images of each size are plain. Then one is recorded, the recording is compared with the plain step,
and from there on it is replayed. A recording has addresses and constants: a step's images, targets and learning rates
are copied to where it reads them. Its random numbers follow the seed of each replay. See "CUDA Graphs" in PyTorch's
notes on CUDA semantics.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import NamedTuple

import torch
from torch import Tensor

from trainer.distributed.process_group import World
from trainer.errors import LocalError, UserError, first_line
from trainer.recipe import SGD, AdamW, Recipe
from trainer.run.state import TrainingState

WARM_UP, DDP_WARM_UP = 3, 11
"""plain steps before a recording (PyTorch's notes); cuDNN chooses its kernels in the first of them"""
TOLERANCE = 0.05
"""how far a replay's update may be from the plain one, relative to its size; atomic sums differ by less"""


class Computed(NamedTuple):
    """What a step leaves for its metrics: scalars on the device."""

    loss: Tensor
    grad_norm: Tensor  # before clipping
    loss_scale: Tensor


Recorder = Callable[[Callable[[], Computed]], tuple[Callable[[], None], Computed]]
"""Records a function. Returns what replays it, and its result, which every replay writes anew."""


def check_recordable(recipe: Recipe, world: World) -> None:
    """Raises UserError where the recipe's step cannot be one CUDA graph, on this device."""
    if world.device.type != "cuda":
        raise UserError(f"cuda_graph needs a GPU, and this trains on {world.device.type}: leave out --cuda-graph")
    if recipe.precision == "fp16":
        raise UserError("cuda_graph: fp16 decides after each step whether to update: use bf16, or no --cuda-graph")
    if not isinstance(recipe.optimizer, SGD | AdamW):
        name = type(recipe.optimizer).__name__
        raise UserError(
            f"cuda_graph: {name} computes with its learning rate on the host: use SGD or AdamW, or no --cuda-graph"
        )
    if (accumulation := recipe.accumulation(world.size)) > 1:
        raise UserError(
            f"cuda_graph: a step of {accumulation} micro-batches is not one graph: use a micro_batch_size of "
            f"{recipe.global_batch_size // world.size}, or no --cuda-graph"
        )


@cache
def leave_default_stream(device: torch.device) -> None:
    """Gives this thread a stream of its own, for the rest of the process.

    Gradients are accumulated on the stream on which the backward pass first met their parameters. On the default one
    they could not be recorded.
    """
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    torch.cuda.set_stream(stream)


def cuda_recorder() -> Recorder:
    """Records on the current stream. All recordings share their memory, because only one runs at a time."""
    pool = torch.cuda.graph_pool_handle()

    def record(step: Callable[[], Computed]) -> tuple[Callable[[], None], Computed]:
        graph = torch.cuda.CUDAGraph()
        # thread_local: NCCL's watchdog and the threads that pin images go on meanwhile
        with torch.cuda.graph(graph, pool, torch.cuda.current_stream(), capture_error_mode="thread_local"):
            computed = step()
        return graph.replay, computed

    return record


_Size = tuple[torch.Size, torch.Size]  # of images and targets


@dataclass
class _Recording:
    images: Tensor
    targets: Tensor
    replay: Callable[[], None]
    computed: Computed
    is_checked: bool = False


class RecordedStep:
    """Takes a plain step at first, and then replays it. All ranks call it together.

    It reads nothing from the device, except once for each size of the images, when it compares a replay with the plain
    step.
    """

    def __init__(
        self,
        plain: Callable[[Tensor, Tensor], Computed],
        state: TrainingState,
        record: Recorder,
        *,
        warm_up: int,
    ) -> None:
        """`plain`: from images and targets to updated weights. It may change nothing but the state's tensors.

        `warm_up`: plain steps before a recording.
        """
        self._plain, self._state, self._record, self._warm_up = plain, state, record, warm_up
        self._groups = state.optimizer.param_groups
        device = next(state.module.parameters()).device
        self._rates = [torch.zeros((), device=device) for _ in self._groups]  # float32, as the fused kernels read them
        self._plain_steps: dict[_Size, int] = {}
        self._recordings: dict[_Size, _Recording] = {}

    def __call__(self, images: Tensor, targets: Tensor, seed: int) -> Computed:
        """Updates the weights by the groups' "lr". `seed`: of drop path and dropout.

        Raises LocalError where the step cannot be recorded, or where its replay differs from the plain step.
        """
        for group in self._groups:
            group["lr"] = torch.tensor(group["lr"]).item()  # the plain step rounds as the recorded one does
        torch.manual_seed(seed)
        size = images.shape, targets.shape
        if recording := self._recordings.get(size):
            if not recording.is_checked:
                self._check(recording, images, targets, seed)
            return self._replay(recording, images, targets)
        computed = self._plain(images, targets)
        self._plain_steps[size] = self._plain_steps.get(size, 0) + 1
        if self._plain_steps[size] == self._warm_up:
            self._recordings[size] = self._recorded(images, targets)
        return computed

    def _recorded(self, images: Tensor, targets: Tensor) -> _Recording:
        images, targets = images.clone(), targets.clone()
        try:
            with _rates_on_device(self._state.optimizer, self._rates):
                replay, computed = self._record(lambda: self._plain(images, targets))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise LocalError(f"the step cannot be a CUDA graph: {first_line(error)}: leave out --cuda-graph") from error
        return _Recording(images, targets, replay, computed)

    def _replay(self, recording: _Recording, images: Tensor, targets: Tensor) -> Computed:
        recording.images.copy_(images)
        recording.targets.copy_(targets)
        for rate, group in zip(self._rates, self._groups, strict=True):
            rate.fill_(group["lr"])
        recording.replay()
        return recording.computed

    def _check(self, recording: _Recording, images: Tensor, targets: Tensor, seed: int) -> None:
        """Takes a step plainly and by a replay, from the same state, and leaves the state as it was.

        Batch, seed and learning rate are others than at the recording, so that one of them that was recorded as a
        constant is noticed. Where the plain step is not finite, the next one is compared instead.
        """
        before, rates = self._snapshot(), [group["lr"] for group in self._groups]
        for group in self._groups:
            group["lr"] /= 2
        steps: list[Callable[[Tensor, Tensor], Computed]] = [self._plain, partial(self._replay, recording)]
        outcomes = []
        for step in steps:
            torch.manual_seed(seed)
            computed = step(images, targets)
            outcomes.append({**self._snapshot(), "loss and gradient norm": [part.clone() for part in computed]})
            self._restore(before)
        for group, rate in zip(self._groups, rates, strict=True):
            group["lr"] = rate
        torch.manual_seed(seed)

        plain, replayed = outcomes
        differences = {kind: _difference(before.get(kind), plain[kind], replayed[kind]) for kind in plain}
        if any(map(math.isnan, differences.values())):
            return
        kind = max(differences, key=differences.__getitem__)
        if differences[kind] > TOLERANCE:
            size = f"by {differences[kind]:.0%}" if math.isfinite(differences[kind]) else "beyond measure"
            raise LocalError(
                f"the CUDA graph of the step differs from the plain step {size} in its {kind}: leave out --cuda-graph"
            )
        recording.is_checked = True
        if images.is_cuda:
            torch.cuda.empty_cache()  # of the plain step's activations: the recording has memory of its own

    def _snapshot(self) -> dict[str, list[Tensor]]:
        return {kind: [tensor.clone() for tensor in tensors] for kind, tensors in self._tensors().items()}

    @torch.no_grad()
    def _restore(self, snapshot: dict[str, list[Tensor]]) -> None:
        for kind, tensors in self._tensors().items():
            for tensor, saved in zip(tensors, snapshot[kind], strict=True):
                tensor.copy_(saved)

    def _tensors(self) -> dict[str, list[Tensor]]:
        """What a step changes, by kind."""
        module, optimizer = self._state.module, self._state.optimizer
        kept = [value for values in optimizer.state.values() for value in values.values() if isinstance(value, Tensor)]
        return {
            "weights": [parameter.detach() for parameter in module.parameters()],
            "statistics": list(module.buffers()),
            "optimizer state": kept,
        }


@contextmanager
def _rates_on_device(optimizer: torch.optim.Optimizer, rates: list[Tensor]) -> Iterator[None]:
    """Gives the groups `rates`, which a recording reads anew in each replay, in place of numbers."""
    groups = optimizer.param_groups
    numbers = [dict(group) for group in groups]
    try:
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
            if "capturable" in group:  # AdamW's, whose fused step counts on the device anyway
                group["capturable"] = True
        yield
    finally:
        for group, number in zip(groups, numbers, strict=True):
            group.update(number)


def _difference(before: list[Tensor] | None, expected: list[Tensor], found: list[Tensor]) -> float:
    """How far `found` is from `expected`, relative to how far that is from `before`, or from zero without one.

    NaN where `expected` is not finite.
    """
    start = before or [torch.zeros_like(tensor) for tensor in expected]
    apart, changed = (
        math.hypot(*((a.double() - b.double()).norm().item() for a, b in zip(one, other, strict=True)))
        for one, other in ((found, expected), (expected, start))
    )
    return apart / changed if changed else 0.0 if not apart else math.inf
