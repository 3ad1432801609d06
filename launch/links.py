"""The network between the processes of a job: a sum of all ranks, and the bandwidth of pairs of nodes and of GPUs."""

import statistics
import time
from collections.abc import Sequence
from typing import Any

from launch.comparison import MachineFault, NodeFault

_MESSAGE = 2**24  # bytes sent from node to node
_SLOW = 0.5  # of the usual bandwidth: what is below it is named


def all_reduce(device: Any, nodes: list[dict[str, Any]], group: Any) -> list[str]:
    """The sum of what only each rank knows must be right, on the very devices that train."""
    import torch
    import torch.distributed as dist

    rank, world_size = dist.get_rank(), dist.get_world_size()
    values = torch.arange(1024, dtype=torch.float32, device=device) + rank
    dist.all_reduce(values, group=group)
    expected = torch.arange(1024, dtype=torch.float32) * world_size + world_size * (world_size - 1) / 2
    wrong: list[bool] = [False] * world_size
    dist.all_gather_object(wrong, not torch.equal(values.cpu(), expected))
    return wrong_sums([node["host"] for node in nodes], wrong)


def wrong_sums(hosts: list[str], wrong: list[bool]) -> list[str]:
    """A fault for each rank with a wrong sum: its node's, if fewer than half of the nodes have one; else nobody's."""
    few = 2 * len({host for host, is_wrong in zip(hosts, wrong, strict=True) if is_wrong}) < len(set(hosts))
    faults: list[str] = []
    for rank, (host, is_wrong) in enumerate(zip(hosts, wrong, strict=True)):
        text = f"rank {rank} got a wrong sum of all ranks"
        if is_wrong:
            faults.append(NodeFault(host, text) if few else MachineFault(f"{host}: {text}"))
    return faults


def bandwidths(
    device: Any, nodes: list[dict[str, Any]], group: Any, *, inside: bool
) -> tuple[dict[tuple[str, str], float], dict[tuple[str, str], float]]:
    """Bytes per second, one direction: between the first processes of each two nodes, and inside the nodes.

    The second is between each two processes of a node, if `inside`; all nodes at once. A process is in one pair at a
    time, so n nodes take n - 1 rounds of pairs that do not disturb each other.
    """
    import torch
    import torch.distributed as dist

    rank = dist.get_rank()
    leaders = [node["rank"] for node in nodes if node["local_rank"] == 0]
    neighbours = [node["rank"] for node in nodes if node["host"] == nodes[rank]["host"]]
    message = torch.zeros(_MESSAGE, dtype=torch.uint8, device=device)
    own = {}
    for members in (leaders, neighbours if inside else []):
        for pair in (pair for pairs in rounds(members) for pair in pairs if rank in pair):
            peer = pair[1] if rank == pair[0] else pair[0]
            times = [_ping(message, rank == pair[0], peer, group) for _ in range(4)]
            own[pair] = 2 * _MESSAGE / min(times[1:])  # the first one connects
    measured: list[dict[tuple[int, int], float]] = [{} for _ in nodes]
    dist.all_gather_object(measured, own)
    between, within = {}, {}
    for (first, second), speed in sorted({pair: speed for found in measured for pair, speed in found.items()}.items()):
        hosts = nodes[first]["host"], nodes[second]["host"]
        if hosts[0] != hosts[1]:
            between[hosts] = speed
        else:
            within[f"{hosts[0]}: rank {first}", f"{hosts[0]}: rank {second}"] = speed
    return between, within


def rounds(members: Sequence[int]) -> list[list[tuple[int, int]]]:
    """Each two members once, in rounds in which nobody is in two pairs: a round robin."""
    circle: list[int | None] = [*members, *([None] if len(members) % 2 else [])]
    found = []
    for _ in range(len(circle) - 1):
        half = zip(circle[: len(circle) // 2], reversed(circle), strict=False)
        found.append([(min(a, b), max(a, b)) for a, b in half if a is not None and b is not None])
        circle.insert(1, circle.pop())
    return found


def slow_links(speeds: dict[tuple[str, str], float]) -> list[str]:
    """A fault for each node, or rank of a node ("NODE: rank R"), that is slow with all others; else for a slow pair.

    What is slow with all others is slow itself: its fastest pair shows it. A slow pair of two that are fast with
    others is the fault of what lies between them.
    """
    fastest: dict[str, float] = {}
    for pair, speed in speeds.items():
        for name in pair:
            fastest[name] = max(speed, fastest.get(name, 0.0))
    if len(fastest) < 3:
        return []  # no telling which one is slow
    usual = statistics.median(fastest.values())
    than = f"less than half of the usual {usual / 1e9:.2f}"
    slow = [name for name, speed in fastest.items() if speed < _SLOW * usual]
    faults: list[str] = []
    for name in slow:
        node, _, rank = name.partition(": ")
        text = f"at most {fastest[name] / 1e9:.2f} GB/s with any other, {than}"
        faults.append(NodeFault(node, f"{rank}: {text}" if rank else text))
    faults += [
        MachineFault(f"{first} - {second}: {speed / 1e9:.2f} GB/s, {than}")
        for (first, second), speed in speeds.items()
        if speed < _SLOW * usual and not {first, second} & {*slow}
    ]
    return faults


def _ping(message: Any, sends_first: bool, peer: int, group: Any) -> float:
    import torch
    import torch.distributed as dist

    began = time.perf_counter()
    for sends in (sends_first, not sends_first):
        (dist.send if sends else dist.recv)(message, peer, group=group)
    if message.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began
