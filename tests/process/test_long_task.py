"""A long task prints lines with the time that is left; a quick one prints nothing."""

import pytest

from trainer.process import long_task
from trainer.process.long_task import LongTask, time_left


def test_long_task_prints_after_three_seconds_and_then_every_ten(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(long_task.time, "monotonic", lambda: now[0])
    task = LongTask("verifying train.beton", 50.0, "GB")
    for second in range(21):
        now[0] = 100.0 + second
        task.update(second)
    assert capsys.readouterr().err.splitlines() == [
        "verifying train.beton: 3 of 50 GB, about 47 s left",
        "verifying train.beton: 13 of 50 GB, about 37 s left",
    ]


def test_long_task_writes_counts_of_images_in_full(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(long_task.time, "monotonic", lambda: now[0])
    task = LongTask("evaluating", 50_000, "images")
    now[0] = 4.0
    task.update(12_544)
    assert capsys.readouterr().err == "evaluating: 12,544 of 50,000 images, about 12 s left\n"


@pytest.mark.parametrize(
    ("seconds", "done", "text"),
    [(10, 5, "about 10 s left"), (100, 1, "about 15 minutes left"), (1, 10, "about 0 s left")],
)
def test_time_left_is_that_of_the_rest_at_the_same_speed(seconds: float, done: float, text: str) -> None:
    assert time_left(seconds, done, 10) == text
