"""What follows from the end of a start: again as long as it helps, and never for what the user has to change."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock, patch

import pytest

from launch.attempt import (
    Ending,
    attempts,
    begin,
    decide,
    end,
    faulty_node_file,
    faulty_nodes,
    free_port,
    note_rank,
    rank_codes,
    require_room,
)
from launch.slurm import process
from launch.slurm.environment import of_slurm
from launch.slurm.start import ending_of, excluded
from launch.submission import Job, Submission
from tests.support.processes import ROOT
from trainer.atomic import atomic_write
from trainer.errors import UserError
from trainer.run.checkpoint_names import newest_step


@pytest.fixture
def submission(tmp_path: Path) -> Submission:
    it = Submission(tmp_path / "launch" / "001")
    it.attempts(0).mkdir(parents=True)
    it.write_job(Job(cluster="slurm", id="17", processes=4, max_restarts_without_checkpoint=3, runs=[str(tmp_path)]))
    return it


def checkpoint(tmp_path: Path, step: int) -> None:
    (tmp_path / "checkpoints").mkdir(exist_ok=True)
    (tmp_path / "checkpoints" / f"step_{step:08d}.pt").touch()


STRAY = "{} to the processes, saved; the run continues because nobody cancelled its job"


def ending(
    by_user: str | None = None, cause: str | None = None, failed: bool = False, machine_fault: str | None = None
) -> Ending:
    summary = "srun ended with 137"
    return Ending(summary=summary, by_user=by_user, cause=cause, failed=failed, machine_fault=machine_fault)


@pytest.mark.parametrize(
    ("codes", "how", "restart", "reason", "code"),
    [
        ({0: 2, 1: 75}, ending(), False, "the input cannot be used, see the log of rank 0", 2),
        ({3: 2, 0: 75}, ending(), False, "the input cannot be used, see the log of rank 3", 2),
        ({3: 2, 0: 75}, ending(machine_fault="n7: a GPU is gone"), True, "n7: a GPU is gone", 0),
        (
            {3: 2},
            ending(by_user="cancelled by scancel", machine_fault="n7: a GPU is gone"),
            False,
            "cancelled by scancel",
            143,
        ),
        ({0: 143}, ending(cause="preempted", machine_fault="n7: a GPU is gone"), True, "preempted, saved", 0),
        ({0: 140}, ending(), True, "saved before the time limit", 0),
        ({0: 143, 1: 140}, ending(), True, "saved before the time limit", 0),  # rank 0 heard of it from its peer first
        ({0: 141}, ending(), True, "rank 0 ended with 141", 0),
        ({0: 143}, ending(), True, STRAY.format("SIGTERM"), 0),
        ({0: 130}, ending(), True, STRAY.format("SIGINT"), 0),
        ({0: 129}, ending(), True, STRAY.format("SIGHUP"), 0),
        ({0: 143}, ending(failed=True), True, "srun ended with 137", 0),  # to end it with a rank that was killed
        ({0: 143, 1: 1}, ending(failed=True), True, "rank 1 ended with 1", 0),
        ({0: 143}, ending(by_user="cancelled by scancel"), False, "cancelled by scancel, saved", 143),
        ({}, ending(by_user="stopped by SIGINT"), False, "stopped by SIGINT", 143),  # before the ranks could listen
        ({0: 2}, ending(by_user="cancelled by scancel"), False, "cancelled by scancel", 143),
        ({0: 143}, ending(cause="preempted"), True, "preempted, saved", 0),
        ({}, ending(cause="preempted"), True, "preempted", 0),
        ({1: 1, 0: 75, 2: 75}, ending(), True, "rank 1 ended with 1", 0),
        ({0: 75, 2: 75}, ending(), True, "srun ended with 137", 0),
        ({}, ending(), True, "srun ended with 137", 0),
        ({0: 0, 1: 1}, ending(by_user="cancelled by scancel"), False, "finished", 0),
    ],
)
def test_attempt_what_follows_from_how_the_ranks_ended(
    codes: dict[int, int], how: Ending, restart: bool, reason: str, code: int
) -> None:
    decision = decide(codes, how, restarts_without_progress=1, max_restarts=5)
    assert (decision.restart, decision.reason, decision.code) == (restart, reason, code)
    if not restart:
        ended = "COMPLETED" if reason == "finished" else "CANCELLED" if how.by_user else "FAILED"
        assert decision.state == ended


def test_decide_gives_up_after_starts_without_a_checkpoint_whatever_ended_them() -> None:
    for how in (ending(), ending(cause="preempted")):
        for codes in ({}, {0: 143}, {0: 75}):
            decision = decide(codes, how, restarts_without_progress=5, max_restarts=5)
            assert (decision.restart, decision.state) == (False, "FAILED")
            assert decision.reason.startswith("given up after 5 starts without a new checkpoint: ")


RUNNING = "JobId=17 JobState=RUNNING Reason=None Restarts=1 StartTime=2026-01-02T00:00:00 PreemptTime={}"
COMPLETING = "JobId=17 JobState=COMPLETING Reason={} Restarts={} StartTime=2026-01-02T00:00:00 PreemptTime={}"
EARLIER, NOW = "2026-01-01T00:00:00", "2026-01-02T01:00:00"


@pytest.mark.parametrize(
    ("shown", "signalled", "by_user", "cause"),
    [
        (RUNNING.format("None"), False, None, None),
        (RUNNING.format("None"), True, "stopped by SIGTERM to the job's script", None),
        (RUNNING.format(NOW), False, None, "preempted"),
        (RUNNING.format(EARLIER), False, None, None),  # an earlier start was
        ("", False, None, "srun ended with 143 while Slurm did not answer"),
        ("", True, None, "srun ended with 143 while Slurm did not answer"),
        (COMPLETING.format("None", 1, "None"), True, "cancelled by scancel", None),
        (COMPLETING.format("None", 1, EARLIER), True, "cancelled by scancel", None),
        (COMPLETING.format("None", 2, "None"), True, None, "queued again by Slurm"),
        (COMPLETING.format("None", 2, NOW), True, None, "preempted"),
        (COMPLETING.format("None", 1, NOW), True, None, "preempted"),  # PreemptMode=CANCEL
        (COMPLETING.format("TimeLimit", 1, "None"), True, None, "ended by the time limit"),
    ],
)
def test_ending_follows_from_what_slurm_says_of_the_job(
    shown: str, signalled: bool, by_user: str | None, cause: str | None
) -> None:
    """Start number 1 of a job."""
    found = ending_of(shown, "143", signalled, 1, cancelled=False)
    assert (found.by_user, found.cause) == (by_user, cause)
    assert ending_of(shown, "143", signalled, 1, cancelled=True).by_user == "cancelled by python -m launch cancel"


@pytest.mark.parametrize(
    ("machine", "goes_down"),
    [
        ("running MIXED", False),
        ("degraded\nMIXED+DRAIN", False),
        ("", False),
        ("stopping\n", True),
        ("running\nMIXED+NOT_RESPONDING", True),
        ("offline\nDOWN", True),
        ("offline\nMIXED*", True),
    ],
)
def test_sigterm_to_the_script_is_the_users_unless_the_node_goes_down(machine: str, goes_down: bool) -> None:
    found = ending_of(RUNNING.format("None"), "143", True, 1, cancelled=False, machine=machine)
    assert (found.by_user is None, found.cause is not None) == (goes_down, goes_down)


def test_starts_that_bring_no_checkpoint_are_given_up_and_others_are_not(
    submission: Submission, tmp_path: Path
) -> None:
    for number in range(6):  # each saves something before it crashes
        begin(submission, 0, number, "n[1-2]")
        checkpoint(tmp_path, 10 * (number + 1))
        assert end(submission, 0, number, ending()).restart
    decisions = []
    for number in range(6, 9):
        begin(submission, 0, number, "n[1-2]")
        decisions.append(end(submission, 0, number, ending()))
    assert [decision.restart for decision in decisions] == [True, True, False]
    assert decisions[-1].reason == "given up after 3 starts without a new checkpoint: srun ended with 137"
    assert decisions[-1].code == 1


def test_starts_ended_from_outside_are_given_up_at_the_next_one(submission: Submission) -> None:
    """Preempted again and again before it gets to a checkpoint: `end` never runs."""
    for number in range(3):
        begin(submission, 0, number, "n[1-2]")
    with pytest.raises(UserError, match="given up after 3 starts without a new checkpoint: ended from outside"):
        begin(submission, 0, 3, "n[1-2]")
    assert [start["reason"] for start in attempts(submission, 0)] == ["ended from outside"] * 3


def test_rank_that_ends_well_needs_no_note_but_rank_0(submission: Submission) -> None:
    for rank, code in ((0, 0), (1, 0), (2, 75)):
        note_rank(submission, 0, 4, rank, code)
    note_rank(submission, 0, 5, 1, 2)  # of another start
    assert rank_codes(submission, 0, 4) == {0: 0, 2: 75}


def test_rank_that_was_killed_while_it_noted_its_end_has_noted_none(submission: Submission) -> None:
    note_rank(submission, 0, 4, 1, 75)
    with atomic_write(submission.attempts(0) / "004.rank0") as partial:
        partial.write_text('{"co')
        assert rank_codes(submission, 0, 4) == {1: 75}


def test_newest_checkpoint_is_known_by_its_name(tmp_path: Path) -> None:
    assert newest_step(tmp_path) == 0
    for step in (7, 140, 21):
        checkpoint(tmp_path, step)
    (tmp_path / "checkpoints" / ".step_00000999.pt.partial").touch()
    (tmp_path / "checkpoints" / "step_00000998.pt.sha256").touch()
    assert newest_step(tmp_path) == 140


def test_start_waits_for_checkpoints_on_a_disk_that_is_away(submission: Submission) -> None:
    """An OSError is waited for: launch/disk.py."""
    run_dir = Path(submission.job.runs[0])
    run_dir.mkdir(exist_ok=True)
    (run_dir / "checkpoints").symlink_to(run_dir / "nowhere")
    with pytest.raises(OSError, match=r"a link to .*nowhere, which is not there: .*checkpoints"):
        begin(submission, 0, 0, "n1")
    assert attempts(submission, 0) == []


def test_ports_differ_from_start_to_start_and_leave_those_in_use_out() -> None:
    import socket

    seeds = [100 * job + start for job in range(3) for start in range(3)]
    ports = [free_port(seed) for seed in seeds]
    assert len(set(ports)) == len(ports)
    assert all(10_000 <= port < 32_000 for port in ports)
    for used in (ports[0], ports[1] + 1):  # a start needs two: the second one for its preflight
        with socket.socket() as other:
            other.bind(("", used))
            assert all(used not in (free_port(seed), free_port(seed) + 1) for seed in seeds[:2])


@pytest.mark.slow
def test_slurm_start_answers_the_jobs_script(submission: Submission, tmp_path: Path) -> None:
    variables = {"SLURM_JOB_ID": "17", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_RESTART_COUNT": "1"}

    def answer(*words: str) -> str:
        # -S: on a node's own Python, without any package
        command = [sys.executable, "-S", "-m", "launch.slurm.start", words[0], str(submission.folder), *words[1:]]
        ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **variables})
        assert ended.returncode == 0, ended.stderr
        return ended.stdout.strip()

    what, _, meeting = answer("begin", "10.0.0.7").partition(" ")
    address, _, port = meeting.partition(":")
    assert (what, address) == ("meet", "10.0.0.7")
    assert int(port) in range(10_000, 32_000)
    assert answer("end", "137", "", RUNNING.format("None"), "") == "again"
    assert answer("end", "137", "TERM", COMPLETING.format("None", 2, "None"), "") == "leave"
    assert answer("end", "137", "", "", "") == "again"
    assert answer("end", "137", "TERM", COMPLETING.format("None", 1, "None"), "") == "exit 143"
    note_rank(submission, 0, 1, 0, 0)
    assert answer("end", "0", "", RUNNING.format("None"), "") == "exit 0"
    assert json.loads((submission.attempts(0) / "001.json").read_text())["reason"] == "finished"
    submission.mark_cancelled(0)
    assert answer("begin", "10.0.0.7") == "exit 2"


def test_start_lasts_as_long_as_the_monotonic_clock_says(
    submission: Submission, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Set back while the start runs, the wall clock shows an end before the beginning."""
    clock = iter([1000.0, 1100.26])
    monkeypatch.setattr("launch.attempt.time", SimpleNamespace(clock_gettime=lambda _: next(clock), CLOCK_BOOTTIME=7))
    begin(submission, 0, 0, "n1")
    monkeypatch.setattr("launch.attempt.now", lambda: "2001-01-01 00:00:00")
    end(submission, 0, 0, ending())
    (start,) = attempts(submission, 0)
    assert start["ended"] < start["began"]
    assert start["seconds"] == 100.3
    monkeypatch.setattr("launch.attempt.boot_id", lambda: "another machine, whose clock has counted from another boot")
    end(submission, 0, 0, ending())
    assert attempts(submission, 0)[0]["seconds"] is None


