"""The model in DistributedDataParallel: how gradients are exchanged, when, and in which order they are summed."""

import inspect
import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel

from trainer.distributed.process_group import World
from trainer.errors import SharedError, first_line
from trainer.precision import Precision, autocast
from trainer.process.compiler_import import eager_ddp

_NEVER = 10**9  # iterations


def wrap(
    model: nn.Module, world: World, gradient_compression: Literal["bf16"] | None = None, bucket_mb: float = 25.0
) -> nn.Module:
    """Wraps the model in DDP, which averages gradients over the ranks. Returns it unchanged if there is one rank.

    `gradient_compression`: the format in which they are exchanged and summed; None: their own. `bucket_mb`: MiB of
    gradients in one message. Running statistics are not synchronised in each step: rank 0's are saved (see
    share_buffers).
    """
    if world.size == 1:
        return model
    device_ids = [world.device.index] if world.device.type == "cuda" else None
    with warnings.catch_warnings(), eager_ddp():
        # torch 2.15 renames broadcast_buffers, and older ones do not know the new name
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        parallel = DistributedDataParallel(
            model,
            device_ids=device_ids,
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
            bucket_cap_mb=bucket_mb,  # type: ignore[arg-type]  # fractions work too
            **_batched_copies(world.device),
        )
    if gradient_compression == "bf16":
        parallel.register_comm_hook(dist.group.WORLD, default_hooks.bf16_compress_hook)
    # DDP times every 100th iteration for its own log, and waits for the device to do so
    parallel._set_ddp_runtime_logging_sample_rate(_NEVER)
    return parallel


def _batched_copies(device: torch.device) -> dict[str, Any]:
    """DDP's option to copy a bucket's gradients by two kernels instead of one for each parameter, from torch 2.14 on.

    On GPUs only: it divides where the plain copy multiplies by 1/ranks, which is the same for powers of two only.
    """
    known = "batched_grad_copy" in inspect.signature(DistributedDataParallel).parameters
    return {"batched_grad_copy": True} if known and device.type == "cuda" else {}


def gradient_sync(model: nn.Module, wanted: bool) -> AbstractContextManager[None]:
    """The context of a forward and backward pass; unless `wanted`, gradients only accumulate on each rank."""
    if isinstance(model, DistributedDataParallel) and not wanted:
        return model.no_sync()  # type: ignore[no-any-return]
    return nullcontext()


def warm_up_buckets(model: nn.Module, images: torch.Tensor, precision: Precision) -> None:
    """Runs one forward and backward pass on `images` that does not change the model's state.

    DDP rebuilds its gradient buckets after the first backward pass, and with three or more ranks the buckets determine
    the order in which gradients are summed. After a warm-up, a resumed run sums in the same order as an uninterrupted
    one. Raises SharedError if the network cannot run these images.
    """
    module = model.module if isinstance(model, DistributedDataParallel) else model
    buffers = [buffer.clone() for buffer in module.buffers()]
    try:
        with autocast(precision, images.device):
            outputs = model(images)
    except ValueError as error:  # a norm has too few values: the same on all ranks
        raise SharedError(
            f"{len(images)} images of {images.shape[2]} px cannot pass the network: {first_line(error)}: use a larger "
            f"--micro-batch-size, --norm-batch-size or --train-crop.resolution"
        ) from error
    outputs.float().sum().backward()
    model.zero_grad(set_to_none=True)
    with torch.no_grad():
        for buffer, saved in zip(module.buffers(), buffers, strict=True):
            buffer.copy_(saved)
