"""How much memory a process of this machine may still take: what is free, and what its control group allows."""

import re
import resource
from pathlib import Path

from trainer.process.linux import CGROUP, CGROUPS, control_groups, proc_bytes

_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = ("memory.max", "memory.current", "inactive_file")
_KEPT_FREE = 0.05  # share of what is free that is left to the rest of the machine


def free_bytes() -> int:
    """The smaller of the machine's available memory and the room in this process's control group, less 5 %.

    A limit of the process itself (`ulimit -v`, `ulimit -d`) is not in it: allocations beyond that fail by themselves.
    """
    available = proc_bytes("MemAvailable", Path("/proc/meminfo"))
    return int((1 - _KEPT_FREE) * min(available, *cgroup_room()))


def process_limits() -> list[int]:
    """The soft limits of this process in bytes, of `ulimit -v` and `ulimit -d`; none if it has none."""
    limits = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
    return [limit for limit in limits if limit != resource.RLIM_INFINITY]


def cgroup_room(cgroup: Path = CGROUP, root: Path = CGROUPS) -> list[int]:
    """For each control group of the process with a memory limit, the bytes left in it; none without such a group.

    Pages of files that were read are not counted as used: the kernel drops them first. Versions 1 and 2.
    """
    rooms = []
    for group, version in control_groups("memory", cgroup, root):
        limit, usage, reclaimable = _V2 if version == 2 else _V1
        try:
            most, used, statistics = (
                (group / name).read_text(encoding="utf-8") for name in (limit, usage, "memory.stat")
            )
            pages = re.search(rf"^{reclaimable} (\d+)$", statistics, re.MULTILINE)
            rooms.append(max(0, int(most) - int(used) + (int(pages[1]) if pages else 0)))
        except (OSError, ValueError):  # no such group here, as in a container, or "max"
            pass
    return rooms


def limit_data(room: int) -> None:
    """Lets allocations fail once this process has taken `room` bytes more, before the kernel kills somebody for it."""
    used = proc_bytes("VmData")
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limits = [limit for limit in (used + room, soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(limits), hard))