def test_begin_needs_room_for_a_checkpoint(submission: Submission, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        require_room(disk, tmp_path)
        (disk / "checkpoints").mkdir()
        (disk / "checkpoints" / "step_00000001.pt").write_bytes(bytes(500_000))
        submission.write_job(replace(submission.job, runs=[str(disk)]))
        with pytest.raises(OSError, match=f"No space left on device: '{disk}'"):
            begin(submission, 0, 0, "n1")  # for one more
        assert attempts(submission, 0) == []
        assert [path.name for path in disk.iterdir()] == ["checkpoints"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


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


@pytest.mark.parametrize(
    ("usable", "given", "added"),
    [
        (8, [], []),  # each process has CPUs of its own
        (32, [], []),  # the four of a node share those of the job
        (64, [], ["--workers", "7"]),  # Slurm confines nobody, and others use this node too
        (64, ["--workers", "3"], []),
    ],
)
def test_slurm_process_finds_its_loader_threads_out_unless_it_may_use_cpus_of_others(
    usable: int, given: list[str], added: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    slurm = {"NTASKS": "4", "JOB_NUM_NODES": "1", "PROCID": "0", "LOCALID": "0", "JOB_ID": "17", "CPUS_PER_TASK": "8"}
    ran: list[list[str]] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {*range(usable)})
    monkeypatch.setattr(process, "run_rank", lambda _submission, _index, words, _preflight: ran.append(words))
    monkeypatch.setattr(process, "signal", MagicMock())
    with patch.dict(os.environ, {f"SLURM_{name}": value for name, value in slurm.items()}):
        process.SlurmProcess(submission=tmp_path, index=0, argv=("train", *given), preflight=False)()
    assert ran == [["train", *given, *added]]


def test_start_that_ends_by_a_node_at_fault_names_it(submission: Submission, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODE_NAME", "n7.cluster")
    begin(submission, 0, 0, "n[7-8]")
    faulty_node_file(submission, 0, 0).write_text("node n7: a GPU is gone")
    assert faulty_nodes(submission, 0, 0) == {"n7.cluster": "node n7: a GPU is gone"}
    assert faulty_nodes(submission, 0, 1) == {}
    assert end(submission, 0, 0, ending()).reason == "node n7: a GPU is gone"
    assert end(submission, 0, 0, ending(cause="preempted")).reason == "preempted"


def test_slurm_nodes_at_fault_are_added_to_those_left_out_before() -> None:
    assert excluded("JobState=RUNNING ExcNodeList=(null) NumNodes=2", ["n7", "n8"]) == "n7,n8"
    assert excluded("JobState=RUNNING ExcNodeList=n[1-2] NumNodes=2", ["n7"]) == "n[1-2],n7"
    assert excluded("JobState=RUNNING ExcNodeList=n[1-2] NumNodes=2", []) == ""
    assert excluded("", ["n7"]) == "n7"
