"""benchmarks.folders: what it says where there is nothing to measure."""

from pathlib import Path

import pytest

from benchmarks import folders


def test_folders_without_photographs_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "class").mkdir()
    with pytest.raises(SystemExit, match=r"^error: .* has no class folders with photographs$"):
        folders.main(tmp_path)
