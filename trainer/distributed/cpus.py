"""How many CPUs a process may use, by its affinity and its control group's quota, and how many threads read images."""

import contextlib
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

_ROOM_FROM = 4  # CPUs
_CGROUP, _CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


class Quota(NamedTuple):
    """What a control group may use."""

    cpus: float
    group: Path


def usable_cpus() -> int:
    """CPUs that this process may use: those of its affinity, or fewer where a control group has a smaller quota."""
    cpus, quota = len(os.sched_getaffinity(0)), cgroup_quota()
    return cpus if quota is None else max(1, min(cpus, math.ceil(quota.cpus)))


def default_workers(cpus: int) -> int:
    """Number of reader threads for a process with `cpus` CPUs. With four or more, the main thread keeps one."""
    return cpus if cpus < _ROOM_FROM else cpus - 1


def cgroup_quota(cgroup: Path = _CGROUP, root: Path = _CGROUPS) -> Quota | None:
    """The smallest quota of the process's control group and its parents; None for no limit.

    Version 2 has it in `cpu.max`; version 1, still on many clusters, in `cpu.cfs_quota_us` and `cpu.cfs_period_us`.
    """
    try:
        lines = [line.split(":", 2) for line in cgroup.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return None
    limits = []
    for number, controllers, name in lines:
        if number == "0":
            limits += _limits(root, name, _quota_v2)
        elif "cpu" in controllers.split(","):
            limits += _limits(root / "cpu", name, _quota_v1)
    return min(limits, default=None)


def _limits(root: Path, name: str, quota: Callable[[Path], float | None]) -> list[Quota]:
    """The quotas of the group with this name and of its parents."""
    folder = root / name.lstrip("/")
    limits = []
    for path in (folder, *folder.parents):
        with contextlib.suppress(OSError, ValueError):  # no such group here, as in a container
            if (cpus := quota(path)) is not None:
                limits.append(Quota(cpus, path))
        if path == root:
            break
    return limits


def _quota_v2(group: Path) -> float | None:
    quota, period = (group / "cpu.max").read_text(encoding="utf-8").split()
    return None if quota == "max" else int(quota) / int(period)


def _quota_v1(group: Path) -> float | None:
    quota = int((group / "cpu.cfs_quota_us").read_text(encoding="utf-8"))
    return quota / int((group / "cpu.cfs_period_us").read_text(encoding="utf-8")) if quota > 0 else None
