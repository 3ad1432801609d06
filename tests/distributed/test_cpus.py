"""How many CPUs a process may use."""

import os
from pathlib import Path

import pytest

from trainer.data.loader import default_workers
from trainer.distributed.cpus import cgroup_quota, processes_sharing, usable_cpus


def groups(tmp_path: Path, limits: dict[str, str], own: str) -> tuple[Path, Path]:
    """A tree of control groups, version 2, and the file that names the process's own."""
    root = tmp_path / "cgroup"
    for name, limit in limits.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        (root / name / "cpu.max").write_text(limit)
    (tmp_path / "self").write_text(f"1:name=systemd:/\n0::{own}\n")
    return tmp_path / "self", root


@pytest.mark.parametrize(
    ("limits", "quota"),
    [
        ({"": "max 100000", "job": "max 100000", "job/step": "max 100000"}, None),
        ({"job": "1600000 100000", "job/step": "max 100000"}, 16.0),
        ({"job": "1600000 100000", "job/step": "250000 100000"}, 2.5),
        ({"job/step": "50000 100000"}, 0.5),
        ({}, None),
    ],
)
def test_cgroup_quota_is_the_smallest_of_the_group_and_its_parents(
    limits: dict[str, str], quota: float | None, tmp_path: Path
) -> None:
    assert cgroup_quota(*groups(tmp_path, limits, "/job/step")) == quota


def test_cgroup_quota_is_none_without_control_groups_of_version_2(tmp_path: Path) -> None:
    assert cgroup_quota(tmp_path / "nowhere", tmp_path) is None
    (tmp_path / "self").write_text("4:cpu:/docker\n")
    assert cgroup_quota(tmp_path / "self", tmp_path) is None


@pytest.mark.parametrize(("quota", "cpus"), [(None, 24), (0.5, 1), (15.5, 16), (192.0, 24)])
def test_usable_cpus_are_those_of_the_affinity_or_the_quota(
    quota: float | None, cpus: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(24)))
    monkeypatch.setattr("trainer.distributed.cpus.cgroup_quota", lambda: quota)
    assert usable_cpus() == cpus


def test_default_workers_divide_cpus_among_the_processes_that_share_them_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight ranks on a node of 112 CPUs: unbound they share all; bound to 14 CPUs each they share none."""
    monkeypatch.setattr("trainer.distributed.cpus.cgroup_quota", lambda: None)
    unbound = [("node1", list(range(112)))] * 8 + [("node2", list(range(112)))] * 8
    bound = [("node1", list(range(14 * rank, 14 * rank + 14))) for rank in range(8)]
    for ranks in (unbound, bound):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _pid, ranks=ranks: set(ranks[3][1]))
        assert default_workers(processes_sharing(ranks[3], ranks)) == 14
