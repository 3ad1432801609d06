"""The cost of a recipe, from the network alone: floating-point operations, memory, checkpoints. Pure functions.

Nothing is computed: the passes run on fake tensors, which have shapes, types and storages but no values. They are meta
tensors that claim to be on the CPU, because torch has no autocast for the meta device itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor, UntypedStorage, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from trainer.errors import UserError, first_line
from trainer.loss import build_loss
from trainer.optim.optimizer import state_tensors
from trainer.precision import autocast
from trainer.recipe import Recipe

T = TypeVar("T")
Shape = list[int]


@dataclass(frozen=True, kw_only=True)
class PassCost:
    """One micro-batch through the network, forward and backward."""

    forward_flops: int  # per image; a multiply-add is 2, and only convolutions and matrix products count
    training_flops: int  # per image; forward and backward
    activations: int  # bytes that the forward pass keeps for the backward pass, for the whole micro-batch


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes on one device while training, by purpose."""

    parameters: int
    buffers: int  # running statistics
    gradients: int
    optimizer: int
    average: int
    images: int  # one micro-batch, float32
    activations: int

    @property
    def total(self) -> int:
        """The sum, as at the end of a step's last forward pass with gradient accumulation."""
        return sum(asdict(self).values())


def pass_cost(recipe: Recipe, model: nn.Module) -> PassCost:
    """The cost of one micro-batch of the recipe, at its own resolution, in the mode (train or eval) of `model`.

    The backward pass is counted, not assumed to be twice the forward pass. Activations are the storages that autograd
    saves, each once, without parameters, buffers and the images; they include copies of the weights in lower precision.
    They equal those of a real step on a CPU, except for the norms' batch statistics if those have a different type.
    They do not include workspaces of convolutions, gradients of activations or an allocator's overhead.
    Raises UserError if the network cannot run this batch.
    """
    count, resolution = recipe.micro_batch_size, recipe.train_crop.resolution

    def run() -> PassCost:
        images, state = torch.empty(count, 3, resolution, resolution), _state(model, mode)
        labels = torch.zeros(count, dtype=torch.int64)
        with flop_counter() as counter:
            with saved_storages([images, *state.values()]) as saved, autocast(recipe.precision, images.device):
                loss = build_loss(recipe.loss)(functional_call(model, state, images), labels)
            forward = counter.get_total_flops()
            loss.backward()
        return PassCost(
            forward_flops=forward // count,
            training_flops=counter.get_total_flops() // count,
            activations=sum(storage.nbytes() for storage in saved.values()),
        )

    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        return _tried(run, f"a micro-batch of {count} images of {resolution} px")


def forward_flops(recipe: Recipe, model: nn.Module, resolution: int) -> int:
    """Floating-point operations of one image's forward pass at `resolution`, counted as in pass_cost."""
    count = recipe.micro_batch_size

    def run() -> int:
        images = torch.empty(count, 3, resolution, resolution)
        with flop_counter() as counter:
            functional_call(model, _state(model, mode), images)
        return int(counter.get_total_flops()) // count

    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        return _tried(run, f"a micro-batch of {count} images of {resolution} px")


def flop_counter() -> FlopCounterMode:
    """torch's FLOP counter with a corrected backward pass of convolutions.

    torch's own counts a grouped convolution's weight gradient as that of a dense one (seen in 2.15): the count for
    training ResNeXt and ConvNeXt would be several times too high.
    """
    return FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution_backward: _backward_flops})


@contextmanager
def saved_storages(known: Iterable[Tensor]) -> Iterator[dict[int, UntypedStorage]]:
    """Collects the storages that autograd saves inside the context, by identity, without those of `known`."""
    others = {tensor.untyped_storage()._cdata for tensor in known}
    found: dict[int, UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in others:
            found[storage._cdata] = storage  # kept alive, so that its identity is not reused
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        yield found


def parameter_count(model: nn.Module, *, trainable: bool = False) -> int:
    """The number of parameters, or of the trainable ones."""
    return sum(tensor.numel() for tensor in model.parameters() if tensor.requires_grad or not trainable)


def memory(recipe: Recipe, model: nn.Module, activations: int) -> Memory:
    """The memory of training with one micro-batch at a time. `activations`: those of pass_cost."""
    parameters = sum(tensor.nbytes for tensor in model.parameters())
    buffers = sum(tensor.nbytes for tensor in model.buffers())
    return Memory(
        parameters=parameters,
        buffers=buffers,
        gradients=gradient_bytes(model),
        optimizer=state_tensors(recipe.optimizer) * gradient_bytes(model),
        average=parameters + buffers if recipe.average else 0,
        images=4 * 3 * recipe.micro_batch_size * recipe.train_crop.resolution**2,
        activations=activations,
    )


def gradient_bytes(model: nn.Module) -> int:
    """The bytes that the processes all-reduce in every step: gradients are float32, like the parameters."""
    return sum(tensor.nbytes for tensor in model.parameters() if tensor.requires_grad)


def checkpoint_bytes(used: Memory) -> int:
    """The size of one checkpoint, except for some kB of names: weights, running statistics, average, optimizer."""
    return used.parameters + used.buffers + used.average + used.optimizer


def _backward_flops(gradient: Shape, images: Shape, weight: Shape, *others: Any, **_: Any) -> int:
    """The gradients of the input and of the weight cost as much as the forward pass each, if they are computed.

    `others` are the further arguments of aten::convolution_backward: bias sizes, stride, padding, dilation, transposed,
    output padding, groups, output mask.
    """
    transposed, output_mask = others[4], others[7]
    return int(output_mask[0] + output_mask[1]) * int(conv_flop_count(images, weight, gradient, transposed))


def _state(model: nn.Module, mode: FakeTensorMode) -> dict[str, Tensor]:
    """The model's parameters and buffers as fake CPU tensors, with the same requires_grad."""
    tensors: Iterable[tuple[str, Tensor]] = chain(model.named_parameters(), model.named_buffers())
    with torch.no_grad():
        copies = {name: torch.empty_like(mode.from_tensor(tensor), device="cpu") for name, tensor in tensors}
    for name, parameter in model.named_parameters():
        copies[name].requires_grad_(parameter.requires_grad)
    return copies


def _tried(run: Callable[[], T], what: str) -> T:
    """Calls `run` and turns its errors into UserError: a library's network may refuse a size in any way."""
    try:
        return run()
    except (RuntimeError, ValueError, TypeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"the network cannot run {what}: {type(error).__name__}: {first_line(error)}") from error
