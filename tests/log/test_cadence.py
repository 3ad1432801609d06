"""Which steps have a line of metrics, in the rules and in a run; what the console shows between them."""

import json
import os
import pty
import re
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.log.test_console_log import STEPS, read_all, words
from trainer.__main__ import main
from trainer.distributed import process_group
from trainer.log.cadence import Cadence
from trainer.log.console_log import ConsoleLog
from trainer.run.state import Position
from trainer.step_metrics import StepMetrics

LINE = re.compile(r"^epoch +[\d.]+  step (\d+)/14 ", re.MULTILINE)


class Clock:
    """time.monotonic of a test."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("trainer.log.console_log.time.monotonic", clock)
    return clock


def logged(log_every: int, steps_per_epoch: int, steps: int) -> list[int]:
    cadence = Cadence.of(log_every, steps_per_epoch)
    return [step for step in range(1, steps + 1) if cadence.has_line(step)]


@pytest.mark.parametrize(
    ("log_every", "steps_per_epoch", "expected"),
    [
        (20, 1000, [1, 2, 4, 8, 16, 20, 40, 60]),
        (20, 14, [1, 2, 3, 6, 9, 12, 15]),
        (20, 2, [1, 2, 3, 4, 5]),
        (16, 1000, [1, 2, 4, 8, 16, 32, 48]),
        (1, 1000, [1, 2, 3, 4]),
    ],
)
def test_cadence_logs_the_first_steps_and_at_least_four_an_epoch(
    log_every: int, steps_per_epoch: int, expected: list[int]
) -> None:
    assert logged(log_every, steps_per_epoch, expected[-1]) == expected


@pytest.mark.parametrize("log_every", [1, 2, 7, 20, 64])
@pytest.mark.parametrize("steps_per_epoch", [1, 3, 14, 500])
def test_cadence_names_the_line_before_each_line(log_every: int, steps_per_epoch: int) -> None:
    cadence = Cadence.of(log_every, steps_per_epoch)
    assert cadence.interval <= log_every
    steps = logged(log_every, steps_per_epoch, 300)
    assert [cadence.line_before(step) for step in steps] == [0, *steps[:-1]]
    assert sum(step <= steps_per_epoch for step in logged(log_every, steps_per_epoch, 10_000)) >= min(
        4, steps_per_epoch
    )


def test_loss_of_a_line_is_the_mean_since_the_line_before() -> None:
    """The median that a spike is measured against is that of all steps that are kept."""
    with process_group.initialize("cpu", 1) as world:
        metrics = StepMetrics(20, world, scaled=False)
        read = []
        for step in range(40):
            metrics.start(step)
            metrics.add_loss(step, torch.tensor(9.0 if step in (9, 33) else 2.0 + step / 100))
            metrics.add_gradient(step, torch.tensor(1.0), torch.tensor(1.0))
            if Cadence(5).has_line(step + 1):
                read.append(metrics.read(step + 1, Cadence(5).line_before(step + 1)))
    assert read[1].loss == pytest.approx(2.01)  # step 2 alone
    assert read[2].loss == pytest.approx((2.02 + 2.03) / 2)
    found = [[spike.step for spike in summary.spikes] for summary in read]
    assert found == [[], [], [], [], [10], [], [], [], [], [34], []]  # each once


@pytest.mark.slow
def test_training_shorter_than_log_every_logs_its_loss(
    digits: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(words(digits, tmp_path, "--log-every", "1000", "--no-pictures")) == 0
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "train"] == [1, 2, 3, 6, 9, 12]
    assert [int(step) for step in LINE.findall(capfd.readouterr().out)][:3] == [1, 2, 3]


@pytest.mark.slow
def test_log_every_1_prints_every_step(digits: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(words(digits, tmp_path, "--log-every", "1", "--no-pictures")) == 0
    assert [int(step) for step in LINE.findall(capfd.readouterr().out)] == list(range(1, 15))
    assert len(LINE.findall((tmp_path / "log.txt").read_text())) == 14


def at(step: int) -> Position:
    return Position(steps_per_epoch=1000, batch=step)


def test_console_is_silent_for_ten_seconds_at_most(
    tmp_path: Path, clock: Clock, capfd: pytest.CaptureFixture[str]
) -> None:
    """Steps of four seconds; a line of metrics after the first and then none."""
    with closing(ConsoleLog(tmp_path, at(0), total_steps=2000)) as screen:
        screen.steps(at(1), **STEPS, remark="")
        for step in range(2, 10):
            clock.now += 4
            screen.progress(at(step))
    printed = capfd.readouterr().out.splitlines()
    assert printed[0].startswith("epoch   0.00  step 1/2000  loss 2.5000  lr 0.05")
    assert [line.split("  ")[1:-1] for line in printed[1:]] == [
        [" 0.00", "step 4/2000", "loss 2.5000 at step 1"],
        [" 0.01", "step 7/2000", "loss 2.5000 at step 1"],
    ]
    assert (tmp_path / "log.txt").read_text().splitlines()[1:] == printed


def test_console_prints_before_the_first_loss_is_read(
    tmp_path: Path, clock: Clock, capfd: pytest.CaptureFixture[str]
) -> None:
    """A run that resumes between two lines of metrics, with slow steps."""
    with closing(ConsoleLog(tmp_path, at(501), total_steps=2000)) as screen:
        clock.now += 11
        screen.progress(at(502))
    assert capfd.readouterr().out == "epoch   0.50  step 502/2000  ETA 4:34:38\n"


def test_bar_moves_from_the_first_step(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    controller, terminal = pty.openpty()
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm")
    with os.fdopen(terminal, "w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        with closing(ConsoleLog(tmp_path, at(500), total_steps=2000)) as screen:
            clock.now += 1
            screen.progress(at(501))
            bar: Any = screen._bar
            assert (bar.tasks[0].completed, bar.tasks[0].description) == (501, "epoch 0.5/2  step 501  ETA 0:24:59")
    assert "step 501" in read_all(controller)
