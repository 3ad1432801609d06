"""The whole optimizer step as a CUDA graph: one launch instead of a thousand, where micro-batches are small.

The first steps with images of each size are plain. Then the step is recorded, a replay is compared with a plain step,
and from there on each step is a replay. A recording holds addresses and constants, so images, targets and learning
rates are copied to where it reads them. Its random numbers follow the seed of each replay. See "CUDA Graphs" in
PyTorch's notes on CUDA semantics.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from trainer.distributed.process_group import World, on_every_rank, true_on_all_ranks
from trainer.distributed.run_ahead import wait_for_device
from trainer.errors import LocalError, UserError, first_line
from trainer.recipe import SGD, AdamW, Recipe
from trainer.run.state import TrainingState
from trainer.settings import CompileMode

WARM_UP, DDP_WARM_UP = 3, 11
"""plain steps before a recording (PyTorch's notes); cuDNN chooses its kernels in the first of them"""
TOLERANCE = 0.05
"""how far a replay may be from the plain step, relative to the change; kernels with atomic sums are not exact"""


class Computed(NamedTuple):
    """What a step leaves for its metrics: scalars on the device."""

    loss: Tensor
    grad_norm: Tensor  # before clipping
    loss_scale: Tensor


class Graph(Protocol):
    """A torch.cuda.CUDAGraph that has recorded something."""

    def replay(self) -> None: ...

    def reset(self) -> None: ...


Recorder = Callable[[Callable[[], Computed]], tuple[Graph, Computed]]
"""Records a function. Returns the graph, and the function's result, which every replay writes anew."""


def check_recordable(recipe: Recipe, world: World) -> None:
    """Raises UserError if the recipe's step cannot be one CUDA graph, on this device."""
    if world.device.type != "cuda":
        raise UserError(f"cuda_graph needs a GPU, and this trains on {world.device.type}: leave out --cuda-graph")
    if recipe.precision == "fp16":
        raise UserError("cuda_graph: fp16 decides after each step whether to update: use bf16, or no --cuda-graph")
    if type(recipe.optimizer) not in (SGD, AdamW):  # DecoupledSGD, a subclass of SGD, is timm's
        name = type(recipe.optimizer).__name__
        raise UserError(
            f"cuda_graph: {name} computes with its learning rate on the host: use SGD or AdamW, or no --cuda-graph"
        )
    if (accumulation := recipe.accumulation(world.size)) > 1:
        raise UserError(
            f"cuda_graph: a step of {accumulation} micro-batches is not one graph: use a micro_batch_size of "
            f"{recipe.global_batch_size // world.size}, or no --cuda-graph"
        )


def check_compile_mode(recipe: Recipe, world: World, mode: CompileMode) -> None:
    """Raises UserError if the CUDA graphs that torch.compile makes in this mode would lose gradients.

    Each forward pass frees what the passes before it have returned, the gradients too (torch 2.14,
    torch/_inductor/cudagraph_trees.py, format_dealloc_msg). On a CPU there are no such graphs.
    """
    accumulation = recipe.accumulation(world.size)
    if mode != "default" and accumulation > 1 and world.device.type == "cuda":
        raise UserError(
            f"compile_mode={mode!r} cannot add up the gradients of {accumulation} micro-batches: use a "
            f"micro_batch_size of {recipe.global_batch_size // world.size}, or --compile-mode default"
        )


@cache
def leave_default_stream(device: torch.device) -> None:
    """Gives this thread a stream of its own, for the rest of the process.

    Autograd accumulates a gradient on the stream that was current when its parameter was first used, here or by DDP's
    constructor. Work on the default stream cannot be recorded.
    """
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    torch.cuda.set_stream(stream)


def cuda_recorder() -> Recorder:
    """Records on the current stream. All recordings share their memory, because only one runs at a time."""
    pool = torch.cuda.graph_pool_handle()

    def record(step: Callable[[], Computed]) -> tuple[Graph, Computed]:
        graph = torch.cuda.CUDAGraph()
        # thread_local: NCCL's watchdog and the threads that pin images go on meanwhile
        with torch.cuda.graph(graph, pool, torch.cuda.current_stream(), capture_error_mode="thread_local"):
            computed = step()
        return graph, computed

    return record


_Size = tuple[torch.Size, torch.Size]  # of images and targets


@dataclass
class _Recording:
    images: Tensor
    targets: Tensor
    graph: Graph
    computed: Computed
    is_checked: bool = False


class RecordedStep:
    """Runs the step plainly at first, then replays a recording of it. All ranks call it together.

    It reads nothing from the device, except once for each size of the images, when it compares a replay with the plain
    step.
    """

    def __init__(
        self,
        plain: Callable[[Tensor, Tensor], Computed],
        state: TrainingState,
        world: World,
        record: Recorder,
        *,
        warm_up: int,
    ) -> None:
        """`plain`: from images and targets to updated weights. It may change nothing but the state's tensors.

        `warm_up`: plain steps before a recording.
        """
        self._plain, self._state, self._world = plain, state, world
        self._record, self._warm_up = record, warm_up
        self._groups = state.optimizer.param_groups
        # float32, as the fused kernels read them
        self._rates = [torch.zeros((), device=world.device) for _ in self._groups]
        self._plain_steps: dict[_Size, int] = {}
        self._recordings: dict[_Size, _Recording] = {}

    def __call__(self, images: Tensor, targets: Tensor, seed: int) -> Computed:
        """Updates the weights by the groups' "lr". `seed`: of drop path and dropout.

        Raises SharedError if the step cannot be recorded, or if a replay differs from the plain step; LocalError
        where the comparison does not fit into this rank's memory.
        """
        for group in self._groups:
            group["lr"] = torch.tensor(group["lr"]).item()  # the plain step rounds as the recorded one does
        torch.manual_seed(seed)
        size = images.shape, targets.shape
        if recording := self._recordings.get(size):
            if not recording.is_checked:
                try:
                    checked = on_every_rank(self._world, lambda: self._check(recording, images, targets, seed))
                except torch.OutOfMemoryError as error:  # the others wait for this rank's gradients, not for its word
                    raise LocalError(_out_of_memory(error)) from error
                recording.is_checked = true_on_all_ranks(self._world, checked)
                torch.manual_seed(seed)
            return self._replay(recording, images, targets)
        computed = self._plain(images, targets)
        self._plain_steps[size] = self._plain_steps.get(size, 0) + 1
        if self._plain_steps[size] == self._warm_up:
            self._recordings[size] = on_every_rank(self._world, lambda: self._recorded(images, targets))
        return computed

    def close(self) -> None:
        """Waits for the device and frees the recordings: graphs must end before the NCCL communicators they use."""
        wait_for_device(self._world.device)
        for recording in self._recordings.values():
            recording.graph.reset()
        self._recordings.clear()

    def _recorded(self, images: Tensor, targets: Tensor) -> _Recording:
        images, targets = images.clone(), targets.clone()
        try:
            with _rates_on_device(self._state.optimizer, self._rates):
                graph, computed = self._record(lambda: self._plain(images, targets))
        except RuntimeError as error:
            cause: BaseException = error
            while cause.__context__:  # torch ends the recording, which fails too
                cause = cause.__context__
            if isinstance(cause, torch.OutOfMemoryError):
                raise UserError(_out_of_memory(cause)) from error
            raise UserError(f"the step cannot be a CUDA graph: {first_line(cause)}: leave out --cuda-graph") from error
        return _Recording(images, targets, graph, computed)

    def _replay(self, recording: _Recording, images: Tensor, targets: Tensor) -> Computed:
        recording.images.copy_(images)
        recording.targets.copy_(targets)
        for rate, group in zip(self._rates, self._groups, strict=True):
            rate.fill_(group["lr"])
        recording.graph.replay()
        return recording.computed

    def _check(self, recording: _Recording, images: Tensor, targets: Tensor, seed: int) -> bool:
        """Takes a step plainly and by a replay, from the same state, and leaves the state as it was.

        Batch, seed and learning rate differ from the recording's, so a value that was captured as a constant shows up.
        Returns False if the plain step is not finite: the next one has to be compared. Raises UserError if they differ.
        """
        before, rates = self._snapshot(), [group["lr"] for group in self._groups]
        for group in self._groups:
            group["lr"] /= 2
        steps: list[Callable[[Tensor, Tensor], Computed]] = [self._plain, partial(self._replay, recording)]
        outcomes = []
        for step in steps:
            torch.manual_seed(seed)
            computed = step(images, targets)
            outputs = {name: [value.clone()] for name, value in computed._asdict().items()}
            outcomes.append(self._snapshot() | outputs)
            self._restore(before)
        for group, rate in zip(self._groups, rates, strict=True):
            group["lr"] = rate

        wait_for_device(images.device)
        plain, replayed = outcomes
        differences = {kind: _difference(before.get(kind), plain[kind], replayed[kind]) for kind in plain}
        if any(map(math.isnan, differences.values())):
            return False
        kind = max(differences, key=differences.__getitem__)
        if differences[kind] > TOLERANCE:
            size = f" by {differences[kind]:.0%}" if math.isfinite(differences[kind]) else ""
            raise UserError(
                f"the CUDA graph of the step differs from the plain step in {kind}{size}: leave out --cuda-graph"
            )
        if images.is_cuda:
            torch.cuda.empty_cache()  # of the plain step's activations: the recording has memory of its own
        return True

    def _snapshot(self) -> dict[str, list[Tensor]]:
        return {kind: [tensor.clone() for tensor in tensors] for kind, tensors in self._tensors().items()}

    @torch.no_grad()
    def _restore(self, snapshot: dict[str, list[Tensor]]) -> None:
        for kind, tensors in self._tensors().items():
            for tensor, saved in zip(tensors, snapshot[kind], strict=True):
                tensor.copy_(saved)

    def _tensors(self) -> dict[str, list[Tensor]]:
        """What a step changes, by kind: weights, running_mean, momentum_buffer and so on."""
        module, optimizer = self._state.module, self._state.optimizer
        found = {"weights": [parameter.detach() for parameter in module.parameters()]}
        for name, buffer in module.named_buffers():
            found.setdefault(name.rpartition(".")[2], []).append(buffer)
        for kept in optimizer.state.values():
            for name, value in kept.items():
                if isinstance(value, Tensor):
                    found.setdefault(name, []).append(value)
        return found


def _out_of_memory(error: BaseException) -> str:
    return (
        f"out of GPU memory, because a CUDA graph needs memory besides the plain step's: leave out "
        f"--cuda-graph, or train with more processes: {first_line(error)}"
    )


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

    NaN where `expected` is not finite, infinity where only `found` is not.
    """
    start = before or [torch.zeros_like(tensor) for tensor in expected]
    apart, changed = (
        math.hypot(*((a.double() - b.double()).norm().item() for a, b in zip(one, other, strict=True)))
        for one, other in ((found, expected), (expected, start))
    )
    if not math.isfinite(changed):
        return math.nan
    if math.isnan(apart):
        return math.inf
    return apart / changed if changed else 0.0 if not apart else math.inf
