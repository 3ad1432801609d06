"""Images that are ranges of bytes of large files: read where they lie, nothing is unpacked."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trainer.data.beton.journal import file_stamp


class Ranges:
    """Reads ranges of bytes, in any order and from forked processes. One file is open at a time: there may be more
    shards than a process may open."""

    def __init__(self, files: Sequence[Path], where: np.ndarray) -> None:
        """`where`: int64, shape (images, 3): the number of the file, the first byte, the number of bytes."""
        self._files, self._where = files, where
        self._open: tuple[int, int] | None = None  # number of the file, descriptor

    def read(self, image: int) -> bytes:
        file, start, size = (int(value) for value in self._where[image])
        if self._open is None or self._open[0] != file:
            if self._open:
                os.close(self._open[1])
                self._open = None
            self._open = file, os.open(self._files[file], os.O_RDONLY)
        return os.pread(self._open[1], size, start)

    def stamp(self, image: int) -> int:
        return file_stamp(self._files[int(self._where[image, 0])])
