"""Errors that no check foresees: of permissions, of operations that are not deterministic, of a missing compiler."""

import errno
import os
import re
from pathlib import Path

import pytest
import torch

from launch import checks
from trainer.data import formats
from trainer.errors import DISK_AWAY, EXIT_RETRY, UserError
from trainer.process.unforeseen import exit_code_of


def denied(path: Path) -> PermissionError:
    return PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


@pytest.fixture
def unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that this user may not read, nor search: root may do both."""
    folder, access, stat = tmp_path / "unreadable", os.access, os.stat
    folder.mkdir()

    def stat_denied(path: object, **options: bool) -> os.stat_result:
        if folder in Path(str(path)).parents:
            raise denied(Path(str(path)))
        return stat(path, **options)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != folder and access(path, mode))
    monkeypatch.setattr(os, "stat", stat_denied)
    return folder


@pytest.mark.parametrize("name", ["", "train.beton"])
def test_input_that_may_not_be_read_is_one_line_and_ends_the_command(
    name: str, unreadable: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line is true of a file to be written, too."""
    path = unreadable / name
    for run_dir in (None, unreadable.parent / "run"):
        assert exit_code_of(denied(path), run_dir) == 2
        assert capsys.readouterr().err == f"error: {path}: cannot be used: Permission denied\n"


def test_run_directory_that_may_not_be_written_is_waited_for(
    unreadable: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "log.txt").touch()
    for path, run_dir in ((unreadable / "log.txt", unreadable), (tmp_path / "log.txt", tmp_path), (tmp_path, None)):
        assert exit_code_of(denied(path), run_dir) == EXIT_RETRY
        assert "Permission denied: free some space or make it writable" in capsys.readouterr().err


def test_disk_that_is_away_is_no_mistake_of_the_user(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where a reader of the data gives its error a sentence."""
    for number in DISK_AWAY:
        away = OSError(number, os.strerror(number), str(tmp_path))
        assert exit_code_of(away) == EXIT_RETRY
        assert capsys.readouterr().err.startswith(f"error: {tmp_path}: {os.strerror(number)}: ")
    for number, code in ((errno.ESTALE, EXIT_RETRY), (errno.ENOENT, 2), (errno.EACCES, 2)):
        try:
            raise UserError("DATA cannot be read") from OSError(number, os.strerror(number))
        except UserError as error:
            assert error.exit_code == code
    assert UserError("a misspelt option").exit_code == 2


@pytest.mark.slow  # it imports torch's compiler
@pytest.mark.parametrize("program", ["g++", "gcc"])
def test_compiling_without_a_compiler_is_one_line(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    from torch._inductor.exc import InductorError, InvalidCxxCompiler

    reason, language = {
        "g++": (InvalidCxxCompiler(), "C++"),
        "gcc": (RuntimeError("Failed to find C compiler. Please specify via CC environment variable"), "C"),
    }[program]
    assert exit_code_of(InductorError(reason, None)) == 2
    answer = re.escape(f"a {language} compiler: install {program}")
    said = capsys.readouterr().err
    assert re.fullmatch(rf"error: --compile needs {answer}, or leave --compile out: [^\n]+\n", said)


def test_data_that_a_node_may_not_read_is_a_fault_of_preflight(monkeypatch: pytest.MonkeyPatch) -> None:
    def open_dataset(*_: object, **__: object) -> None:
        raise denied(Path("DATA/train.beton"))

    monkeypatch.setattr(formats, "open_dataset", open_dataset)
    found = checks._checksums("DATA", content=False)
    assert set(found.values()) == {"error: DATA/train.beton: cannot be read: Permission denied"}


def test_operation_without_a_deterministic_kernel_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        with pytest.raises(RuntimeError) as caught:
            torch.zeros(2).put_(torch.tensor([0]), torch.ones(1))
    finally:
        torch.use_deterministic_algorithms(before)
    assert exit_code_of(caught.value) == 2
    assert "this network needs put_, which has no deterministic kernel" in capsys.readouterr().err
