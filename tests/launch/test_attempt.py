"""What follows from the end of a start: again as long as it helps, and never for what the user has to change."""

import json
import os
import signal
from pathlib import Path

import pytest

from launch.attempt import attempts, begin, decide, end, free_port, newest_step, note_rank, rank_codes
from launch.slurm.environment import of_slurm
from launch.submission import Job, Submission
from tests.support.processes import ROOT
from trainer.atomic import atomic_write
from trainer.distributed.parent import EXIT_RETRY
from trainer.errors import UserError


@pytest.fixture
def submission(tmp_path: Path) -> Submission:
    it = Submission(tmp_path / "launch" / "001")
    it.attempts(0).mkdir(parents=True)
    it.write_job(Job(cluster="slurm", id="17", processes=4, max_restarts_without_checkpoint=3, runs=[str(tmp_path)]))
    return it


def checkpoint(tmp_path: Path, step: int) -> None:
    (tmp_path / "checkpoints").mkdir(exist_ok=True)
    (tmp_path / "checkpoints" / f"step_{step:08d}.pt").touch()


@pytest.mark.parametrize(
    ("codes", "again", "reason", "code"),
    [
        ({0: 2, 1: 75}, False, "the input cannot be used, see the log of rank 0", 2),
        ({3: 2, 0: 75}, False, "the input cannot be used, see the log of rank 3", 2),
        ({0: 140}, True, "saved before the time limit", 0),
        ({0: 143, 1: 140}, True, "saved before the time limit", 0),  # rank 0 heard of it from its peer first
        ({0: 141}, True, "rank 0 ended with 141", 0),
        ({0: 143}, False, "stopped by SIGTERM, saved", 143),
        ({0: 130}, False, "stopped by SIGINT, saved", 130),
        ({1: 1, 0: 75, 2: 75}, True, "rank 1 ended with 1", 0),
        ({0: 75, 2: 75}, True, "srun ended with 137", 0),
        ({}, True, "srun ended with 137", 0),
    ],
)
def test_what_follows_from_how_the_ranks_ended(codes: dict[int, int], again: bool, reason: str, code: int) -> None:
    verdict = decide(
        codes,
        finished=False,
        ended="srun ended with 137",
        restarts_without_progress=1,
        max_restarts=5,
    )
    assert (verdict.again, verdict.reason, verdict.code) == (again, reason, code)


def test_a_signal_to_the_launcher_is_the_end_also_before_its_processes_could_listen() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        verdict = decide(
            {},
            finished=False,
            ended="",
            stopped_by=number,
            restarts_without_progress=1,
            max_restarts=5,
        )
        assert (verdict.again, verdict.code) == (False, 128 + number)
    assert decide(
        {0: 140},
        finished=False,
        ended="",
        stopped_by=signal.SIGUSR2,
        restarts_without_progress=1,
        max_restarts=5,
    ).again


def test_a_preemption_that_leaves_the_jobs_script_alive_is_not_a_cancel() -> None:
    verdict = decide(
        {0: 143},
        finished=False,
        ended="",
        preempted=True,
        restarts_without_progress=1,
        max_restarts=5,
    )
    assert (verdict.again, verdict.reason) == (True, "preempted, saved")


def test_a_finished_run_is_over_whatever_else_is_told() -> None:
    verdict = decide(
        {0: 0, 1: 1},
        finished=True,
        ended="srun ended with 1",
        restarts_without_progress=9,
        max_restarts=5,
    )
    assert (verdict.again, verdict.reason, verdict.code) == (False, "finished", 0)


def test_starts_that_bring_no_checkpoint_are_given_up_and_others_are_not(
    submission: Submission, tmp_path: Path
) -> None:
    for number in range(6):  # each saves something before it crashes
        begin(submission, 0, number, "n[1-2]")
        checkpoint(tmp_path, 10 * (number + 1))
        assert end(submission, 0, number, "srun ended with 137").again
    verdicts = []
    for number in range(6, 9):
        begin(submission, 0, number, "n[1-2]")
        verdicts.append(end(submission, 0, number, "srun ended with 137"))
    assert [verdict.again for verdict in verdicts] == [True, True, False]
    assert verdicts[-1].reason == "given up after 3 starts without a new checkpoint: srun ended with 137"
    assert verdicts[-1].code == 1


