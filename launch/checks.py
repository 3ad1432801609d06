"""What preflight looks at on every process: devices, versions, data, run directory, clocks, the links of the nodes."""

import contextlib
import errno
import importlib.metadata
import os
import platform
import shutil
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from launch.attempt import node_name
from launch.comparison import UNREAD, Checks, MachineFault, NodeFault, compare, fault_of, may_start_again
from launch.links import all_reduce, bandwidths, slow_links
from trainer.distributed.faulty_node import report_faulty_node
from trainer.distributed.interface import bind_gloo
from trainer.errors import EXIT_RETRY, UnreachableError, UserError, counted, first_line
from trainer.process.limits import raise_open_file_limit

_PACKAGES = (
    "torch", "torchvision", "ffcv", "numpy", "timm", "pillow", "simplejpeg", "opencv-python", "opencv-python-headless",
)  # fmt: skip
_OF_THE_USER = (errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG)  # of errors of the data
_WAIT = timedelta(seconds=120)  # for processes to meet, and for each of their exchanges
_READING = timedelta(hours=3)  # for the one process of each machine that reads all data


def run_checks(checks: Checks) -> list[str]:
    """On every process of a job, with torchrun's variables set. Rank 0 prints the nodes, and a line for each fault.

    Returns the faults, the same on all ranks. Raises UnreachableError, naming node and rank.
    """
    raise_open_file_limit()
    import torch.distributed as dist

    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    where = f"node {node_name()}, rank {rank}"
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    if world_size > int(os.environ["LOCAL_WORLD_SIZE"]):
        bind_gloo()
    serves = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"  # torchrun has its own
    try:
        tcp = dist.TCPStore(address, port, world_size, serves, _WAIT, wait_for_workers=False)  # type: ignore[attr-defined]
        store = dist.PrefixStore("preflight", tcp)  # type: ignore[attr-defined]
        missing = _missing(store, rank, world_size)
    except (dist.DistError, ValueError, RuntimeError) as error:  # type: ignore[attr-defined]
        raise UnreachableError(f"{where}: cannot reach the first node, {address}: {first_line(error)}") from error
    if missing:
        raise UnreachableError(
            f"these ranks did not start within {_WAIT.seconds} s: {missing}; others: {_hosts(store, world_size)}"
        )
    try:
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size, timeout=_WAIT)
        lines, faults = _run(checks, rank, world_size)
        if may_start_again(faults):
            for fault in faults:
                if isinstance(fault, NodeFault) and fault.node == node_name():
                    report_faulty_node(fault)
        if rank == 0:
            for line in [*lines, *(f"fault: {fault}" for fault in faults)]:
                print(line)
            found = counted(len(faults), "fault") if faults else "no fault"
            print(f"preflight: {world_size} processes, {found}", flush=True)
        dist.barrier()  # the first process that ends badly may take the others with it
        dist.destroy_process_group()
    except (dist.DistError, RuntimeError) as error:  # type: ignore[attr-defined]
        raise UnreachableError(f"{where}: the processes cannot talk: {first_line(error)}") from error
    return faults


def quick(argv: list[str]) -> int:
    """The short form, at the start of a job that is about to train with these arguments.

    Returns the exit code: 0; 2 for faults; 75 where another start may go well, or processes did not meet.

    In a job's process, with torchrun's variables set. The port after the job's own is free for it: see attempt.py.
    """
    checks = Checks(
        data=_value(argv, "--data"),
        run_dir=_value(argv, "--run-dir"),
        device=_value(argv, "--device") or "auto",
        bandwidth=False,
        content=False,
        room=False,
    )
    port = os.environ["MASTER_PORT"]
    os.environ["MASTER_PORT"] = str(int(port) + 1)
    try:
        faults = run_checks(checks)
        if faults and os.environ["RANK"] == "0":
            print(f"error: preflight: {faults[0]}{f', and {len(faults) - 1} more' * (len(faults) > 1)}", flush=True)
        return EXIT_RETRY if may_start_again(faults) else 2 if faults else 0
    except UnreachableError as error:
        print(f"error: preflight: {error}", flush=True)
        return EXIT_RETRY
    finally:
        os.environ["MASTER_PORT"] = port


def _value(argv: list[str], option: str) -> str | None:
    return argv[argv.index(option) + 1] if option in argv else None


def _run(checks: Checks, rank: int, world_size: int) -> tuple[list[str], list[str]]:
    """-> a line for each node and link, and the faults. The devices talk only if all of them are as they should be."""
    import torch
    import torch.distributed as dist

    patient = dist.new_group(backend="gloo", timeout=_READING if checks.content else _WAIT)
    assert isinstance(patient, dist.ProcessGroup)
    here = {"rank": rank, "host": node_name(), "local_rank": int(os.environ["LOCAL_RANK"]), **_facts(checks)}
    dist.barrier(group=patient)
    here["clock"] = time.time()
    nodes: list[dict[str, Any]] = [{} for _ in range(world_size)]
    dist.all_gather_object(nodes, here)
    faults = compare(nodes, checks)
    lines = _describe(nodes)
    if checks.run_dir:
        faults += _shared(checks.run_dir, nodes, rank)
    if faults:
        return lines, faults
    device, group = torch.device("cpu"), None
    if here["devices"]:
        device = torch.device("cuda", here["local_rank"] % here["devices"])
        torch.cuda.set_device(device)
        group = dist.new_group(backend="nccl", timeout=_WAIT)
    faults = all_reduce(device, nodes, group)
    if checks.bandwidth and not faults:
        for speeds in bandwidths(device, nodes, group, inside=device.type == "cuda"):
            lines += [f"{first} - {second}: {speed / 1e9:.2f} GB/s" for (first, second), speed in speeds.items()]
            faults += slow_links(speeds)
    return lines, faults


