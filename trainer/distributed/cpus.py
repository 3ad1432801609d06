"""How many CPUs a process may use, by its affinity and its control group's quota, and how many threads read images."""

import contextlib
import math
import os
from pathlib import Path
from typing import NamedTuple

from trainer.process.linux import CGROUP, CGROUPS, control_groups

_ROOM_FROM = 4  # CPUs


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


def cgroup_quota(cgroup: Path = CGROUP, root: Path = CGROUPS) -> Quota | None:
    """The smallest quota of the process's control group and its parents; None for no limit.

    Version 2 has it in `cpu.max`; version 1, still on many clusters, in `cpu.cfs_quota_us` and `cpu.cfs_period_us`.
    """
    quotas = []
    for group, version in control_groups("cpu", cgroup, root):
        with contextlib.suppress(OSError, ValueError):  # no such group here, as in a container
            cpus = _quota_v2(group) if version == 2 else _quota_v1(group)
            if cpus is not None:
                quotas.append(Quota(cpus, group))
    return min(quotas, default=None)


def _quota_v2(group: Path) -> float | None:
    quota, period = (group / "cpu.max").read_text(encoding="utf-8").split()
    return None if quota == "max" else int(quota) / int(period)


def _quota_v1(group: Path) -> float | None:
    quota = int((group / "cpu.cfs_quota_us").read_text(encoding="utf-8"))
    return quota / int((group / "cpu.cfs_period_us").read_text(encoding="utf-8")) if quota > 0 else None
