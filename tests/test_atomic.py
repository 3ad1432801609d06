"""A file that is written atomically is on the disk when it has its name, with the mode that the umask gives."""

import os
import stat
from pathlib import Path

import pytest
import torch

from trainer.atomic import atomic_write, replace_text


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_atomic_write_gives_the_mode_of_the_umask(tmp_path: Path, umask: int) -> None:
    from safetensors.torch import load_file, save_file

    tensors = {"weight": torch.arange(3.0)}
    before = os.umask(umask)
    try:
        replace_text(tmp_path / "text", "content")
        with atomic_write(tmp_path / "x.safetensors") as partial:
            save_file(tensors, partial)  # writes a file of mode 0600 and renames it to `partial`
        (tmp_path / "plain").write_text("content")
    finally:
        os.umask(before)
    modes = {path.name: oct(stat.S_IMODE(path.stat().st_mode)) for path in tmp_path.iterdir()}
    assert modes == dict.fromkeys(("text", "x.safetensors", "plain"), oct(0o666 & ~umask))
    assert torch.equal(load_file(tmp_path / "x.safetensors")["weight"], tensors["weight"])


def test_atomic_write_reports_a_temporary_file_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "file") as partial:
        partial.unlink()
    assert list(tmp_path.iterdir()) == []


def test_atomic_write_syncs_the_content_before_the_rename_and_the_folder_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a library has replaced the temporary file: what is synced is the file that gets the name."""
    done: list[tuple[str, ...]] = []
    fsync, replace = os.fsync, os.replace

    def recorded_fsync(file: int) -> None:
        done.append(("fsync", os.readlink(f"/proc/self/fd/{file}")))
        fsync(file)

    def recorded_replace(old: Path, new: Path) -> None:
        done.append(("replace", str(old), str(new)))
        replace(old, new)

    path, partial = str(tmp_path / "file"), str(tmp_path / "file.partial")
    with atomic_write(tmp_path / "file") as temporary:
        (tmp_path / "own").write_text("content")
        (tmp_path / "own").rename(temporary)
        monkeypatch.setattr(os, "fsync", recorded_fsync)
        monkeypatch.setattr(os, "replace", recorded_replace)
    assert done == [("fsync", partial), ("replace", partial, path), ("fsync", str(tmp_path))]
    assert (tmp_path / "file").read_text() == "content"
