"""Images from FFCV's .beton files: FFCV's format and its native decoder, read by our own threads.

FFCV's Python Loader is not used: it hangs on any exception, ignores the decoder's return code, and compiles for seconds
at every start. Here one compiled function (decode.py) reads a slice of a batch without the GIL. Without FFCV's
library portable.py does the same, to the same pixels.

Bytes are read with pread, not through a memory map: a file that shrinks while it is read is an error here, where a
memory map would end the process (SIGBUS). The page cache is shared by all processes either way.
"""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from trainer.data.beton.decoder import WHY_PORTABLE, decode
from trainer.data.beton.index import BAD_JPEG, SHORT_READ, BetonIndex, contents_of, verify
from trainer.data.beton.manifest import read_manifest
from trainer.data.contents import Contents
from trainer.data.crop import CropBoxes
from trainer.data.listing import class_order_note, composed
from trainer.errors import LocalError, one_line

_READ = 1 << 20  # bytes per read of what is read ahead
_GAP = 128 << 10  # bytes between two images that are read through, as the kernel's own read-ahead does


class BetonSource:
    """The images of one .beton file, checked against its manifest before the first is read."""

    def __init__(self, path: Path, check_content: bool = True) -> None:
        """Raises UserError if the file, its manifest or its content is not what was written."""
        manifest = read_manifest(path)
        self.path = path
        self.name = one_line(f"{manifest.source.name}, {path.name}")
        self.classes = [composed(name) for name in manifest.classes]
        self.notes = (*class_order_note(self.classes), *portable_note())
        self.checksum = manifest.checksum
        self._state = _state(os.stat(path))
        self._index: BetonIndex = verify(path, manifest, check_content=check_content)
        self.labels = self._index.labels
        self._file = os.open(path, os.O_RDONLY)
        self._require_unchanged()
        self._scratch = threading.local()
        self._contents = contents_of(manifest, self._index)

    def contents(self, most_opened: int) -> Contents:
        """Sizes of all images, which are in the index."""
        return self._contents

    def sizes(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self._index.heights[images], self._index.widths[images]

    def read(self, images: np.ndarray, crops: CropBoxes, out: np.ndarray) -> None:
        index = self._index
        if not hasattr(self._scratch, "arrays"):  # once per thread
            self._scratch.arrays = scratch(index.sizes, index.heights, index.widths)
        stored = index.pointers, index.sizes, index.modes, index.heights, index.widths
        how = crops.boxes, crops.flips, np.array(crops.fill, np.uint8), crops.scaled
        failed, code = decode(self._file, images, stored, *how, self._scratch.arrays, out)
        if code == SHORT_READ:
            raise LocalError(f"{self.path}: image {images[failed]} cannot be read: the file has become shorter")
        if code == BAD_JPEG:
            raise LocalError(
                f"{self.path}: image {images[failed]} is a damaged JPEG, or not of the size that the index states: "
                f"write the file again with prepare"
            )

        self._require_unchanged()

    def prefetch(self, images: np.ndarray, stop: threading.Event) -> None:
        """See Prefetching. Images whose bytes lie close together are read as one range."""
        starts, ends = self._index.pointers[images], self._index.pointers[images] + self._index.sizes[images]
        order = np.argsort(starts, kind="stable")
        starts, ends = starts[order].astype(np.int64), ends[order].astype(np.int64)
        first = np.concatenate([[True], starts[1:] > np.maximum.accumulate(ends)[:-1] + _GAP])
        starts, ends = starts[first], np.maximum.reduceat(ends, np.flatnonzero(first))
        buffer = memoryview(bytearray(_READ))
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            for offset in range(start, end, _READ):
                if stop.is_set():
                    return
                try:
                    os.preadv(self._file, [buffer[: end - offset]], offset)
                except OSError:
                    return

    def release(self, images: np.ndarray) -> None:
        """See Prefetching. The system drops whole pages only, so what an image shares with a neighbour stays."""
        for image in images.tolist():
            start, size = int(self._index.pointers[image]), int(self._index.sizes[image])
            os.posix_fadvise(self._file, start, size, os.POSIX_FADV_DONTNEED)

    def _require_unchanged(self) -> None:
        """Damage of raw pixels does not show, but that somebody wrote to the file does."""
        if _state(os.fstat(self._file)) != self._state:
            raise LocalError(
                f"{self.path} was written to while it was read: run the same command again, which checks the file"
            )

    def bad_images(self) -> Iterator[str]:
        """None: prepare decoded them all, and the checksum says that they are what it wrote."""
        return iter(())

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def portable_note() -> tuple[str, ...]:
    """Returns a line where FFCV's library cannot be used."""
    if not WHY_PORTABLE:
        return ()
    return (f"images are read without FFCV's library ({WHY_PORTABLE}): the same pixels, but more slowly",)


def scratch(sizes: np.ndarray, heights: np.ndarray, widths: np.ndarray) -> tuple[np.ndarray, ...]:
    """Allocates what decode() needs for the largest image. `sizes`: stored bytes; `heights`, `widths`: in pixels."""
    heights, widths = heights.astype(np.int64), widths.astype(np.int64)
    return (
        np.empty(int(sizes.max()), np.uint8),
        np.empty(int(sizes.max()), np.uint8),
        np.empty(int((-(-heights // 8) * -(-widths // 8)).max()), np.int64),
        np.empty(int((heights * widths).max()) * 3, np.uint8),
    )


def _state(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns
