"""What is known of a local run: also by the next container, and where the file system has no locks."""

import errno
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launch import attempt, disk, jobs, logs
from launch.attempt import begin, note_rank
from launch.local import alive, runs
from launch.local.alive import runner, runs_here, starts_here
from launch.local.launch import Local
from launch.local.settings import LocalSettings
from launch.local.torchrun import Ended
from launch.logs import first_trouble
from launch.submission import Job, Run, Submission, submission_of
from tests.support.processes import ROOT, TIMEOUT
from trainer.errors import UserError

OTHER = "an-earlier-container"


@pytest.fixture
def launched(tmp_path: Path) -> Submission:
    """The first launch of one run, RUN, in a container that is gone."""
    return launched_on(OTHER, tmp_path / "run")


def launched_on(host: str, run_dir: Path) -> Submission:
    found = Submission(run_dir / "launch" / "001")
    found.attempts(0).mkdir(parents=True)
    found.write_job(Job(cluster="local", id=host, processes=1, max_restarts_without_checkpoint=5, runs=[str(run_dir)]))
    found.point([run_in(run_dir)])
    return found


def run_in(run_dir: Path) -> Run:
    return Run(name="run", recipe="recipe = None\n", run_dir=run_dir, data="synthetic:64", options=())


def started(launched: Submission, **end: Any) -> None:
    start = {"number": 0, "began": "2026-01-01 00:00:00", "step": 0, "nodes": OTHER, "port": None, **end}
    (launched.attempts(0) / "000.json").write_text(json.dumps(start))


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)


def test_run_of_a_container_that_is_gone_continues_in_the_next_one(launched: Submission) -> None:
    started(launched)
    (launched.folder / "alive").write_text("7 1234")
    assert Local().state(launched, 0).name == "GONE"
    jobs.refuse_running([run_in(launched.folder.parent.parent)])


def test_run_that_ended_elsewhere_is_known_by_its_records(launched: Submission, no_locks: None) -> None:
    (launched.folder / "alive").write_text("7 1234")
    started(launched, again=False, reason="finished", state="COMPLETED")
    assert Local().state(launched, 0).name == "COMPLETED"


def test_run_whose_lock_is_held_runs_wherever_that_is(launched: Submission) -> None:
    started(launched)
    with runs_here(launched):
        assert Local().state(launched, 0).name == "RUNNING"
        with pytest.raises(UserError, match="is RUNNING already: wait for it, or end it"):
            jobs.refuse_running([run_in(launched.folder.parent.parent)])
        with pytest.raises(UserError, match=f"runs on {OTHER}: cancel it there"):
            jobs.cancel(launched.folder.parent.parent)


def test_run_of_another_machine_without_locks_names_what_helps(launched: Submission, no_locks: None) -> None:
    started(launched)
    (launched.folder / "alive").write_text("7 1234")
    run_dir = launched.folder.parent.parent
    assert Local().state(launched, 0).name == "UNKNOWN"
    for call in (lambda: jobs.refuse_running([run_in(run_dir)]), lambda: jobs.cancel(run_dir)):
        with pytest.raises(UserError, match=rf"ask there, or remove launch\.json from .* if {OTHER} is gone"):
            call()
    (run_dir / "launch.json").unlink()
    jobs.refuse_running([run_in(run_dir)])


def test_local_process_is_known_by_number_and_beginning_without_locks(no_locks: None, tmp_path: Path) -> None:
    launched = launched_on(socket.gethostname(), tmp_path / "run")
    assert runner(launched) is None
    with runs_here(launched):
        assert runner(launched) == (os.getpid(), True)
    (launched.folder / "alive").write_text(f"{os.getpid()} 1")  # the number is now another process's
    assert runner(launched) is None
    (launched.folder / "alive").write_text("4999999 1")
    assert runner(launched) is None and alive._began(4999999) == ""


def test_local_process_of_an_earlier_version_is_known_by_its_number(no_locks: None, tmp_path: Path) -> None:
    launched = launched_on(socket.gethostname(), tmp_path / "run")
    for content, found in (("4999999", None), ("", None), (str(os.getpid()), (os.getpid(), True))):
        (launched.folder / "alive").write_text(content)
        assert runner(launched) == found


