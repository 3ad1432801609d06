"""The network between the processes of a job: a sum of all ranks, and the bandwidth of each pair of nodes."""

import itertools
import statistics
import time
from typing import Any

_MESSAGE = 2**24  # bytes sent from node to node
_SLOW = 0.5  # of the median bandwidth: a pair of nodes below it is named


def all_reduce(device: Any, nodes: list[dict[str, Any]], group: Any) -> list[str]:
    """The sum of what only each rank knows must be right, on the very devices that train."""
    import torch
    import torch.distributed as dist

    rank, size = dist.get_rank(), dist.get_world_size()
    values = torch.arange(1024, dtype=torch.float32, device=device) + rank
    dist.all_reduce(values, group=group)
    expected = torch.arange(1024, dtype=torch.float32) * size + size * (size - 1) / 2
    wrong: list[bool] = [False] * size
    dist.all_gather_object(wrong, not torch.equal(values.cpu(), expected))
    return [f"{nodes[rank]['host']}: rank {rank} got a wrong sum of all ranks" for rank in range(size) if wrong[rank]]


def bandwidths(device: Any, nodes: list[dict[str, Any]], group: Any) -> dict[tuple[str, str], float]:
    """Bytes per second, one direction, between the first processes of each two nodes, one pair after another."""
    import torch
    import torch.distributed as dist

    rank = dist.get_rank()
    leaders = [node["rank"] for node in nodes if node["local_rank"] == 0]
    message = torch.zeros(_MESSAGE, dtype=torch.uint8, device=device)
    speeds = {}
    for first, second in itertools.combinations(leaders, 2):
        seconds = 0.0
        if rank in (first, second):
            peer = second if rank == first else first
            times = [_ping(message, rank == first, peer, group) for _ in range(4)]
            seconds = min(times[1:])  # the first one connects
        shared: list[float] = [0.0] * len(nodes)
        dist.all_gather_object(shared, seconds)
        names = (f"{nodes[first]['host']}", f"{nodes[second]['host']}")
        speeds[names] = 2 * _MESSAGE / max(shared)
    return speeds


def slow_pairs(speeds: dict[tuple[str, str], float]) -> list[str]:
    if len(speeds) < 3:
        return []  # no telling which one is slow
    median = statistics.median(speeds.values())
    return [
        f"{first} - {second}: {speed / 1e9:.2f} GB/s, less than half of the median {median / 1e9:.2f}"
        for (first, second), speed in speeds.items()
        if speed < _SLOW * median
    ]


def _ping(message: Any, sends_first: bool, peer: int, group: Any) -> float:
    import torch
    import torch.distributed as dist

    began = time.perf_counter()
    for sends in (sends_first, not sends_first):
        (dist.send if sends else dist.recv)(message, peer, group=group)
    if message.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began
