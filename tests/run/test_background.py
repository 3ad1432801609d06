"""Checkpoints are written in the background: what is saved is a copy, saves take turns, and no error is lost."""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tests.support.processes import TIMEOUT
from tests.support.small_checkpoint import checkpoint_content
from trainer.errors import DiskError
from trainer.run import directory
from trainer.run.background import BackgroundWriter, copied
from trainer.run.checkpoint import CheckpointContent, Checkpoints
from trainer.run.directory import Run


class SlowDisk:
    """Checkpoints.save waits until `room` is set, and then writes or raises `error`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room, self.error, self.began = threading.Event(), False, 0
        write = Checkpoints.save

        def save(checkpoints: Checkpoints, content: CheckpointContent, step: int) -> Path:
            self.began += 1
            assert self.room.wait(TIMEOUT)
            if self.error:
                raise DiskError("no room")
            return write(checkpoints, content, step)

        monkeypatch.setattr(Checkpoints, "save", save)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowDisk]:
    slow = SlowDisk(monkeypatch)
    yield slow
    slow.room.set()  # a test that failed leaves no thread waiting


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run(tmp_path)
    for name in (".owner", ".lock"):
        (tmp_path / name).touch()
    return run


def test_save_returns_before_it_is_written_and_saves_what_the_weights_were(run: Run, disk: SlowDisk) -> None:
    weights = torch.ones(3)
    run.save(checkpoint_content(step=1, model={"w": weights}), 1)
    weights += 1  # training continues
    assert run.checkpoints.newest() is None
    disk.room.set()
    run.mark_best(1)  # waits for it
    assert run.checkpoints.read_best()["model"]["w"].tolist() == [1, 1, 1]


def test_save_waits_for_the_last_one(run: Run, disk: SlowDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk has room as soon as somebody waits for the first save, so only a save that waits gets on."""
    run.save(checkpoint_content(step=1), 1)
    first = run._writer._thread
    assert first
    limits, join = [], first.join

    def wait(timeout: float | None = None) -> None:
        assert disk.began <= 1
        limits.append(timeout)
        disk.room.set()
        join(timeout)

    monkeypatch.setattr(first, "join", wait)
    run.save(checkpoint_content(step=2), 2)
    assert limits == [None]  # however long it takes
    run.finish_saving()
    assert [path.name for path in sorted(run.checkpoints.folder.glob("*.pt"))] == [
        "step_00000001.pt",
        "step_00000002.pt",
    ]


def test_save_is_due_when_the_minutes_since_the_start_or_the_last_save_have_passed(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(directory, "time", SimpleNamespace(monotonic=lambda: now))
    run = Run(run.folder)
    now = 1600.0
    assert not run.save_is_due(minutes=10)
    now = 1600.1
    assert run.save_is_due(minutes=10)
    run.save(checkpoint_content(step=1), 1)
    assert not run.save_is_due(minutes=10)
    now = 2200.2
    assert run.save_is_due(minutes=10)
    run.finish_saving()


def test_save_that_failed_makes_another_due_which_raises_its_error_once(run: Run, disk: SlowDisk) -> None:
    assert not run.save_is_due(minutes=1)
    disk.error = True
    disk.room.set()
    run.save(checkpoint_content(step=1), 1)
    writer = run._writer._thread
    assert writer
    writer.join(TIMEOUT)
    assert run.save_is_due(minutes=1)
    with pytest.raises(DiskError, match="no room"):
        run.save(checkpoint_content(step=2), 2)
    assert not run.save_is_due(minutes=1)
    run.finish_saving()


@pytest.mark.parametrize("ends_by", [None, RuntimeError, DiskError])
def test_run_that_ends_waits_for_the_save_and_tells_its_error(
    ends_by: type[Exception] | None, run: Run, disk: SlowDisk
) -> None:
    disk.error = True
    disk.room.set()
    with pytest.raises(DiskError, match="other" if ends_by is DiskError else "no room"), run:
        run.save(checkpoint_content(step=1), 1)
        if ends_by:
            raise ends_by("other")


def test_writer_keeps_one_error_and_then_starts_again() -> None:
    writer, done = BackgroundWriter(), list[int]()
    writer.start(lambda: done.append(1))
    writer.start(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        writer.start(lambda: done.append(2))
    writer.start(lambda: done.append(3))
    writer.wait()
    assert done == [1, 3]


def test_copy_has_the_values_strides_and_types_and_none_of_the_memory() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2)).to(
        memory_format=torch.channels_last
    )  # type: ignore[call-overload]
    content = {"model": module.state_dict(), "groups": [{"lr": 0.1, "params": (0, 1)}], "none": None}
    made = copied(content)
    assert isinstance(made["model"], OrderedDict)
    assert made["model"]._metadata == content["model"]._metadata
    assert made["groups"] == content["groups"] and made["groups"][0] is not content["groups"][0]
    assert len(made["model"]) == 9
    for name, tensor in content["model"].items():
        twin = made["model"][name]
        assert torch.equal(twin, tensor) and twin.stride() == tensor.stride()
        assert twin.data_ptr() != tensor.data_ptr() and not twin.requires_grad
