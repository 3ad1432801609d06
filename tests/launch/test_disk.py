"""A disk that cannot be written to is waited for, for an hour; what the user has to change is said at once."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from launch import disk
from launch.disk import patiently
from trainer.errors import UserError


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds of each pause, by a clock that nothing else moves."""
    pauses: list[float] = []
    monkeypatch.setattr(disk, "time", SimpleNamespace(monotonic=lambda: sum(pauses), sleep=pauses.append))
    return pauses


def full() -> OSError:
    return OSError(28, "No space left on device", "RUN")


def full_run() -> UserError:
    error = UserError("RUN: cannot be written")
    error.__cause__ = full()
    return error


@pytest.mark.parametrize("error", [full, full_run])
def test_disk_that_is_full_for_a_while_is_waited_for(
    error: Callable[[], Exception], slept: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    errors = [error(), error()]

    def action() -> str:
        if errors:
            raise errors.pop()
        return "written"

    assert patiently(action) == "written"
    assert slept == [2.0, 2.0]
    assert capsys.readouterr().err.splitlines() == [
        "launch: RUN: No space left on device: waiting for up to an hour until it can be written",
        "launch: the disk is usable again",
    ]


def test_disk_is_not_waited_for_where_the_input_is_wrong(slept: list[float]) -> None:
    def action() -> None:
        raise UserError("given up")

    with pytest.raises(UserError, match="given up"):
        patiently(action)
    assert slept == []


def test_disk_that_stays_full_is_given_up_after_an_hour(slept: list[float]) -> None:
    def action() -> None:
        raise full()

    with pytest.raises(UserError, match="RUN: No space left on device: waited for an hour"):
        patiently(action)
    assert 3600 < sum(slept) <= 3604