def test_starts_ended_from_outside_are_given_up_at_the_next_one(submission: Submission) -> None:
    """Preempted again and again before it gets to a checkpoint: `end` never runs."""
    for number in range(3):
        begin(submission, 0, number, "n[1-2]")
    with pytest.raises(UserError, match="given up after 3 starts without a new checkpoint: ended from outside"):
        begin(submission, 0, 3, "n[1-2]")
    assert [start["reason"] for start in attempts(submission, 0)] == ["ended from outside"] * 3


def test_a_rank_that_ends_well_needs_no_note_but_rank_0(submission: Submission) -> None:
    for rank, code in ((0, 0), (1, 0), (2, 75)):
        note_rank(submission, 0, 4, rank, code)
    note_rank(submission, 0, 5, 1, 2)  # of another start
    assert rank_codes(submission, 0, 4) == {0: 0, 2: 75}


def test_a_rank_that_was_killed_while_it_noted_its_end_has_noted_none(submission: Submission) -> None:
    note_rank(submission, 0, 4, 1, 75)
    with atomic_write(submission.attempts(0) / "004.rank0") as partial:
        partial.write_text('{"co')
        assert rank_codes(submission, 0, 4) == {1: 75}


def test_the_newest_checkpoint_is_known_by_its_name(tmp_path: Path) -> None:
    assert newest_step(tmp_path) == 0
    for step in (7, 140, 21):
        checkpoint(tmp_path, step)
    (tmp_path / "checkpoints" / ".step_00000999.pt.partial").touch()
    (tmp_path / "checkpoints" / "step_00000998.pt.sha256").touch()
    assert newest_step(tmp_path) == 140


def test_ports_differ_from_start_to_start_and_leave_those_in_use_out() -> None:
    import socket

    seeds = [100 * job + start for job in range(3) for start in range(3)]
    ports = [free_port(seed) for seed in seeds]
    assert len(set(ports)) == len(ports)
    assert all(10_000 <= port < 32_000 for port in ports)
    with socket.socket() as other:
        other.bind(("", ports[0]))
        assert free_port(seeds[0]) not in (ports[0], ports[0] - 1)


def test_a_job_script_is_told_by_the_exit_code(submission: Submission, tmp_path: Path) -> None:
    import subprocess
    import sys

    variables = {"SLURM_JOB_ID": "17", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_RESTART_COUNT": "0"}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-S", "-m", "launch.slurm.start", words[0], str(submission.folder), *words[1:]]
        root = ROOT
        return subprocess.run(command, capture_output=True, text=True, cwd=root, env={**os.environ, **variables})

    began = run("begin", "10.0.0.7")  # -S: on a node's own Python, without any package
    assert began.returncode == 0, began.stderr
    address, _, port = began.stdout.strip().partition(":")
    assert address == "10.0.0.7"
    assert int(port) in range(10_000, 32_000)
    assert run("end", "137").returncode == EXIT_RETRY
    note_rank(submission, 0, 0, 0, 0)
    assert run("end", "0").returncode == 0
    assert json.loads((submission.attempts(0) / "000.json").read_text())["reason"] == "finished"


def test_slurms_variables_become_torchruns() -> None:
    given = {
        "SLURM_NTASKS": "8",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_PROCID": "5",
        "SLURM_LOCALID": "1",
        "SLURM_JOB_ID": "17",
        "SLURM_RESTART_COUNT": "2",
        "SLURM_CPUS_ON_NODE": "4",
    }
    variables, cpus = of_slurm(given)
    assert cpus == 1  # 4 CPUs of a node for 4 processes
    assert variables == {
        "RANK": "5",
        "WORLD_SIZE": "8",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "4",
        "TORCHELASTIC_RUN_ID": "17",
        "TORCHELASTIC_RESTART_COUNT": "2",
        "OMP_NUM_THREADS": "1",
    }
    _, cpus = of_slurm({**given, "SLURM_CPUS_PER_TASK": "12"})
    assert cpus == min(12, len(os.sched_getaffinity(0)))
