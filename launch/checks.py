"""What preflight looks at on every process: devices, versions, data, run directory, clocks, the links of the nodes."""

import importlib.metadata
import itertools
import os
import platform
import shutil
import socket
import statistics
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from trainer.errors import UserError, first_line

_PACKAGES = ("torch", "torchvision", "ffcv", "numpy", "timm")
_WAIT = timedelta(seconds=120)  # for processes to meet, and for each of their exchanges
_SKEW = 2.0  # s between clocks: more, and file times and logs of nodes cannot be compared
_FREE = 20 * 2**30  # bytes in the run directory: some checkpoints of the largest model
_MESSAGE = 2**24  # bytes sent from node to node
_SLOW = 0.5  # of the median bandwidth: a pair of nodes below it is named


@dataclass(frozen=True, kw_only=True)
class Checks:
    """What is looked at."""

    data: str | None
    run_dir: str | None
    device: str = "auto"
    bandwidth: bool = True


def run_checks(checks: Checks) -> list[str]:
    """On every process of a job, with torchrun's variables set. Rank 0 prints the nodes, and a line for each fault.

    Returns the faults, the same on all ranks. Raises UserError, naming node and rank, where processes do not meet.
    """
    import torch
    import torch.distributed as dist

    cuda = checks.device == "cuda" or (checks.device == "auto" and torch.cuda.is_available())
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    here: dict[str, Any] = {"rank": rank, "host": _host(), "local_rank": int(os.environ["LOCAL_RANK"])}
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    serves = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"  # torchrun has its own
    try:
        store = dist.PrefixStore("preflight", dist.TCPStore(address, port, size, serves, _WAIT, wait_for_workers=False))  # type: ignore[attr-defined]
        missing = _missing(store, rank, size)
    except (dist.DistError, ValueError, RuntimeError) as error:  # type: ignore[attr-defined]
        raise UserError(
            f"node {here['host']}, rank {rank}: cannot reach the first node: {first_line(error)}"
        ) from error
    if missing:
        raise UserError(f"these ranks did not start within {_WAIT.seconds} s: {missing}; others: {_hosts(store, size)}")
    here |= _facts(checks, cuda)
    faults = []
    try:
        device = torch.device("cuda", here["local_rank"] % torch.cuda.device_count()) if cuda else torch.device("cpu")
        if cuda:
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if cuda else "gloo", store=store, rank=rank, world_size=size, timeout=_WAIT)
        gloo = dist.new_group(backend="gloo", timeout=_WAIT)
        assert isinstance(gloo, dist.ProcessGroup)
        dist.barrier(group=gloo)
        here["clock"] = time.time()
        nodes: list[dict[str, Any]] = [{} for _ in range(size)]
        dist.all_gather_object(nodes, here, group=gloo)
        faults = _compare(nodes, checks)
        faults += _all_reduce(device, nodes)
        lines = _describe(nodes)
        if checks.bandwidth and not faults:
            speeds = _bandwidths(device, nodes)
            lines += [f"{first} - {second}: {speed / 1e9:.2f} GB/s" for (first, second), speed in speeds.items()]
            faults += _slow_pairs(speeds)
        if checks.run_dir:
            faults += _shared(checks.run_dir, nodes, rank, gloo)
        dist.barrier(group=gloo)
        dist.destroy_process_group()
    except (dist.DistError, RuntimeError) as error:  # type: ignore[attr-defined]
        raise UserError(f"node {here['host']}, rank {rank}: the processes cannot talk: {first_line(error)}") from error
    if rank == 0:
        for line in [*lines, *(f"fault: {fault}" for fault in faults)]:
            print(line)
        print(f"preflight: {size} processes, {len(faults) or 'no'} fault{'s' * (len(faults) > 1)}", flush=True)
    return faults


def _missing(store: Any, rank: int, size: int) -> list[int]:
    """The ranks that have not come, as rank 0 sees it; the others only report that they have."""
    store.set(f"here/{rank}", _host())
    if rank:
        return []
    deadline = time.monotonic() + _WAIT.total_seconds()
    while missing := [other for other in range(size) if not store.check([f"here/{other}"])]:
        if time.monotonic() > deadline:
            return missing
        time.sleep(0.05)
    return []


def _hosts(store: Any, size: int) -> str:
    came = [other for other in range(size) if store.check([f"here/{other}"])]
    return ", ".join(f"{rank} on {store.get(f'here/{rank}').decode()}" for rank in came)


def _facts(checks: Checks, cuda: bool) -> dict[str, Any]:
    """What one process says of itself."""
    import torch

    versions = {"python": platform.python_version(), "cuda": torch.version.cuda if cuda else None}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    facts: dict[str, Any] = {"versions": versions, "devices": 0, "device": "CPU", "data": None, "fault": None}
    if cuda:
        facts["devices"] = torch.cuda.device_count()
        facts["device"] = torch.cuda.get_device_name() if facts["devices"] else "no GPU"
    if checks.data:
        facts["data"] = _checksums(checks.data)
    if checks.run_dir:
        facts["free"] = _free(Path(checks.run_dir))
    return facts


def _checksums(data: str) -> dict[str, str]:
    """The checksum of each split, or why there is none. The content itself is compared by the trainer, once."""
    from trainer.data.anywhere import open_anywhere

    found = {}
    for split in ("train", "val"):
        try:
            source = open_anywhere(data, split, num_classes=1, resolution=32, check_content=False)
            found[split] = f"sha256:{source.checksum[:12]}"
            source.close()
        except UserError as error:
            found[split] = f"error: {error}"
    return found


