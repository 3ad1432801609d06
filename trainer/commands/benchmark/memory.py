"""How much memory a process of this machine may still take: what is free, and what its control group allows."""

import re
import resource
from pathlib import Path

_MEMINFO, _STATUS = Path("/proc/meminfo"), Path("/proc/self/status")
_CGROUP, _CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
_KEPT_FREE = 0.05  # share of what is free that is left to the rest of the machine


def free_bytes() -> int:
    """The smaller of the machine's available memory and the room in this process's control group, less 5 %.

    A limit of the process itself (`ulimit -v`, `ulimit -d`) is not in it: allocations beyond that fail by themselves.
    """
    available = 1024 * int(re.findall(r"MemAvailable:\s+(\d+) kB", _MEMINFO.read_text(encoding="utf-8"))[0])
    return int((1 - _KEPT_FREE) * min(available, *cgroup_room()))


def process_limits() -> list[int]:
    """The soft limits of this process in bytes, of `ulimit -v` and `ulimit -d`; none if it has none."""
    limits = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
    return [limit for limit in limits if limit != resource.RLIM_INFINITY]


def cgroup_room(cgroup: Path = _CGROUP, root: Path = _CGROUPS) -> list[int]:
    """For each control group of the process with a memory limit, the bytes left in it; none without such a group.

    Pages of files that were read are not counted as used: the kernel drops them first. Versions 1 and 2.
    """
    try:
        lines = [line.split(":", 2) for line in cgroup.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return []
    found = []
    for _, controllers, name in lines:
        if controllers == "":
            found += _rooms(root, name, "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            found += _rooms(root / "memory", name, *names)
    return found


def limit_data(room: int) -> None:
    """Lets allocations fail once this process has taken `room` bytes more, before the kernel kills somebody for it."""
    used = 1024 * int(re.findall(r"VmData:\s+(\d+) kB", _STATUS.read_text(encoding="utf-8"))[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limits = [limit for limit in (used + room, soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(limits), hard))


def _rooms(root: Path, name: str, limit: str, usage: str, reclaimable: str) -> list[int]:
    folder = root / name.lstrip("/")
    rooms = []
    for path in (folder, *folder.parents):
        try:
            most, used, statistics = (
                (path / name).read_text(encoding="utf-8") for name in (limit, usage, "memory.stat")
            )
            pages = re.search(rf"^{reclaimable} (\d+)$", statistics, re.MULTILINE)
            rooms.append(max(0, int(most) - int(used) + (int(pages[1]) if pages else 0)))
        except (OSError, ValueError):  # no such group here, as in a container, or "max"
            pass
        if path == root:
            break
    return rooms
