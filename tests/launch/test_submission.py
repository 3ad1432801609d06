"""What is kept of a launch."""

import os
import subprocess
from pathlib import Path

import pytest

from launch.submission import Run, new_submission
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
    monkeypatch.setattr("launch.submission.copy_code", lambda parent: parent / "code-0")
    monkeypatch.setattr(Path, "iterdir", lambda _: iter(()))
    assert new_submission([run_in(tmp_path / "run")]).folder.name == "002"
    assert (other / "job.json").read_text() == "{}"


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
