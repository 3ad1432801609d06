"""The SHA-256 of a file."""

import hashlib
from pathlib import Path

from trainer.run.checksum import checksum_file, file_sha256


def test_file_sha256_is_that_of_the_whole_content(tmp_path: Path) -> None:
    content = bytes(range(256)) * 10_000  # more than is read at once
    (tmp_path / "state.pt").write_bytes(content)
    assert file_sha256(tmp_path / "state.pt") == hashlib.sha256(content).hexdigest()


def test_checksum_file_stands_beside_the_file(tmp_path: Path) -> None:
    assert checksum_file(tmp_path / "best.pt") == tmp_path / "best.pt.sha256"
