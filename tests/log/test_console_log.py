"""The console log: one line with a bar in a terminal, plain lines elsewhere and in log.txt; the profiler; ranks."""

import json
import os
import pty
import re
import signal
import sys
import threading
import time
from contextlib import closing, suppress
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.support.processes import SUPPORT, TIMEOUT, run
from trainer.__main__ import main
from trainer.distributed.process_group import World
from trainer.errors import LocalError, SharedError, Stopped
from trainer.log import console_log
from trainer.log.console_log import ConsoleLog, without_folders
from trainer.log.profile import Profiler
from trainer.run.state import Position

RECIPE = str(SUPPORT / "small_recipe.py")
STEPS = {"lr": 0.05, "loss": 2.5, "images_per_second": 1234.0, "data_wait": 0.07}


def words(digits: Path, run_dir: Path, *options: str) -> list[str]:
    short = ["--epochs", "1"]
    return ["train", RECIPE, "--data", str(digits), "--run-dir", str(run_dir), *short, *options]


def read_all(controller: int) -> str:
    """Everything written to a terminal that is closed. A single read may return only the beginning."""
    parts = []
    with (
        os.fdopen(controller, "rb", buffering=0) as reader,
        suppress(OSError),
    ):  # EIO: Linux's end of file for a terminal
        while part := reader.read(4096):
            parts.append(part)
    return b"".join(parts).decode()


