"""How many CPUs a process may use: its affinity, its control group's quota, and who shares them."""

import math
import os
from pathlib import Path

_CGROUP, _CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def usable_cpus() -> int:
    """CPUs that this process may use: those of its affinity, or fewer where a control group has a smaller quota."""
    cpus, quota = len(os.sched_getaffinity(0)), cgroup_quota()
    return cpus if quota is None else max(1, min(cpus, math.ceil(quota)))


def cgroup_quota(cgroup: Path = _CGROUP, root: Path = _CGROUPS) -> float | None:
    """The smallest `cpu.max` of the process's control group (version 2) and its parents, in CPUs; None for no limit."""
    try:
        lines = cgroup.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    name = next((line[3:] for line in lines if line.startswith("0::/")), None)
    if name is None:
        return None
    folder = root / name.lstrip("/")
    limits = []
    for path in (folder, *folder.parents):
        try:
            quota, period = (path / "cpu.max").read_text(encoding="utf-8").split()
            limits.append(int(quota) / int(period))
        except (OSError, ValueError):  # no such group here, as in a container, or "max"
            pass
        if path == root:
            break
    return min(limits, default=None)


def processes_sharing(own: tuple[str, list[int]], all_ranks: list[tuple[str, list[int]]]) -> int:
    """How many ranks have this host name and this affinity: a launcher may bind each process to CPUs of its own."""
    return sum(other == own for other in all_ranks)