def test_local_process_is_seen_only_with_its_lock_and_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the two a launch would find that nobody runs it."""
    launched = launched_on(socket.gethostname(), tmp_path / "run")
    seen: list[bool] = []
    lock = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", lambda *how: (seen.append((launched.folder / "alive").exists()), lock(*how)))
    with runs_here(launched):
        assert seen == [False]
        assert runner(launched) == (os.getpid(), True)
        (launched.folder / "alive").write_text("")  # as an earlier version left it for a moment
        with pytest.raises(UserError, match="alive: is being written: look again"):
            runner(launched)
    assert runner(launched) is None


def test_local_process_waits_for_a_disk_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launched = launched_on(socket.gethostname(), tmp_path / "run")
    errors = [OSError(errno.ENOSPC, "No space left on device")]

    def fsync(_: int) -> None:
        if errors:
            raise errors.pop()

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(disk, "_INTERVAL", 0.0)
    with runs_here(launched):
        assert not errors and runner(launched) == (os.getpid(), True)


def test_local_launch_is_being_started_while_its_launcher_lives(tmp_path: Path) -> None:
    launched = launched_on(socket.gethostname(), tmp_path / "run")
    os.utime(launched.folder / "job.json", (0, 0))  # however long the start takes
    with starts_here(launched):
        state = Local().state(launched, 0)
        assert (state.name, state.reason) == ("PENDING", "being started")
        with pytest.raises(UserError, match="is PENDING already: wait for it"):
            jobs.refuse_running([run_in(tmp_path / "run")])
        with pytest.raises(UserError, match="is being started, or has just ended: look again"):
            jobs.cancel(tmp_path / "run")
    assert Local().state(launched, 0).name == "GONE"  # its launch was killed


def test_local_launch_without_locks_is_being_started_for_a_minute(no_locks: None, tmp_path: Path) -> None:
    launched = launched_on(socket.gethostname(), tmp_path / "run")
    with starts_here(launched):
        assert Local().state(launched, 0).reason == "being started"
        os.utime(launched.folder / "job.json", (0, 0))
        assert Local().state(launched, 0).name == "GONE"


def test_local_launch_is_seen_before_another_one_may_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own lock is there when that of the launch goes, whatever its process waits for afterwards."""
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONSAFEPATH", "")
    monkeypatch.setattr(runs, "torchrun", lambda *_, **__: Ended(summary="stopped by SIGINT", signal=signal.SIGINT))
    wait = Local().submit(LocalSettings(processes=1), [run_in(tmp_path / "run")])
    launched, _ = submission_of(tmp_path / "run")
    assert runner(launched) == (os.getpid(), True)
    assert wait() == 130
    assert runner(launched) is None


def test_cancel_signals_no_process_but_the_one_that_runs_the_launch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container of the same name the number is that of a different process here."""
    launched = launched_on(socket.gethostname(), tmp_path / "run")
    signalled: list[int] = []

    def kill(pid: int, _: int) -> None:
        signalled.append(pid)
        raise ProcessLookupError(errno.ESRCH, "No such process")

    monkeypatch.setattr(os, "kill", kill)
    with runs_here(launched):
        own = (launched.folder / "alive").read_text()
        (launched.folder / "alive").write_text(f"{os.getpid()} 1")
        with pytest.raises(UserError, match="runs in a container or on another machine: cancel it there"):
            jobs.cancel(tmp_path / "run")
        assert not signalled and not launched.is_cancelled(0)
        (launched.folder / "alive").write_text(own)
        with pytest.raises(UserError, match=f"process {os.getpid()}, which runs it: No such process"):
            jobs.cancel(tmp_path / "run")
    assert signalled == [os.getpid()] and launched.is_cancelled(0)


@pytest.mark.parametrize(
    ("names", "others"),
    [
        ("a", ""),
        ("ab", ", and with it 1 other run of its launch"),
        ("abc", ", and with it 2 other runs of its launch"),
    ],
)
def test_cancel_says_how_many_other_runs_it_ends(
    names: str, others: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "kill", lambda *_: None)
    with runs_here(group_of(names, tmp_path, background=True)):
        assert jobs.cancel(tmp_path / "a") == f"{tmp_path / 'a'} is asked to save and stop{others}"


@pytest.mark.parametrize("boot", ["another", None])
def test_run_whose_lock_only_its_own_machine_sees_is_not_started_twice(launched: Submission, boot: str | None) -> None:
    """It writes to its log every few seconds. On one machine, whatever its containers are called, locks are right."""
    run_dir = launched.folder.parent.parent
    started(launched, clock={"boot": boot})
    (launched.folder / "alive").write_text("7 1234")
    (run_dir / "log.txt").touch()
    assert Local().state(launched, 0).name == "UNKNOWN"
    with pytest.raises(
        UserError, match=rf"less than 5 minutes ago: look again .* or remove launch\.json .*{OTHER} is g"
    ):
        jobs.refuse_running([run_in(run_dir)])
    started(launched, clock={"boot": attempt.boot_id()})
    assert Local().state(launched, 0).name == "GONE"
    started(launched, clock={"boot": boot}, ended=None, again=True)
    assert Local().state(launched, 0).name == "GONE"
    started(launched, clock={"boot": boot})
    os.utime(run_dir / "log.txt", (0, 0))
    assert Local().state(launched, 0).name == "GONE"


def test_finished_run_says_so_whatever_is_known_of_its_job(
    launched: Submission, no_locks: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (launched.folder / "alive").write_text("7 1234")
    monkeypatch.setattr(jobs, "finished", lambda *_: "it is finished")
    words = ["--processes", "1", "resnet20_digits", "--data", "synthetic:64", "--run-dir"]
    assert jobs.launch("local", [*words, str(launched.folder.parent.parent)]) == 0
    assert capsys.readouterr().out == "it is finished\n"


def group_of(names: str, folder: Path, *, background: bool) -> Submission:
    """A launch of a run for each letter of `names`."""
    launched = Submission(folder / "launch" / "001")
    folders = [folder / name for name in names]
    for index in range(len(names)):
        launched.attempts(index).mkdir(parents=True)
    settings: Any = {"processes": 1, "max_restarts_without_checkpoint": 5, "background": background}
    launched.write_job(Job(cluster="local", id=socket.gethostname(), runs=[str(path) for path in folders], **settings))
    launched.point([run_in(path) for path in folders])
    return launched


def test_local_signal_ends_the_runs_that_follow_and_the_first_code_is_the_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of four runs the first finishes, the second has wrong input, and Ctrl-C ends the third."""
    launched, began = group_of("abcd", tmp_path, background=False), list[int]()
    ends = [(0, Ended()), (2, Ended(summary="rank 0 ended with 2", code=2)), (130, Ended(signal=signal.SIGINT))]

    def torchrun(processes: int, entry: list[str], run_id: str) -> Ended:
        index = int(entry[4])
        began.append(index)
        code, ended = ends[index]
        note_rank(launched, index, 0, 0, code)
        return ended

    monkeypatch.setattr(runs, "torchrun", torchrun)
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONSAFEPATH", "")
    words = (("one",), ("two",), ("three",), ("four",))
    group = runs.LocalRuns(submission=launched.folder, processes=1, argv=words, gpus=None)
    assert (group.run(), began) == (2, [0, 1, 2])


