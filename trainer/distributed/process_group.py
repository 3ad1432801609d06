"""The processes of one run: joining them, sharing errors, summing what they hold.

Ranks come from torchrun's variables (RANK, LOCAL_RANK, LOCAL_WORLD_SIZE, WORLD_SIZE); without them there is one
process. Gradients and sums of what lies on the device go through NCCL on GPUs and gloo on CPUs; one process needs no
NCCL. Small messages of the hosts always go through gloo, so that they never wait for a device.
"""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import zip_longest
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from trainer.distributed import lost_peer
from trainer.distributed.affinity import bind, bindings, cpus_per_rank, place_of
from trainer.distributed.cpus import usable_cpus
from trainer.distributed.interface import bind_gloo
from trainer.distributed.parent import at_end
from trainer.distributed.run_ahead import wait_for_gpu
from trainer.errors import NodeError, SharedError, Stopped, UnreachableError, UserError, first_line
from trainer.process.variables import place_in_run, whole_number

T = TypeVar("T")
NO_GPU = "torch can use no GPU: check nvidia-smi, the driver and its Fabric Manager, or use --device cpu"


@dataclass(frozen=True, kw_only=True)
class World:
    """The processes of this run, which torch.distributed calls the world, and which of them this one is."""

    rank: int
    size: int
    local_rank: int
    local_size: int  # processes on this machine
    device: torch.device
    gloo: dist.ProcessGroup
    cpus: int = field(default_factory=usable_cpus)  # for the threads of this process

    @property
    def is_main(self) -> bool:
        return self.rank == 0


@contextmanager
def initialize(device: str, timeout_minutes: float) -> Iterator[World]:
    """Initializes the process group, and destroys it at the end of the block. `device`: see device_type."""
    device = device_type(device)
    rank, world_size, local_rank, local_world_size = place_in_run()
    timeout = timedelta(minutes=timeout_minutes)
    here = torch.device("cpu")
    if device == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        one_machine = local_world_size == world_size
        here = torch.device("cuda", gpu_index(local_rank, local_world_size, count, one_machine=one_machine))
        torch.cuda.set_device(here)
    backend = "nccl" if device == "cuda" and world_size > 1 else "gloo"
    if world_size > local_world_size:
        bind_gloo()
    try:
        store = _store(world_size, timeout)
        if store is not None:
            refuse_other_device(device, rank, store)
        dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)
        if world_size > 1:
            lost_peer.listen(rank, timeout)
    except (ValueError, RuntimeError) as error:
        raise UnreachableError(
            f"rank {rank} cannot join the other processes, check MASTER_ADDR and MASTER_PORT: {first_line(error)}"
        ) from error
    try:
        gloo = dist.new_group(backend="gloo", timeout=timeout)
        assert isinstance(gloo, dist.ProcessGroup)
        places = bindings(_gather(place_of(here), world_size, gloo))
        bind(places[rank])
        if device == "cuda":
            uuid = str(torch.cuda.get_device_properties(here).uuid)
            refuse_shared_gpus(_gather((socket.gethostname(), uuid), world_size, gloo))
        yield World(
            rank=rank,
            size=world_size,
            local_rank=local_rank,
            local_size=local_world_size,
            device=here,
            gloo=gloo,
            cpus=cpus_per_rank(places[rank], places),
        )
    except BaseException as error:
        lost_peer.leave()
        if all_end(world_size, error):  # else the groups' end would wait for peers, which wait for this process to end
            lost_peer.finish(rank)
            dist.destroy_process_group()
        else:
            at_end(lost_peer.end_others)
        raise
    lost_peer.finish(rank)
    dist.destroy_process_group()


def device_type(wanted: str) -> str:
    """cuda or cpu. auto is cuda where there is a GPU, also one that CUDA cannot use, so that no CPU takes its place."""
    return wanted if wanted != "auto" else "cuda" if torch.cuda.device_count() else "cpu"


def refuse_other_device(device: str, rank: int, store: Any) -> None:
    """Raises NodeError if rank 0 trains on cuda and this one on cpu, or the reverse: NCCL would wait for gloo."""
    if rank == 0:
        store.set("device", device)
    elif (first := store.get("device").decode()) != device:
        raise NodeError(
            f"node {socket.gethostname()}: rank {rank} would train on {device}, but rank 0 on {first}: give all ranks "
            f"the same --device, or leave this node out"
        )


def gpu_index(local_rank: int, local_world_size: int, count: int, *, one_machine: bool) -> int:
    """Which of the `count` GPUs that this process sees is its own: a launcher may show it all of them, or only its own.

    Raises UserError if there are too few; on several machines NodeError, because another machine may have enough.
    All ranks of the machine raise it, so that the one that prints does.
    """
    if count == 0:
        problem = NO_GPU
    elif 1 < count < local_world_size:
        problem = f"{local_world_size} processes on this machine, but {count} GPUs: start {count} or fewer"
    else:
        return local_rank % count
    if one_machine:
        raise UserError(problem)
    raise NodeError(f"node {socket.gethostname()}: {problem}, or leave this node out")


def refuse_shared_gpus(places: list[tuple[str, str]]) -> None:
    """Raises SharedError if two ranks have the same GPU. `places`: host name and UUID of each rank's GPU."""
    for rank, place in enumerate(places):
        if (first := places.index(place)) != rank:
            raise SharedError(
                f"ranks {first} and {rank} share one GPU of {place[0]} ({place[1]}): start one process for each GPU. "
                f"Slices of one GPU (MIG) can train one process each, but not together"
            )