def on_a_terminal(folder: Path, columns: int, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a real terminal with this number of columns shows after one step."""
    controller, terminal = pty.openpty()
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    with os.fdopen(terminal, "w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        with closing(ConsoleLog(folder, Position(steps_per_epoch=10), total_steps=90 * 10)) as screen:
            screen.top1 = 71.2
            screen.steps(Position(steps_per_epoch=10, epoch=1, batch=3), **STEPS, remark="  rank 1 is 20% slower")
    return read_all(controller)


def test_terminal_shows_one_line_with_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = on_a_terminal(tmp_path, 200, monkeypatch)
    assert "epoch 1.3/90  step 13  loss 2.500  lr 0.05  top-1 71.20 %  1,234 images/s  data wait 7%  ETA 0:0" in shown
    assert "rank 1 is 20% slower" in shown
    assert (tmp_path / "log.txt").read_text().splitlines()[1].startswith("epoch   1.30  step 13/900  loss 2.5000")


def test_evaluation_is_shown_on_the_bar_and_every_ten_seconds_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller, terminal = pty.openpty()
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm")
    now = [0.0]
    monkeypatch.setattr(console_log.time, "monotonic", lambda: now[0])
    with os.fdopen(terminal, "w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        with closing(ConsoleLog(tmp_path, Position(steps_per_epoch=10), total_steps=90 * 10)) as screen:
            for second in range(26):
                now[0] = float(second)
                screen.evaluating(2000 * second, 50_000)
    assert "evaluating 50,000 of 50,000" in read_all(controller)
    lines = (tmp_path / "log.txt").read_text().splitlines()[1:]
    assert lines == ["evaluating 22,000 of 50,000  44%", "evaluating 44,000 of 50,000  88%"]


@pytest.mark.parametrize(
    ("columns", "shown"),
    [
        (40, "epoch 1.3/90  ETA 0:0"),
        (60, "epoch 1.3/90  step 13  loss 2.500  ETA 0:0"),
        (80, "epoch 1.3/90  step 13  loss 2.500  top-1 71.20 %  ETA 0:0"),
        (100, "epoch 1.3/90  step 13  loss 2.500  lr 0.05  top-1 71.20 %  1,234 images/s  ETA 0:0"),
    ],
)
def test_terminal_line_is_never_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: int, shown: str) -> None:
    """Rich would cut it with an ellipsis, and the time left comes last."""
    printed = on_a_terminal(tmp_path, columns, monkeypatch)
    assert shown in printed
    assert "\u2026" not in printed and "rank 1" not in printed


@pytest.mark.slow
def test_log_file_holds_what_was_said_of_every_start(
    digits: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(words(digits, tmp_path / "run")) == 0
    (tmp_path / "run" / "result.json").unlink()  # else the run is finished, and a second start only says so
    assert main(words(digits, tmp_path / "run")) == 0
    said = capfd.readouterr().out.replace(str(tmp_path / "run"), "run").splitlines()
    log = (tmp_path / "run" / "log.txt").read_text()
    heads = [
        line for line in log.splitlines() if re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC, commit .*, torch 2", line)
    ]
    assert len(heads) == 2
    assert [line for line in log.splitlines() if line and line not in heads] == said
    assert "continued after step 14" in log


@pytest.mark.slow
def test_log_file_names_no_folder_and_no_machine(digits: Path, tmp_path: Path) -> None:
    assert main(words(digits, tmp_path / "run", "--profile-steps", "1", "--profile-from", "0")) == 0
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "profile of steps 1 to 1: run/profile/steps_1-1.pt.trace.json" in log
    assert str(tmp_path) not in log
    assert os.uname().nodename not in log.split()


def reporters() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "first step"]


def test_first_step_that_compiles_is_reported_until_it_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console_log, "_FIRST_STEP_SECONDS", 0.01)
    at = Position(steps_per_epoch=10)
    quiet, screen = (ConsoleLog(tmp_path, at, total_steps=20) for _ in range(2))
    quiet.wait_for_first_step("")
    assert not reporters()
    screen.wait_for_first_step("torch.compile compiles the network")
    (reporter,) = reporters()
    deadline, shown = time.monotonic() + TIMEOUT, ""
    while not shown and time.monotonic() < deadline:
        time.sleep(0.01)
        shown = capsys.readouterr().out
    assert re.match(r"first step: \d+ s so far: torch\.compile compiles the network\n", shown)
    screen.progress(at)
    reporter.join(TIMEOUT)
    assert not reporters()
    assert "s so far" not in (tmp_path / "log.txt").read_text()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1,234 images/s  step 3/900", "1,234 images/s  step 3/900"),
        ("62 tensors of /somewhere/else/r50.pth; fc new", "62 tensors of r50.pth; fc new"),
        ("(/a/b)", "(b)"),
        ("https://ui.perfetto.dev/x", "https://ui.perfetto.dev/x"),
    ],
)
def test_absolute_paths_lose_their_folders(text: str, expected: str) -> None:
    assert without_folders(text) == expected


# ------------------------------------------------------------------------------------------------------- the profiler


def steps_in(trace: Path) -> list[int]:
    events = json.loads(trace.read_text())["traceEvents"]
    marks = {event["name"] for event in events if str(event.get("name", "")).startswith("ProfilerStep#")}
    return sorted(int(mark.partition("#")[2]) for mark in marks)


@pytest.mark.slow
def test_profile_holds_the_steps_that_were_asked_for_also_after_a_stop(
    digits: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    window = ["--profile-steps", "2", "--profile-from", "7"]
    assert main(words(digits, tmp_path, "--checkpoint-steps", "5", "--keep-last-checkpoints", "9", *window)) == 0
    trace = tmp_path / "profile" / "steps_8-9.pt.trace.json"
    assert list((tmp_path / "profile").iterdir()) == [trace]
    assert os.uname().nodename not in trace.read_text()
    assert str(tmp_path) not in trace.read_text()
    assert steps_in(trace) == [8, 9]
    assert str(trace) in capfd.readouterr().out
    trace.unlink()
    for later in (tmp_path / "checkpoints").glob("step_0000001*.pt"):
        later.unlink()
    assert main(words(digits, tmp_path, *window)) == 0
    assert "continued after step 5" in capfd.readouterr().out
    assert steps_in(trace) == [8, 9]
    (tmp_path / "result.json").unlink()  # else the run is finished, and a start only says so
    assert main(words(digits, tmp_path, *window)) == 0
    assert "no profile: step 14 is complete, which is after steps 8 to 9" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("error", "written"),
    [(Stopped("", signal.SIGTERM), True), (SharedError(""), True), (LocalError(""), False)],
    ids=repr,
)
def test_profile_is_written_unless_a_rank_ends_alone(error: Exception, written: bool, tmp_path: Path) -> None:
    """The trace is complete when the device has done its work, which may wait for the other ranks."""
    world = World(rank=0, size=2, local_rank=0, local_size=2, device=torch.device("cpu"), gloo=MagicMock())
    with (
        pytest.raises(type(error)),
        Profiler(tmp_path, world, lambda _: None, first=0, count=5, step=0, total=9) as profile,
    ):
        profile.step_done(1)
        raise error
    assert [*tmp_path.glob("profile/*")] == [tmp_path / "profile" / "steps_1-1.pt.trace.json"] * written


@pytest.mark.slow
def test_profile_after_the_end_of_the_run_is_refused(
    digits: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(words(digits, tmp_path, "--profile-steps", "5")) == 2
    assert "--profile-from 20 is not below the run's 14 steps" in capfd.readouterr().err
    assert main(words(digits, tmp_path, "--profile-steps", "1000")) == 2
    assert "profile_steps=1000 is more than 100" in capfd.readouterr().err
    assert main(words(digits, tmp_path, "--profile-steps", "5", "--profile-from", "-1")) == 2
    assert "profile_from=-1 is negative" in capfd.readouterr().err


# ------------------------------------------------------------------------------------------------------------- ranks


@pytest.mark.slow
def test_ranks_are_compared_and_only_rank_0_logs(digits: Path, tmp_path: Path) -> None:
    ended = run(words(digits, tmp_path, "--log-every", "5", "--profile-steps", "1", "--profile-from", "3"), 2)
    assert ended.returncode == 0, ended.stderr
    events = EventAccumulator(str(tmp_path)).Reload()
    shares = [event.value for event in events.Scalars("train_speed/slowest_rank_share")]
    assert len(shares) == 5  # after steps 2, 3, 6, 9, 12: a line compares the ranks in the interval before its own
    assert min(shares) >= 0
    assert {event.value for event in events.Scalars("train_speed/slowest_rank")} <= {0, 1}
    assert [path.name for path in (tmp_path / "profile").iterdir()] == ["steps_4-4.pt.trace.json"]
    assert {"visuals/augmented_1", "visuals/misclassified_1", "visuals/confusion"} <= set(events.Tags()["images"])


@pytest.mark.slow
def test_console_log_one_rank_has_nobody_to_be_slower_than(digits: Path, tmp_path: Path) -> None:
    assert main(words(digits, tmp_path, "--log-every", "5", "--no-pictures")) == 0
    tags = EventAccumulator(str(tmp_path)).Reload().Tags()
    assert not {tag for tag in tags["scalars"] if "slowest" in tag}
    assert tags["images"] == []
