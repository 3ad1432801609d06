"""Only its user ends a run: each cause on a real Slurm, one a test. docs/cluster.md has the table."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.launch.slurm_runs import SlurmArray, SlurmRun, checkout
from tests.support.slurm_cluster import Cluster, cluster, missing

pytestmark = [pytest.mark.slurm, pytest.mark.skipif(missing() is not None, reason=str(missing()))]
Launch = Callable[..., SlurmRun]
CONTINUES = "SIGTERM to the processes, saved; the run continues because nobody cancelled its job"


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("slurm"), nodes=2) as it:
        yield it


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkout(tmp_path_factory.mktemp("code"))


@pytest.fixture
def launch(slurm: Cluster, code: Path, tmp_path: Path) -> Iterator[Launch]:
    """A run whose ranks listen; its job is ended after the test."""
    runs: list[SlurmRun] = []

    def start(*options: str, nodes: int = 1) -> SlurmRun:
        runs.append(SlurmRun(slurm, code, tmp_path / "run", *options, nodes=nodes))
        runs[-1].wait_for_start(0)
        return runs[-1]

    yield start
    for run in runs:
        run.cancel()


def fake(folder: Path, program: str, script: str) -> str:
    """A folder for PATH in which `program` does something else."""
    folder.mkdir()
    (folder / program).write_text(f"#!/bin/sh\n{script}\n")
    (folder / program).chmod(0o755)
    return str(folder)


# ----------------------------------------------------------------------------------------------- ended by the user


def test_scancel_of_the_job_ends_the_run(launch: Launch) -> None:
    run = launch()
    run.slurm.run("scancel", run.job)
    assert run.wait_for_end() == "CANCELLED"
    assert [(start["again"], start["reason"]) for start in run.starts()] == [(False, "cancelled by scancel, saved")]


def test_launch_cancel_ends_the_run(launch: Launch) -> None:
    run = launch()
    assert run.launch("cancel", str(run.run_dir)).returncode == 0
    assert run.wait_for_end() == "CANCELLED"
    (start,) = run.starts()
    assert (start["again"], start["reason"]) == (False, "cancelled by python -m launch cancel, saved")
    assert "cancelled by python -m launch cancel" in run.launch("status", str(run.run_dir)).stdout


def test_launch_cancel_holds_where_scancel_fails(launch: Launch, tmp_path: Path) -> None:
    """Its mark is found when the start ends for some other reason."""
    run = launch()
    path = fake(tmp_path / "bin", "scancel", "echo 'scancel: error: no route to the controller' >&2; exit 1")
    cancelled = run.launch("cancel", str(run.run_dir), path=path)
    assert cancelled.returncode == 2
    assert "no route to the controller; the run will not start again, but its processes still run" in cancelled.stderr
    assert run.slurm.job(run.job)["JobState"] == "RUNNING"
    os.kill(run.rank(1), signal.SIGKILL)
    assert run.wait_for_end() == "FAILED"
    (start,) = run.starts()
    assert start["reason"].startswith("cancelled by python -m launch cancel")


def test_signal_to_the_jobs_script_ends_the_run(launch: Launch) -> None:
    run = launch()
    run.slurm.run("scancel", "--full", "--signal=TERM", run.job)
    assert run.wait_for_end() == "FAILED"
    assert [start["again"] for start in run.starts()] == [False]
    assert run.starts()[0]["reason"].startswith("stopped by SIGTERM to the job's script")


def test_sigterm_of_a_nodes_shutdown_is_followed_by_a_new_start(launch: Launch, tmp_path: Path) -> None:
    """To the script it looks like the user's; systemd says what it is."""
    path = fake(tmp_path / "bin", "systemctl", "echo stopping; exit 1")
    run = launch("--setup", f"export PATH={path}:$PATH")
    run.slurm.run("scancel", "--full", "--signal=TERM", run.job)
    run.finish(start=1)
    assert run.starts()[0]["reason"].startswith("ended by the node's shutdown")


