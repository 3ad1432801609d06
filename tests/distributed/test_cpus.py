"""How many CPUs a process may use."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.support.processes import ROOT, TIMEOUT
from trainer.distributed.affinity import Place, bindings, cpus_of_gpu, cpus_per_rank
from trainer.distributed.cpus import Quota, cgroup_quota, default_workers, usable_cpus


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
    found = cgroup_quota(*groups(tmp_path, limits, "/job/step"))
    assert (found and found.cpus) == quota


def test_cgroup_quota_is_none_without_control_groups_of_cpus(tmp_path: Path) -> None:
    assert cgroup_quota(tmp_path / "nowhere", tmp_path) is None
    (tmp_path / "self").write_text("4:cpuset:/docker\n")
    assert cgroup_quota(tmp_path / "self", tmp_path) is None


def test_cgroup_quota_of_version_1_is_that_of_its_cpu_controller(tmp_path: Path) -> None:
    group = tmp_path / "cpu" / "job"
    group.mkdir(parents=True)
    (tmp_path / "self").write_text("5:cpu,cpuacct:/job\n4:cpuset:/other\n0::/\n")
    (group / "cpu.cfs_period_us").write_text("100000\n")
    for quota, expected in (("250000\n", 2.5), ("-1\n", None)):
        (group / "cpu.cfs_quota_us").write_text(quota)
        found = cgroup_quota(tmp_path / "self", tmp_path)
        assert (found and found.cpus) == expected


@pytest.mark.parametrize(("quota", "cpus"), [(None, 24), (0.5, 1), (15.5, 16), (192.0, 24)])
def test_usable_cpus_are_those_of_the_affinity_or_the_quota(
    quota: float | None, cpus: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(24)))
    limit = None if quota is None else Quota(quota, Path("job"))
    monkeypatch.setattr("trainer.distributed.cpus.cgroup_quota", lambda: limit)
    assert usable_cpus() == cpus


def on(host: str, cpus: Iterable[int], near: Iterable[int] | None = None, quota: Quota | None = None) -> Place:
    return Place(host, [*cpus], [*(cpus if near is None else near)], quota)


def test_ranks_are_bound_near_their_gpus_where_that_leaves_no_cpu_idle() -> None:
    """Two sockets of 56 CPUs with four GPUs each; one process alone needs both for its images."""
    sockets = range(56), range(56, 112)
    eight = [on("node1", range(112), sockets[rank // 4]) for rank in range(8)]
    assert [bound.cpus for bound in bindings(eight)] == [[*sockets[rank // 4]] for rank in range(8)]
    assert cpus_per_rank(bindings(eight)[5], bindings(eight)) == 14
    for few in (eight[:1], eight[:4], [*eight[:4], on("node2", range(112), sockets[1])]):
        assert bindings(few) == few
    already = [on("node1", range(14 * rank, 14 * rank + 14)) for rank in range(8)]
    assert bindings(already) == already


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("0-2,8-9\n", {0, 1, 2, 8, 9}), ("5\n", {5}), ("\n", set()), (None, set())],
)
def test_cpus_of_a_gpu_are_those_that_its_pci_device_names(
    text: str | None, cpus: set[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = SimpleNamespace(pci_domain_id=0, pci_bus_id=0x9B, pci_device_id=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: gpu)
    folder = tmp_path / "0000:9b:00.0"
    folder.mkdir()
    if text is not None:
        (folder / "local_cpulist").write_text(text)
    assert cpus_of_gpu(torch.device("cuda", 3), tmp_path) == cpus


@pytest.mark.slow
def test_bound_process_runs_on_its_cpus_with_the_threads_that_it_starts() -> None:
    first = sorted(os.sched_getaffinity(0))[:1]
    script = (
        "import os, threading\n"
        "from trainer.distributed.affinity import Place, bind\n"
        f"bind(Place('n', {first}, {first}, None))\n"
        "thread = threading.Thread(target=lambda: print(os.sched_getaffinity(0)))\n"
        "thread.start()\n"
    )
    command = [sys.executable, "-c", script]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, timeout=TIMEOUT)
    assert ended.stdout.strip() == str({*first})


def test_cpus_are_divided_among_the_ranks_that_share_them_only() -> None:
    """Eight ranks on a node of 112 CPUs: unbound they share all; bound to 14 CPUs each they share none."""
    unbound = [on("node1", range(112))] * 8 + [on("node2", range(112))] * 8
    bound = [on("node1", range(14 * rank, 14 * rank + 14)) for rank in range(8)]
    for ranks in (unbound, bound):
        assert cpus_per_rank(ranks[3], ranks) == 14


def test_quota_is_divided_among_the_ranks_of_its_group_also_where_their_cpus_differ() -> None:
    """A container of 64 CPUs on a machine of 128: eight ranks, four bound to each socket, have eight each."""
    container, sockets = Quota(64.0, Path("pod")), (range(64), range(64, 128))
    eight = [on("node1", range(128), sockets[rank // 4], container) for rank in range(8)]
    assert [cpus_per_rank(own, bindings(eight)) for own in bindings(eight)] == [8] * 8
    of_their_own = [own._replace(quota=Quota(12.5, Path(f"task{rank}"))) for rank, own in enumerate(bindings(eight))]
    assert cpus_per_rank(of_their_own[0], of_their_own) == 13
    crowded = [on("node1", range(4), quota=Quota(2.0, Path("pod")))] * 8
    assert cpus_per_rank(crowded[0], crowded) == 1


@pytest.mark.parametrize(("cpus", "threads"), [(1, 1), (2, 2), (3, 3), (4, 3), (16, 15)])
def test_default_workers_leave_one_of_four_cpus_to_the_main_thread(cpus: int, threads: int) -> None:
    assert default_workers(cpus) == threads


def usable_in(*prefix: str) -> int:
    """usable_cpus() of a new process that is started with this prefix."""
    script = "from trainer.distributed.cpus import usable_cpus; print(usable_cpus())"
    command = [*prefix, sys.executable, "-c", script]
    return int(subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, timeout=TIMEOUT).stdout)


@pytest.mark.skipif(not shutil.which("taskset"), reason="needs taskset")
def test_usable_cpus_under_taskset_are_its_cpus() -> None:
    cpus = sorted(os.sched_getaffinity(0))
    assert usable_in("taskset", "--cpu-list", str(cpus[0])) == 1
    assert usable_in("taskset", "--cpu-list", ",".join(map(str, cpus))) == usable_cpus()


@pytest.fixture
def quota_of_one_cpu() -> Iterator[Path]:
    """The tasks file of a real control group, of version 2 or 1, that may use one CPU."""
    unified, one = Path("/sys/fs/cgroup/cgroup.controllers").exists(), Path("/sys/fs/cgroup")
    group = (one if unified else one / "cpu") / f"trainer-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError:
        pytest.skip("needs root and writable control groups")
    try:
        (group / ("cpu.max" if unified else "cpu.cfs_quota_us")).write_text("100000")
        yield group / "cgroup.procs"
    except OSError:
        pytest.skip("the control group has no cpu controller")
    finally:
        group.rmdir()


def test_usable_cpus_in_a_real_control_group_are_its_quota(quota_of_one_cpu: Path) -> None:
    assert usable_in("sh", "-c", f'echo $$ > {quota_of_one_cpu} && exec "$@"', "sh") == 1