def _missing(store: Any, rank: int, world_size: int) -> list[int]:
    """The ranks that have not come, as rank 0 sees it; the others only report that they have."""
    store.set(f"here/{rank}", node_name())
    if rank:
        return []
    deadline = time.monotonic() + _WAIT.total_seconds()
    while missing := [other for other in range(world_size) if not store.check([f"here/{other}"])]:
        if time.monotonic() > deadline:
            return missing
        time.sleep(0.05)
    return []


def _hosts(store: Any, world_size: int) -> str:
    came = [other for other in range(world_size) if store.check([f"here/{other}"])]
    return ", ".join(f"{rank} on {store.get(f'here/{rank}').decode()}" for rank in came)


def _facts(checks: Checks) -> dict[str, Any]:
    """What one process says of itself."""
    import torch

    versions = {"python": platform.python_version(), "cuda": torch.version.cuda}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    # is_available() starts CUDA; device_count() asks NVML, which counts GPUs also where CUDA cannot start
    devices = torch.cuda.device_count() if checks.device != "cpu" and torch.cuda.is_available() else 0
    facts: dict[str, Any] = {"versions": versions, "devices": devices, "data": None}
    facts["device"] = torch.cuda.get_device_name() if devices else "CPU"
    if checks.data and os.environ["LOCAL_RANK"] == "0":
        facts["data"] = _checksums(checks.data, checks.content)
    if checks.run_dir:
        facts["free"] = _free(Path(checks.run_dir))
    return facts


def _checksums(data: str, content: bool) -> dict[str, str]:
    """The checksum of each split, or why there is none. `content`: after reading the files, else as manifests say.

    UNREAD without a manifest: such files are read for their checksum, which a quick check must not do. A disk that is
    away is a MachineFault, as in training.
    """
    from trainer.data.encoded import EncodedSource
    from trainer.data.formats import open_dataset

    found = {}
    for split in ("train", "val"):
        try:
            source = open_dataset(data, split, num_classes=1, resolution=32, check_content=content)
            unread = not content and isinstance(source, EncodedSource) and not source.is_identified
            found[split] = UNREAD if unread else source.checksum
            source.close()
        except UserError as error:
            text = f"error: {error}"
            found[split] = MachineFault(text) if error.exit_code == EXIT_RETRY else text
        except OSError as error:
            text = f"error: {error.filename or data}: cannot be read: {error.strerror}"
            found[split] = text if error.errno in _OF_THE_USER else MachineFault(text)
    return found


def _free(folder: Path) -> int | str:
    """Bytes free for the run directory, or why it cannot be written."""
    try:
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(existing).free
    except OSError as error:  # a folder above it may not be searched, or the disk is away
        return f"{folder} cannot be used: {error.strerror}"
    return free if os.access(existing, os.W_OK) else f"{existing} cannot be written"


def _shared(run_dir: str, nodes: list[dict[str, Any]], rank: int) -> list[str]:
    """Whether every node sees a file that the first one writes."""
    import torch.distributed as dist

    probe = Path(run_dir) / ".preflight"
    fault: list[str | None] = [None]
    word = [f"{time.time_ns()}"]
    dist.broadcast_object_list(word, 0)
    if rank == 0:
        try:
            probe.parent.mkdir(parents=True, exist_ok=True)
            probe.write_text(word[0], encoding="utf-8")
        except OSError as error:
            fault[0] = MachineFault(f"{nodes[0]['host']}: {run_dir} cannot be written: {error.strerror}")
    dist.broadcast_object_list(fault, 0)
    seen = [False] * len(nodes)
    dist.all_gather_object(seen, fault[0] is not None or _sees(probe, word[0]))
    if rank == 0:
        with contextlib.suppress(OSError):
            probe.unlink()
    blind = {nodes[other]["host"] for other, sees in enumerate(seen) if not sees}
    hosts = list(dict.fromkeys(node["host"] for node in nodes))
    few = 2 * len(blind) < len(hosts)  # where most see nothing, the first one may have a folder of its own
    unshared = [fault_of(host, f"does not share {run_dir}", of_this_node=few) for host in hosts if host in blind]
    return [*([fault[0]] if fault[0] else []), *unshared]


def _sees(probe: Path, word: str) -> bool:
    """Within the seconds by which shared file systems may be late."""
    for _ in range(50):
        try:
            if probe.read_text(encoding="utf-8") == word:
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
        named = f"ranks {ranks[0]}-{ranks[-1]}" if len(ranks) > 1 else f"rank {ranks[0]}"
        lines.append(f"{host}: {named}, {device}, {versions}")
    return lines