def test_slurm_ends_wrong_input_ends_the_run(launch: Launch) -> None:
    run = launch()
    (run.run_dir / "exit.1").write_text("2")
    assert run.wait_for_end() == "FAILED"
    assert [start["reason"] for start in run.starts()] == ["the input cannot be used, see the log of rank 1"]


# --------------------------------------------------------------------------------------- signals that are nobody's


def test_cancelled_step_is_followed_by_a_new_start(launch: Launch) -> None:
    run = launch()
    run.slurm.run("scancel", f"{run.job}.0")
    run.finish(start=1)
    assert run.starts()[0]["reason"] in (CONTINUES, "srun ended with 137")  # srun may kill what would have saved


def test_sigterm_to_the_steps_is_followed_by_a_new_start(launch: Launch) -> None:
    run = launch()
    run.slurm.run("scancel", "--signal=TERM", run.job)
    run.finish(start=1)
    assert run.starts()[0]["reason"] == CONTINUES
    assert f"launch: {CONTINUES}: starting again" in run.log()


def test_sigterm_to_one_rank_is_followed_by_a_new_start(launch: Launch) -> None:
    run = launch()
    os.kill(run.rank(1), signal.SIGTERM)
    run.finish(start=1)
    assert run.starts()[0]["reason"] == CONTINUES


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_killed_srun_is_followed_by_a_new_start(launch: Launch, number: signal.Signals) -> None:
    run = launch()
    os.kill(run.process("srun --unbuffered"), number)
    run.finish(start=1)


def test_killed_rank_is_followed_by_a_new_start(launch: Launch) -> None:
    """What an exhausted memory does: the kernel's killer sends SIGKILL to one process."""
    run = launch()
    os.kill(run.rank(1), signal.SIGKILL)
    run.finish(start=1)
    assert run.starts()[0]["reason"].startswith("srun ended with ")


def test_crashed_rank_is_followed_by_a_new_start(launch: Launch) -> None:
    run = launch()
    (run.run_dir / "exit.1").write_text("1")
    run.finish(start=1)
    assert run.starts()[0]["reason"] == "rank 1 ended with 1"


# ------------------------------------------------------------------------------------------------------ by Slurm


def test_requeue_is_followed_by_a_new_start(launch: Launch) -> None:
    run = launch()
    run.slurm.run("scontrol", "requeue", run.job)
    run.finish(start=1)
    assert run.starts()[0]["reason"] in ("queued again by Slurm, saved", "ended from outside")


def test_requeuehold_waits_for_its_release(launch: Launch) -> None:
    run = launch()
    run.slurm.run("scontrol", "requeuehold", run.job)
    held = lambda: "held" in run.slurm.job(run.job).get("Reason", "").lower()  # noqa: E731
    run.slurm.wait_until(held, "the job is held")
    assert f"scontrol release {run.job} continues it" in run.launch("status", str(run.run_dir)).stdout
    run.slurm.run("scontrol", "release", run.job)
    run.finish(start=1)


def test_node_set_down_is_followed_by_a_new_start(launch: Launch) -> None:
    run = launch()
    node = run.starts()[0]["nodes"]
    run.slurm.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    run.finish(start=1)  # on any node: one whose slurmd still answers comes back by itself
    run.slurm.run("scontrol", "update", f"NodeName={node}", "State=RESUME", check=False)


@pytest.mark.parametrize("partition", ["low", "grace", "cancelled"])
def test_preemption_is_followed_by_a_new_start(launch: Launch, partition: str) -> None:
    """Requeued at once, signalled within a grace first, and cancelled."""
    run = launch("--partition", partition)
    words = ["--parsable", "-p", "high", "-N", "2", "--exclusive", "-o", "/dev/null", "--wrap", "true"]
    run.slurm.run("sbatch", *words)
    run.finish(start=1)
    assert run.starts()[0]["reason"] in ("preempted, saved", "queued again by Slurm, saved", "ended from outside")


def test_soft_signal_before_the_limit_is_followed_by_a_new_start(launch: Launch) -> None:
    run = launch()
    run.slurm.run("scancel", "--signal=USR2", run.job)
    run.finish(start=1)
    assert run.starts()[0]["reason"] == "saved before the time limit"