def gather(world: World, value: T) -> list[T]:
    """Returns the value of each rank, on every rank."""
    return _gather(value, world.size, world.gloo)


def _gather(value: T, world_size: int, gloo: dist.ProcessGroup) -> list[T]:
    values: list[Any] = [None] * world_size
    dist.all_gather_object(values, value, group=gloo)
    return values


def _store(world_size: int, timeout: timedelta) -> Any:
    """The store in which ranks find one another; None for torch's default.

    torchrun keeps one store for all its restarts, with the addresses of ranks that have died, and torch 2.15 connects
    to those. So each attempt uses its own key prefix.
    """
    if world_size == 1:
        return dist.HashStore()  # type: ignore[attr-defined]  # needs no port, so nothing can clash
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    host, port = os.environ["MASTER_ADDR"], whole_number("MASTER_PORT", 0)
    store = dist.TCPStore(host, port, is_master=False, timeout=timeout)  # type: ignore[attr-defined]
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return dist.PrefixStore(f"attempt {attempt}", store)  # type: ignore[attr-defined]


def on_every_rank(world: World, action: Callable[[], T]) -> T:
    """Runs `action` on every rank. If it raises UserError on any, all ranks raise SharedError with its message."""
    result, message = None, None
    try:
        result = action()
    except UserError as error:
        message = (str(error), error.exit_code)
    messages = gather(world, message)
    failed = [(rank, *met) for rank, met in enumerate(messages) if met is not None]
    if failed:
        rank, text, exit_code = failed[0]
        raise SharedError(text if len(failed) == world.size else f"rank {rank}: {text}", exit_code)
    return result  # type: ignore[return-value]


def all_end(world_size: int, error: BaseException | None) -> bool:
    """Whether all of `world_size` ranks end by this error, or by none: then no rank or device waits for another one."""
    return world_size == 1 or error is None or isinstance(error, Stopped | SharedError)


def if_all_end(world: World, action: Callable[[], None]) -> Callable[[object, BaseException | None, object], None]:
    """For ExitStack.push: calls an `action` that waits for the device, unless this rank ends alone. See all_end."""

    def leave(_kind: object, error: BaseException | None, _traceback: object) -> None:
        if all_end(world.size, error):
            action()

    return leave


def on_main_rank(world: World, action: Callable[[], object]) -> None:
    """Runs `action` on rank 0. If it raises UserError, all ranks raise SharedError. Called by all ranks together."""
    on_every_rank(world, lambda: action() if world.is_main else None)


def true_on_all_ranks(world: World, value: bool) -> bool:
    """Whether `value` is true on every rank."""
    return all(gather(world, value))


def require_same(world: World, what: str, value: object) -> None:
    """Raises SharedError on all ranks, with the first line that differs, unless `value` equals that of all others."""
    values = gather(world, value)
    for rank, other in enumerate(values):
        if other != values[0]:
            lines = zip_longest(str(other).splitlines(), str(values[0]).splitlines(), fillvalue="nothing")
            theirs, ours = next(((a.strip(), b.strip()) for a, b in lines if a != b), (repr(other), repr(values[0])))
            raise SharedError(f"the {what} of rank {rank} differs from rank 0: {theirs} instead of {ours}")


def sum_over_ranks(world: World, tensor: torch.Tensor) -> torch.Tensor:
    """Returns the sum over all ranks, on the CPU. It reads from the device, so do not call it inside a step."""
    return start_sum(world, tensor)()


def start_sum(world: World, tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
    """Begins to sum a copy of `tensor` over all ranks. The function that is returned gives the sum, on the CPU.

    Only that function waits: a GPU sums and copies between the kernels of the steps that follow, and gloo in threads of
    its own. Called by all ranks together.
    """
    total = tensor.detach().clone()
    if total.device.type == "cuda":
        if world.size > 1:
            dist.all_reduce(total)
        here = torch.empty_like(total, device="cpu").pin_memory()
        here.copy_(total, non_blocking=True)
        copied = torch.cuda.Event(blocking=True)  # else the wait keeps a core busy
        copied.record()

        def read() -> torch.Tensor:
            wait_for_gpu(copied)
            return here

        return read
    work = dist.all_reduce(total, group=world.gloo, async_op=True) if world.size > 1 else None

    def finish() -> torch.Tensor:
        if work is not None:
            work.wait()
        return total

    return finish


def share_buffers(world: World, model: nn.Module) -> None:
    """Broadcasts rank 0's buffers: its running statistics are saved, so all ranks evaluate with them.

    One message for each dtype: a message for each of ResNet-50's 159 buffers takes 159 times the latency.
    """
    if world.size == 1:
        return
    by_dtype: dict[torch.dtype, list[torch.Tensor]] = {}
    for buffer in model.buffers():
        by_dtype.setdefault(buffer.dtype, []).append(buffer)
    for buffers in by_dtype.values():
        flat = torch.cat([buffer.reshape(-1) for buffer in buffers])
        dist.broadcast(flat, src=0)
        for buffer, received in zip(buffers, flat.split([buffer.numel() for buffer in buffers]), strict=True):
            buffer.copy_(received.view_as(buffer))
