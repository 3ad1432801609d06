"""What is kept of a launch."""

import os
import subprocess
from pathlib import Path

import pytest

from launch.snapshot import code_name
from launch.submission import Run, Submission, new_submission
from tests.support.processes import ROOT
from trainer.errors import UserError


def run_in(folder: Path) -> Run:
    return Run(name="one", recipe="recipe = None\n", run_dir=folder, data="synthetic:64", options=())


@pytest.mark.slow
def test_code_is_kept_once_for_launches_of_the_same_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (new_submission([run_in(tmp_path / "run")]) for _ in range(2))
    assert first.code.resolve() == second.code.resolve()
    assert first.folder != second.folder
    assert (second.code / "launch" / "rank.py").read_bytes() == (ROOT / "launch" / "rank.py").read_bytes()
    monkeypatch.setattr("launch.snapshot.commit", lambda: "a later commit")
    third = new_submission([run_in(tmp_path / "run")])
    assert third.code.resolve() != first.code.resolve()
    third.discard()
    assert first.code.is_dir()
    assert not third.code.exists()
    assert len(list((tmp_path / "run" / "launch").glob("code-*"))) == 1


def test_launch_at_the_same_time_takes_the_next_number_and_removes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both saw an empty folder; the other one was faster."""
    other = tmp_path / "run" / "launch" / "001"
    other.mkdir(parents=True)
    (other / "job.json").write_text("{}")
    monkeypatch.setattr("launch.submission.copy_code", lambda target: None)
    monkeypatch.setattr(Path, "iterdir", lambda _: iter(()))
    assert new_submission([run_in(tmp_path / "run")]).folder.name == "002"
    assert (other / "job.json").read_text() == "{}"


@pytest.mark.parametrize("moment", ["before", "while it is moved", "never"])
def test_refused_launch_leaves_the_code_that_another_one_has_taken(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one may come after the first look."""
    code = tmp_path / "code-0"
    code.mkdir()
    refused, other = Submission(tmp_path / "001"), Submission(tmp_path / "002")

    def take(launch: Submission) -> None:
        launch.folder.mkdir()
        launch.code.symlink_to("../code-0")

    def rename(path: Path, target: Path) -> None:
        os.rename(path, target)
        if moment == "while it is moved" and not other.folder.exists():
            take(other)

    monkeypatch.setattr(Path, "rename", rename)
    take(refused)
    if moment == "before":
        take(other)
    refused.discard()
    assert code.is_dir() == (moment != "never")
    assert {path.name for path in tmp_path.iterdir()} <= {"code-0", "002"}


def test_launch_takes_the_code_before_it_looks_for_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a launch that is refused meanwhile would remove the copy that was found."""
    found: list[Path] = []
    link = tmp_path / "run" / "launch" / "001" / "code"
    monkeypatch.setattr("launch.submission.copy_code", lambda _: found.append(link.resolve()))
    new_submission([run_in(tmp_path / "run")])
    assert [path.name for path in found] == [code_name()]


def test_launch_on_a_full_disk_is_one_line_and_leaves_no_copy(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        with pytest.raises(UserError, match=r"cannot be written: No space left on device: make room, or use") as error:
            new_submission([run_in(disk / "run")])
        assert str(disk) in str(error.value)
        assert os.listdir(disk / "run" / "launch") == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)
