"""The SHA-256 of a file, and the .sha256 file beside a checkpoint. Needs no torch."""

import hashlib
from pathlib import Path


def file_sha256(path: Path) -> str:
    """Returns the SHA-256 of a file's content, in hexadecimal. Raises OSError if the file cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksum_file(path: Path) -> Path:
    """Returns the file that holds the checksum of `path`, in the format of `sha256sum --check`."""
    return path.with_name(f"{path.name}.sha256")