def test_slurm_ends_time_limit_is_followed_by_a_new_start(launch: Launch) -> None:
    """Also where the processes did not get to save before it."""
    run = launch()
    (run.run_dir / "ignore_usr2").touch()
    run.slurm.run("scontrol", "update", f"JobId={run.job}", "TimeLimit=1")
    run.slurm.wait_until(lambda: "reason" in run.starts()[0], "the time limit ends start 0")

    def is_raised() -> bool:
        run.slurm.run("scontrol", "update", f"JobId={run.job}", "TimeLimit=30", check=False)
        return run.slurm.job(run.job).get("TimeLimit") == "00:30:00"

    run.slurm.wait_until(is_raised, "start 1 may take longer")
    run.finish(start=1)
    assert run.starts()[0]["reason"] == "ended by the time limit, saved"


def test_controller_outage_is_waited_for(launch: Launch) -> None:
    """While the processes end, while the script asks what ended them, and while it wants to queue the job again."""
    run = launch()
    run.slurm.stop_controller()
    try:
        os.kill(run.rank(0), signal.SIGTERM)
        wanted = "scontrol requeue failed, trying again for up to an hour"
        run.slurm.wait_until(lambda: wanted in run.log(), f"the script waits:\n{run.log()}")
    finally:
        run.slurm.start_controller()
    run.finish(start=1)
    assert "while Slurm did not answer, saved" in run.starts()[0]["reason"]
    assert run.log().count(wanted) == 1


def test_killed_script_is_named_in_the_status(launch: Launch) -> None:
    """Nothing in the script can help; Slurm queues such a job never again."""
    run = launch()
    os.kill(run.process("slurm_script"), signal.SIGKILL)
    assert run.wait_for_end() == "FAILED"
    shown = run.launch("status", str(run.run_dir)).stdout
    assert "the job's script was killed: launch the run again to continue it" in shown


def test_element_of_an_array_is_queued_again_alone(slurm: Cluster, code: Path, tmp_path: Path) -> None:
    runs = SlurmArray(slurm, code, tmp_path / "runs")
    try:
        runs.wait_for_start(0, element=0)
        runs.wait_for_start(0, element=1)
        os.kill(runs.rank(1, element=1), signal.SIGKILL)
        runs.wait_for_start(1, element=1)
        runs.finish()
        assert [len(runs.starts(element)) for element in range(2)] == [1, 2]
    finally:
        runs.cancel()


# ------------------------------------------------------------------------------------------------------ the disk


def test_full_disk_is_waited_for(slurm: Cluster, code: Path, tmp_path: Path) -> None:
    """The next start begins when there is room for a checkpoint."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        run = SlurmRun(slurm, code, disk / "run")
        run.wait_for_start(0)
        # the last checkpoint needs room for the next
        with (disk / "filled").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        os.kill(run.rank(1), signal.SIGTERM)
        tries: set[int] = set()

        def script_waits() -> bool:
            """The log has no room for its line: what shows is that the script tries again."""
            found = slurm.processes(run.job).items()
            tries.update(pid for pid, command in found if "-m launch.slurm.start end" in command)
            return len(tries) >= 3

        slurm.wait_until(script_waits, "the script waits for the disk")
        assert "ended" not in run.starts()[0]
        (disk / "filled").unlink()
        run.finish(start=1)
        assert "Traceback" not in run.log()
        run.cancel()
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_absent_run_directory_is_waited_for(launch: Launch, tmp_path: Path) -> None:
    run = launch()
    away = tmp_path / "away"
    run.run_dir.rename(away)
    log = lambda: "\n".join(path.read_text() for path in away.glob("launch/001/logs/*.out"))  # noqa: E731
    run.slurm.wait_until(lambda: "is not there: waiting for it" in log(), f"the script waits:\n{log()}")
    away.rename(run.run_dir)
    run.finish(start=1)
    assert run.log().count("waiting for") == 1
    assert "Traceback" not in run.log()
