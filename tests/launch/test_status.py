"""status and logs: what they show of a run between two lines of its log, and while it waits."""

import json
from pathlib import Path

import pytest

from launch import logs, status
from launch.state import State
from launch.submission import START, Job, Submission, launched_runs, start_line, submission_of
from tests.support.small_recipe import recipe
from trainer.errors import UserError
from trainer.recipe_file import recipe_source
from trainer.run.progress import read_progress

JOB = Job(cluster="slurm", id="17", processes=1, max_restarts_without_checkpoint=3, runs=["run"])


@pytest.fixture
def submission(tmp_path: Path) -> Submission:
    found = Submission(tmp_path / "run" / "launch" / "001")
    found.logs.mkdir(parents=True)
    found.write_job(JOB)
    return found


def test_status_does_not_give_a_host_as_the_reason_of_a_run_that_trains(submission: Submission) -> None:
    assert status._why(submission, 0, State(name="RUNNING", job="17", nodes="n[1-2]")) == ""
    assert status._why(submission, 0, State(name="PENDING", job="17", reason="Resources")) == "Resources"


def test_status_of_what_was_not_launched_says_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no folder .*nothere: give the --run-dir of a run"):
        launched_runs(tmp_path / "nothere")
    with pytest.raises(UserError, match="holds no run that was launched"):
        submission_of(tmp_path)
    (tmp_path / "recipe.py").touch()
    with pytest.raises(UserError, match=r"was trained without python -m launch: its log is .*log\.txt"):
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