def test_logs_and_status_name_the_rank_that_recorded_an_error(tmp_path: Path) -> None:
    """All ranks of this machine share a log, or have none: its text says neither whose error it was, nor which one."""
    launched = group_of("a", tmp_path, background=True)
    launched.logs.mkdir()
    (launched.logs / "17_0_log.out").write_text("error: of a worker that was started again\n")
    begin(launched, 0, 0, "here")
    note_rank(launched, 0, 0, 1, 2, "image 7 cannot be decoded")
    note_rank(launched, 0, 0, 0, 75)  # it has lost its peer
    assert first_trouble(launched, 0) == (1, "image 7 cannot be decoded")
    begin(launched, 0, 1, "here")  # whose ranks have recorded nothing: they were killed
    assert first_trouble(launched, 0) == (0, "of a worker that was started again")


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        (["train", "nowhere.py"], 2, r"nowhere\.py: there is no such recipe file"),
        (["recipes", "resnet50"], 0, None),
    ],
)
def test_rank_records_its_last_error(words: list[str], code: int, error: str | None, tmp_path: Path) -> None:
    launched = group_of("a", tmp_path, background=False)
    command = [sys.executable, "-m", "launch.rank", str(launched.folder), "0", "3", *words]
    environment = {**os.environ, "RANK": "0", "LOCAL_RANK": "0", "TORCHELASTIC_RESTART_COUNT": "0"}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=TIMEOUT)
    assert ended.returncode == code, ended.stderr
    record = json.loads((launched.attempts(0) / "003.rank0").read_text())
    assert (record["rank"], record["code"]) == (0, code)
    assert re.search(error, record["error"]) if error else record["error"] is None


def test_local_group_in_the_background_has_a_log_for_each_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Else the error of one run would be shown for the others."""
    launched = group_of("ab", tmp_path, background=True)
    launched.logs.mkdir()
    (launched.logs / "17_0_log.out").touch()

    def torchrun(processes: int, entry: list[str], run_id: str) -> Ended:
        os.write(2, f"error: {entry[-1]} is wrong\n".encode())
        note_rank(launched, int(entry[4]), 0, 0, 2)
        return Ended(summary="rank 0 ended with 2", code=2)

    monkeypatch.setattr(runs, "torchrun", torchrun)
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONSAFEPATH", "")
    saved = [os.dup(number) for number in (1, 2)]
    try:
        group = runs.LocalRuns(
            submission=launched.folder, processes=1, argv=(("one",), ("two",)), gpus=None, background=True
        )
        assert group.run() == 2
    finally:
        for number, copy in zip((1, 2), saved, strict=True):
            os.dup2(copy, number)
            os.close(copy)
    (launched.logs / "17_0_log.out").write_text("".join(capfd.readouterr()))  # where submitit writes
    assert first_trouble(launched, 0) == (0, "one is wrong")
    assert first_trouble(launched, 1) == (0, "two is wrong")
    assert "one is wrong" not in logs.log_file(launched, 1, 0).read_text()
    assert logs.log_file(launched, 0, 0).name == "17_0_log.out"
