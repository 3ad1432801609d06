"""Images that are ranges of bytes of large files: read where they lie, nothing is unpacked."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trainer.data.beton.journal import file_stamp
from trainer.errors import UserError


class Ranges:
    """Reads ranges of bytes, in any order and from forked processes."""

    def __init__(self, files: Sequence[Path], where: np.ndarray) -> None:
        """`where`: int64, shape (images, 3): the number of the file, the first byte, the number of bytes."""
        self._files, self._where = files, where
        self._open: dict[int, int] = {}  # number of the file -> descriptor

    def read(self, image: int) -> bytes:
        file, start, size = (int(value) for value in self._where[image])
        if file not in self._open:
            self._open[file] = os.open(self._files[file], os.O_RDONLY)
        return os.pread(self._open[file], size, start)

    def stamp(self, image: int) -> int:
        return file_stamp(self._files[int(self._where[image, 0])])


def require_whole(archive: Path, end: int) -> None:
    """Raises UserError where an archive ends before byte `end`."""
    if archive.stat().st_size < end:
        raise UserError(
            f"{archive} is truncated: it has {archive.stat().st_size:,} bytes, and an image would end at {end:,}: "
            f"download it again"
        )
