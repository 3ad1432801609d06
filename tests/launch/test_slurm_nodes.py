"""A node that Slurm loses, on a Slurm that gives up on it within seconds."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launch.slurm_runs import SlurmRun, checkout
from tests.support.processes import running
from tests.support.slurm_cluster import Cluster, cluster, missing

pytestmark = [pytest.mark.slurm, pytest.mark.skipif(missing() is not None, reason=str(missing()))]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("slurm"), nodes=4, gives_up_early=True) as it:
        yield it


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkout(tmp_path_factory.mktemp("code"))


def test_lost_node_is_left_behind(slurm: Cluster, code: Path, tmp_path: Path) -> None:
    """As after a loss of power: everything on it ends at once."""
    run = SlurmRun(slurm, code, tmp_path / "run", nodes=2)
    run.wait_for_start(0)
    lost = slurm.job(run.job)["NodeList"].removeprefix("n[").removesuffix("]").replace(",", "-").split("-")[1]
    slurm.lose_node(int(lost))
    try:
        run.finish(start=1)
        assert lost not in run.starts()[1]["nodes"]
    finally:
        slurm.start_node(int(lost))
        slurm.wait_until(lambda: slurm.idle() == slurm.nodes, "the node is back")


def test_node_that_no_longer_answers_is_left_behind(slurm: Cluster, code: Path, tmp_path: Path) -> None:
    """Only slurmd: the processes on the node continue until Slurm has the job elsewhere."""
    run = SlurmRun(slurm, code, tmp_path / "run")
    run.wait_for_start(0)
    node = run.starts()[0]["nodes"]
    (daemon,) = [
        pid
        for pid, words, environment in running()
        if words[:4] == ["slurmd", "-D", "-N", node] and environment.get("SLURM_CONF") == slurm.env["SLURM_CONF"]
    ]
    os.kill(daemon, signal.SIGSTOP)
    try:
        run.finish(start=1)
        assert run.starts()[1]["nodes"] != node
    finally:
        os.kill(daemon, signal.SIGCONT)
        slurm.wait_until(lambda: slurm.idle() == slurm.nodes, "the node is back")


def test_killed_slurmstepd_is_followed_by_a_new_start(slurm: Cluster, code: Path, tmp_path: Path) -> None:
    run = SlurmRun(slurm, code, tmp_path / "run")
    run.wait_for_start(0)
    (stepd,) = [pid for pid, words, _ in running() if f"slurmstepd: [{run.job}.0]" in words[0]]
    os.kill(stepd, signal.SIGKILL)
    run.finish(start=1)


def test_node_at_fault_is_left_out_as_long_as_enough_remain(slurm: Cluster, code: Path, tmp_path: Path) -> None:
    """Of four nodes for a job on two, two can be left out."""
    run = SlurmRun(slurm, code, tmp_path / "run", nodes=2)
    faulty = []
    for start in range(3):
        run.wait_for_start(start)
        used = slurm.run("scontrol", "show", "hostnames", run.starts()[start]["nodes"]).split()
        assert not set(faulty) & set(used)
        (run.run_dir / "fault.1").write_text(f"node {used[1]}: a GPU is gone")
        faulty.append(used[1])
    run.finish(start=3)
    for start, node in zip(run.starts(), faulty, strict=False):
        assert start["again"] and start["reason"].startswith(f"node {node}: a GPU is gone")
    left_out = slurm.run("scontrol", "show", "hostnames", slurm.job(run.job)["ExcNodeList"]).split()
    assert sorted(left_out) == sorted(faulty[:2])
    assert "so no more nodes are left out: allocation failure" in run.log()
