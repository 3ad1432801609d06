"""Every file that is written atomically has the mode that the umask gives, whatever wrote its content."""

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