def _free(folder: Path) -> int | str:
    """Bytes free for the run directory, or why it cannot be written."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(existing, os.W_OK):
        return f"{existing} cannot be written"
    return shutil.disk_usage(existing).free


def _compare(nodes: list[dict[str, Any]], checks: Checks) -> list[str]:
    """What is not the same everywhere, or not enough: one line each, naming the node."""
    faults = []
    for node in [node for node in nodes if node["local_rank"] == 0]:
        host, first = node["host"], nodes[0]
        for name, version in node["versions"].items():
            if version != first["versions"][name]:
                faults.append(f"{host}: {name} {version}, but {first['host']} has {first['versions'][name]}")
        if node["device"] != first["device"] or node["devices"] != first["devices"]:
            faults.append(
                f"{host}: {node['devices']} x {node['device']}, but {first['host']} has {first['devices']} x "
                f"{first['device']}"
            )
        for split, checksum in (node["data"] or {}).items():
            if checksum.startswith("error: "):
                faults.append(f"{host}: {checksum.removeprefix('error: ')}")
            elif not first["data"][split].startswith("error: ") and checksum != first["data"][split]:
                faults.append(
                    f"{host}: {split} of {checks.data} is {checksum}, but {first['data'][split]} on {first['host']}"
                )
        free = node.get("free", _FREE)
        if isinstance(free, str):
            faults.append(f"{host}: {free}")
        elif free < _FREE:
            faults.append(f"{host}: {free / 2**30:.1f} GiB are free for {checks.run_dir}, less than {_FREE >> 30}")
        skew = node["clock"] - first["clock"]
        if abs(skew) > _SKEW:
            faults.append(f"{host}: its clock is {skew:+.1f} s from that of {first['host']}")
    return faults


def _all_reduce(device: Any, nodes: list[dict[str, Any]]) -> list[str]:
    """The sum of what only each rank knows must be right, on the very devices that train."""
    import torch
    import torch.distributed as dist

    rank, size = dist.get_rank(), dist.get_world_size()
    values = torch.arange(1024, dtype=torch.float32, device=device) + rank
    dist.all_reduce(values)
    expected = torch.arange(1024, dtype=torch.float32) * size + size * (size - 1) / 2
    wrong: list[bool] = [False] * size
    dist.all_gather_object(wrong, not torch.equal(values.cpu(), expected))
    return [f"{nodes[rank]['host']}: rank {rank} got a wrong sum of all ranks" for rank in range(size) if wrong[rank]]


def _bandwidths(device: Any, nodes: list[dict[str, Any]]) -> dict[tuple[str, str], float]:
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
            times = [_ping(message, rank == first, second if rank == first else first) for _ in range(4)]
            seconds = min(times[1:])  # the first one connects
        shared: list[float] = [0.0] * len(nodes)
        dist.all_gather_object(shared, seconds)
        names = (f"{nodes[first]['host']}", f"{nodes[second]['host']}")
        speeds[names] = 2 * _MESSAGE / max(shared)
    return speeds


def _ping(message: Any, sends_first: bool, peer: int) -> float:
    import torch
    import torch.distributed as dist

    began = time.perf_counter()
    for sends in (sends_first, not sends_first):
        (dist.send if sends else dist.recv)(message, peer)
    if message.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _slow_pairs(speeds: dict[tuple[str, str], float]) -> list[str]:
    if len(speeds) < 3:
        return []  # no telling which one is slow
    median = statistics.median(speeds.values())
    return [
        f"{first} - {second}: {speed / 1e9:.2f} GB/s, less than half of the median {median / 1e9:.2f}"
        for (first, second), speed in speeds.items()
        if speed < _SLOW * median
    ]


def _shared(run_dir: str, nodes: list[dict[str, Any]], rank: int, gloo: Any) -> list[str]:
    """Whether every node sees a file that the first one writes."""
    import torch.distributed as dist

    probe = Path(run_dir) / ".preflight"
    fault: list[str | None] = [None]
    word = [f"{time.time_ns()}"]
    dist.broadcast_object_list(word, 0, group=gloo)
    if rank == 0:
        try:
            probe.parent.mkdir(parents=True, exist_ok=True)
            probe.write_text(word[0])
        except OSError as error:
            fault[0] = f"{nodes[0]['host']}: {run_dir} cannot be written: {error.strerror}"
    dist.broadcast_object_list(fault, 0, group=gloo)
    seen = [False] * len(nodes)
    dist.all_gather_object(seen, fault[0] is not None or _sees(probe, word[0]), group=gloo)
    if rank == 0:
        probe.unlink(missing_ok=True)
    blind = [nodes[other]["host"] for other, sees in enumerate(seen) if not sees]
    return [*([fault[0]] if fault[0] else []), *(f"{host}: does not share {run_dir}" for host in dict.fromkeys(blind))]


def _sees(probe: Path, word: str) -> bool:
    """Within the seconds by which shared file systems may be late."""
    for _ in range(50):
        try:
            if probe.read_text() == word:
                return True
        except OSError:
            pass
        time.sleep(0.1)
    return False


def _describe(nodes: list[dict[str, Any]]) -> list[str]:
    """A line for each node."""
    lines = []
    for host in dict.fromkeys(node["host"] for node in nodes):
        ranks = [node["rank"] for node in nodes if node["host"] == host]
        node = nodes[ranks[0]]
        versions = ", ".join(f"{name} {version}" for name, version in node["versions"].items() if version)
        device = f"{node['devices']} x {node['device']}" if node["devices"] else node["device"]
        lines.append(f"{host}: ranks {ranks[0]}-{ranks[-1]}, {device}, {versions}")
    return lines


def _host() -> str:
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()
