"""status and logs: what they show of a run between two lines of its log, and while it waits."""

import errno
import json
import os
import pty
import re
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from launch import logs, status
from launch.attempt import note_rank
from launch.settings import StatusSettings
from launch.slurm import scontrol
from launch.state import State
from launch.submission import START, Job, Submission, launched_runs, start_line, submission_of
from tests.support.small_recipe import recipe
from trainer.errors import UserError
from trainer.recipe_file import recipe_source
from trainer.run import live
from trainer.run.progress import RunProgress, read_progress

JOB = Job(cluster="slurm", id="17", processes=1, max_restarts_without_checkpoint=3, runs=["run"])
GONE = State(name="GONE", job="17")

# what Slurm answers for a job: exit code, output, errors
SHOWN = (0, "JobId=17 JobState=RUNNING Reason=None NodeList=n[1-2]\n", "")
FORGOTTEN = (1, "", "slurm_load_jobs error: Invalid job id specified\n")
SILENT = (1, "", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n")
NO_SLURM = (127, "", "")
NO_ACCOUNTING = (1, "", "Slurm accounting storage is disabled\n")


@pytest.fixture
def submission(tmp_path: Path) -> Submission:
    found = Submission(tmp_path / "run" / "launch" / "001")
    found.logs.mkdir(parents=True)
    found.attempts(0).mkdir(parents=True)
    found.write_job(JOB)
    return found


def test_status_does_not_give_a_host_as_the_reason_of_a_run_that_trains(submission: Submission) -> None:
    assert status._why(submission, 0, State(name="RUNNING", job="17", nodes="n[1-2]")) == ""
    assert status._why(submission, 0, State(name="PENDING", job="17", reason="Resources")) == "Resources"


@pytest.mark.parametrize(
    ("shown", "accounts", "last_start", "rank_0", "state"),
    [
        (SHOWN, None, {}, None, State(name="RUNNING", job="17", nodes="n[1-2]")),
        (
            SILENT,
            None,
            {"again": False, "reason": "finished", "state": "COMPLETED"},
            None,
            State(name="UNKNOWN", job="17", reason=SILENT[2].strip()),
        ),
        (FORGOTTEN, (0, "FAILED|n1\nCANCELLED by 0|n2\n", ""), {}, None, State(name="CANCELLED", job="17", nodes="n2")),
        (
            FORGOTTEN,
            NO_ACCOUNTING,
            {"again": False, "reason": "finished", "state": "COMPLETED"},
            0,
            State(name="COMPLETED", job="17", reason="finished"),
        ),
        (FORGOTTEN, NO_ACCOUNTING, {}, 143, State(name="CANCELLED", job="17")),
        (FORGOTTEN, NO_ACCOUNTING, {"again": True}, 75, replace(GONE, reason="Slurm no longer knows it")),
        (NO_SLURM, NO_SLURM, {}, None, replace(GONE, reason="there is no Slurm here to ask")),
    ],
)
def test_status_of_a_slurm_job_comes_from_whoever_still_knows_it(
    shown: tuple[int, str, str],
    accounts: tuple[int, str, str] | None,
    last_start: dict[str, Any],
    rank_0: int | None,
    state: State,
    submission: Submission,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """scontrol, else accounting, else our own records. A controller that is silent may still have the job."""
    answers = {"scontrol": shown, "sacct": accounts}

    def run_slurm(command: str, *_: str) -> subprocess.CompletedProcess[str]:
        answer = answers[command]
        assert answer
        return subprocess.CompletedProcess(command, *answer)

    monkeypatch.setattr(scontrol, "run_slurm", run_slurm)
    (submission.attempts(0) / "004.json").write_text(json.dumps({"number": 4, "step": 0, **last_start}))
    if rank_0 is not None:
        note_rank(submission, 0, 4, 0, rank_0)
    found = scontrol.job_state(submission, 0)
    assert found == state
    assert found.is_over == (state.name not in ("RUNNING", "UNKNOWN"))


def test_status_of_what_was_not_launched_says_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no folder .*nothere: give the --run-dir of a run"):
        launched_runs(tmp_path / "nothere")
    with pytest.raises(UserError, match="holds no run that was launched"):
        submission_of(tmp_path)
    (tmp_path / "recipe.py").touch()
    with pytest.raises(UserError, match=r"was trained without python -m launch: its log is .*log\.txt"):
        submission_of(tmp_path)


def test_launch_record_that_cannot_be_read_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To launch the run again would not help."""
    path = tmp_path / "launch.json"
    for damaged in ("[" * 100_000, "{}"):
        path.write_text(damaged)
        with pytest.raises(UserError, match=r"launch\.json is damaged .*: remove it, and launch the run again"):
            submission_of(tmp_path)
    with pytest.raises(UserError, match=r"there is no folder .*launch\.json"):
        submission_of(path)

    def denied(*_: object, **__: object) -> str:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_text", denied)
    with pytest.raises(UserError, match=r"launch\.json cannot be read: Permission denied$"):
        submission_of(tmp_path)


def test_progress_after_a_stop_is_that_of_the_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "recipe.py").write_text(recipe_source(recipe))
    assert (read_progress(tmp_path).step, read_progress(tmp_path).epoch) == (0, 0.0)
    (tmp_path / "checkpoints" / "step_00000003.pt").touch()
    assert read_progress(tmp_path).step == 3
    line = {"kind": "train", "step": 4, "epoch": 0.4, "loss": 1.0, "lr": 0.1, "images_per_second": 96.0}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    assert (read_progress(tmp_path).step, read_progress(tmp_path).epoch) == (4, 0.4)
    (tmp_path / "checkpoints" / "step_00000007.pt").touch()
    found = read_progress(tmp_path)
    assert (found.step, found.epoch) == (7, pytest.approx(0.7))
    assert found.images_per_second == 96.0 and found.seconds_left


def test_progress_between_two_lines_of_metrics_is_that_of_progress_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "recipe.py").write_text(recipe_source(recipe))
    clock = iter([100.0, 102.0, 106.0, 200.0, 203.0])
    monkeypatch.setattr(live.time, "monotonic", lambda: next(clock))
    for damaged in ("[" * 100_000, "{"):  # {: of a start that was killed while it wrote
        (tmp_path / "progress.json").write_text(damaged)
        assert read_progress(tmp_path).last_written is None
    file = live.LiveFile(tmp_path, recipe.global_batch_size)
    file.after_step(1, 0.1)
    first = read_progress(tmp_path)
    assert (first.step, first.epoch, first.images_per_second, first.steps) == (1, 0.1, None, 10 * recipe.epochs)
    assert first.last_written
    file.after_step(2, 0.2)  # after 2 s: not due
    assert read_progress(tmp_path).step == 1
    line = {"kind": "train", "step": 2, "epoch": 0.2, "loss": 1.0, "lr": 0.1, "images_per_second": 1.0}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    file.after_step(4, 0.4)
    assert (read_progress(tmp_path).step, read_progress(tmp_path).epoch) == (4, 0.4)
    assert read_progress(tmp_path).images_per_second == pytest.approx(3 * recipe.global_batch_size / 6)
    file.pause()  # an evaluation, which counts as no training
    file.after_step(11, 1.1)
    assert read_progress(tmp_path).step == 11
    assert read_progress(tmp_path).images_per_second == pytest.approx(3 * recipe.global_batch_size / 6)
    file.close()
    assert (read_progress(tmp_path).step, read_progress(tmp_path).last_written) == (2, None)


def test_status_says_starting_until_the_first_step_of_the_last_start() -> None:
    began = "2026-01-01 00:00:00"
    second = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    assert status._is_starting([{"began": began}], RunProgress())
    assert status._is_starting([{"began": began}], RunProgress(last_written=second - 1))  # of the start before
    assert not status._is_starting([{"began": began}], RunProgress(last_written=second + 1))
    assert not status._is_starting([{"began": began}], RunProgress(finished=True))
    assert not status._is_starting([], RunProgress())


def test_status_shows_speed_and_time_left_only_of_a_run_that_is_not_over() -> None:
    at = RunProgress(step=6, steps=90, epoch=2.0, epochs=30, images_per_second=11.0, seconds_left=8.2)
    assert status._progress(at, State(name="RUNNING", job="17")) == ["6/90", "2.00/30", "11", "", "8 s"]
    assert status._progress(at, State(name="CANCELLED", job="17")) == ["6/90", "2.00/30", "", "", ""]


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_status_cuts_no_cell_in_a_narrow_window(
    columns: int, monkeypatch: pytest.MonkeyPatch, submission: Submission, tmp_path: Path
) -> None:
    cells = ["runs/mine_lr=0.01", "17", "COMPLETED", "n[1-2]", "6/6", "2.00/2", "", "26.67 %", "", "1", "finished"]
    (tmp_path / "run" / "launch.json").write_text("{}")
    monkeypatch.setattr(status, "row", lambda _: cells)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    controller, terminal = pty.openpty()
    with os.fdopen(terminal, "w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        status.status(StatusSettings(runs=(tmp_path / "run",)))
        monkeypatch.undo()
    parts = []
    with os.fdopen(controller, "rb", buffering=0) as reader, suppress(OSError):  # EIO: the end of a terminal
        while part := reader.read(4096):
            parts.append(part)
    shown = re.sub(r"\x1b\[[0-9;]*m", "", b"".join(parts).decode())
    assert max(map(len, shown.splitlines())) <= columns
    assert [cell for cell in cells if cell not in " ".join(shown.split())] == [], shown


def test_logs_say_why_there_is_none_yet_and_end_with_the_run(
    submission: Submission, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = submission.logs / "17_0_log.out"
    states = iter([("PENDING", "Resources"), ("RUNNING", ""), ("RUNNING", ""), ("COMPLETED", "")])

    def state_of(*_: object) -> State:
        name, reason = next(states)
        if name == "COMPLETED":
            with log.open("a") as file:
                file.write("the last line\n")
        return State(name=name, job="17", reason=reason)

    monkeypatch.setattr(logs, "state_of", state_of)
    monkeypatch.setattr(logs, "_OFTEN", 0.0)
    monkeypatch.setattr(logs, "_SELDOM", 0.0)
    monkeypatch.setattr(logs.time, "sleep", lambda _: log.exists() or log.write_text(start_line(0) + "\n"))
    logs._print(log, submission, 0, follow=True)
    shown = capsys.readouterr()
    assert shown.out.startswith(f"{START}1, ") and shown.out.endswith("the last line\n")
    assert shown.err == "--- no log yet: PENDING Resources\n"
