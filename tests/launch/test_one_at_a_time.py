"""Two launches of one run at once: one of them is refused, and nothing is left of the lock between them."""

import errno
import fcntl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launch import jobs
from launch.local.launch import Local
from launch.one_at_a_time import one_at_a_time
from trainer.errors import UserError

WORDS = ["--processes", "1", "resnet20_digits", "--data", "synthetic:64", "--run-dir"]


def test_launch_is_refused_while_another_one_of_the_run_is_made(tmp_path: Path) -> None:
    first, second = tmp_path / "runs" / "a", tmp_path / "runs" / "b"
    with one_at_a_time([first, second]):
        with pytest.raises(UserError, match="b: another launch of it is being made: wait"), one_at_a_time([second]):
            pytest.fail("both launches were accepted")
        with one_at_a_time([tmp_path / "runs" / "c"]):
            assert (tmp_path / "runs" / "c").is_dir()
        (first / "launch.json").touch()
    with pytest.raises(UserError, match="refused"), one_at_a_time([second]):  # by the cluster
        raise UserError("refused")
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == [
        "runs", "runs/a", "runs/a/launch.json",
    ]  # fmt: skip


def test_launch_whose_lock_the_one_before_has_removed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would hold a lock that nobody else can find."""
    lock = fcntl.flock

    def late(*how: Any) -> None:
        (tmp_path / "launch.lock").unlink()
        lock(*how)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(UserError, match="another launch of it is being made"), one_at_a_time([tmp_path]):
        pytest.fail("it went on")


def test_launch_goes_on_where_there_are_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with one_at_a_time([tmp_path]), one_at_a_time([tmp_path]):
        pass
    assert not [*tmp_path.iterdir()]


def test_launch_may_be_made_again_while_the_run_trains_in_the_foreground(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it may is then a question of its state."""

    def submit(*_: object) -> Callable[[], int]:
        with pytest.raises(UserError, match="another launch of it is being made"):
            jobs.launch("local", [*WORDS, str(tmp_path)])
        return train

    def train() -> int:
        with one_at_a_time([tmp_path]):
            return 7

    monkeypatch.setattr(Local, "submit", submit)
    assert jobs.launch("local", [*WORDS, str(tmp_path)]) == 7
