"""Images from FFCV's .beton files: FFCV's format and its native decoder, read by our own threads.

FFCV's C++ library decodes (libjpeg-turbo) and resizes (OpenCV, INTER_AREA); this file calls it from one compiled
function per slice of a batch, without Python's lock. FFCV's Python Loader is not used: it hangs on any exception,
ignores the decoder's return code, and compiles for seconds at every start. Numba keeps this function on disk.

Bytes are read with pread, not through a memory map: a file that shrinks while it is read is an error here, where a
memory map would end the process (SIGBUS). The page cache is shared by all processes either way.
"""

import ctypes
import importlib.util
import os
import threading
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from numba import njit, types

from trainer.data.check import RAW, BetonIndex, verify
from trainer.data.manifest import read_manifest
from trainer.errors import LocalError

SHORT_READ, BAD_JPEG = 1, 2  # what decode() returns for an image it could not read


def _load_native_library() -> None:
    """Makes FFCV's C++ functions known to numba by name.

    Looked up on disk instead of `import ffcv`, which compiles typed dictionaries for some five seconds. Named symbols,
    unlike ctypes' addresses, let numba store the compiled function for the next process.
    """
    found = importlib.util.find_spec("ffcv")
    if found is None or not found.submodule_search_locations:
        raise ImportError("ffcv is not installed")
    folder = Path(found.submodule_search_locations[0])
    library = ctypes.CDLL(str(next(folder.glob("_libffcv*.so"))))
    for name in ("imdecode", "resize"):
        llvm.add_symbol(f"ffcv_{name}", ctypes.cast(getattr(library, name), ctypes.c_void_p).value)


_load_native_library()

# int imdecode(source, source_size, height, width, destination, crop_height, crop_width, offset_x, offset_y,
#              scale_numerator, scale_denominator, enable_crop, flip): 0 when the whole JPEG was sound
_imdecode: Any = types.ExternalFunction(
    "ffcv_imdecode",
    types.int32(types.uintp, types.uint64, types.uint32, types.uint32, types.uintp, *(types.uint32,) * 6,
                types.boolean, types.boolean),
)  # fmt: skip
# void resize(unused, source, height, width, first_row, end_row, first_column, end_column, destination, height, width)
_resize: Any = types.ExternalFunction("ffcv_resize", types.void(*(types.int64,) * 11))
_pread: Any = types.ExternalFunction("pread", types.int64(types.int32, types.uintp, types.uint64, types.int64))


class BetonSource:
    """The images of one .beton file, checked against its manifest before the first is read."""

    def __init__(self, path: Path, check_content: bool = True) -> None:
        """Raises UserError where the file, its manifest or its content is not what was written."""
        manifest = read_manifest(path)
        self.path = path
        self.name = f"{manifest.source.name}, {path.name}"
        self.classes = manifest.classes
        self.checksum = manifest.checksum
        self._state = _state(os.stat(path))
        self._index: BetonIndex = verify(path, manifest, check_content=check_content)
        self.labels = self._index.labels
        self._file = os.open(path, os.O_RDONLY)
        self._require_unchanged()
        self._scratch = threading.local()

    def sizes(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self._index.heights[images], self._index.widths[images]

    def read(self, images: np.ndarray, boxes: np.ndarray, flips: np.ndarray, fill: np.ndarray, out: np.ndarray) -> None:
        index = self._index
        if not hasattr(self._scratch, "file_bytes"):  # the largest image of the file, once per thread
            self._scratch.file_bytes = np.empty(int(index.sizes.max()), np.uint8)
            self._scratch.pixels = np.empty(int((index.heights.astype(np.int64) * index.widths).max()) * 3, np.uint8)
        failed, code = _decode(
            self._file, images, index.pointers, index.sizes, index.modes, index.heights, index.widths,
            boxes, flips, fill, self._scratch.file_bytes, self._scratch.pixels, out,
        )  # fmt: skip
        if code == SHORT_READ:
            raise LocalError(f"{self.path}: image {images[failed]} cannot be read: the file has become shorter")
        if code == BAD_JPEG:
            raise LocalError(
                f"{self.path}: image {images[failed]} is a damaged JPEG: write the file again with prepare"
            )

        self._require_unchanged()

    def _require_unchanged(self) -> None:
        """Damage of raw pixels does not show, but that somebody wrote to the file does."""
        if _state(os.fstat(self._file)) != self._state:
            raise LocalError(
                f"{self.path} was written to while it was read: start again with the same command, which checks it anew"
            )

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _state(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns


@njit(nogil=True, cache=True)
def _decode(  # type: ignore[no-untyped-def]
    file, images, pointers, sizes, modes, heights, widths, boxes, flips, fill, file_bytes, pixels, out
):  # fmt: skip
    """Reads each image, cuts its box, flips it. Returns (position of the first failure, its code) or (0, 0)."""
    out_size = out.shape[1]
    for position in range(len(images)):
        image = images[position]
        height, width = heights[image], widths[image]
        stored = pixels if modes[image] == RAW else file_bytes
        if _pread(file, stored.ctypes.data, sizes[image], pointers[image]) != sizes[image]:
            return position, SHORT_READ
        if modes[image] != RAW:
            failed = _imdecode(
                file_bytes.ctypes.data, sizes[image], height, width, pixels.ctypes.data, height, width,
                0, 0, 1, 1, False, False,
            )  # fmt: skip
            if failed:
                return position, BAD_JPEG

        top, left, box_height, box_width = boxes[position]
        target = out[position]
        inside = top >= 0 and left >= 0 and top + box_height <= height and left + box_width <= width
        if inside and (box_height != out_size or box_width != out_size):
            _resize(
                0, pixels.ctypes.data, height, width, top, top + box_height, left, left + box_width,
                target.ctypes.data, out_size, out_size,
            )  # fmt: skip
        else:
            for row in range(out_size):
                for column in range(out_size):
                    y, x = top + row, left + column
                    if 0 <= y < height and 0 <= x < width:
                        start = (y * width + x) * 3
                        for channel in range(3):
                            target[row, column, channel] = pixels[start + channel]
                    else:
                        for channel in range(3):
                            target[row, column, channel] = fill[channel]

        if flips[position]:
            for row in range(out_size):
                for column in range(out_size // 2):
                    mirrored = out_size - 1 - column
                    for channel in range(3):
                        value = target[row, column, channel]
                        target[row, column, channel] = target[row, mirrored, channel]
                        target[row, mirrored, channel] = value
    return 0, 0
