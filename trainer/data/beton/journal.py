"""What an interrupted `prepare` has done, so that the same command continues: TRAIN.beton.unfinished.

The journal lies beside TRAIN.beton.partial and has a row for each image of the source. A row is written after its
image. On the next start a row counts if the source's file is unchanged and the stored bytes still have their checksum.
"""

import hashlib
import json
import os
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np

from trainer.data.beton.index import METADATA
from trainer.data.beton.manifest import DataOrigin, Encoding, software_versions
from trainer.process.regular import require_regular

WAITING, STORED, SKIPPED = 0, 1, 2  # states of an image
ROW = np.dtype([("metadata", METADATA), ("size", "<i8"), ("digest", "u1", 32), ("crc", "<u4"), ("state", "u1"),
                ("oriented", "?"), ("stamp", "<i8")])  # fmt: skip
_HEADER = np.dtype([("version", "<u8"), ("key", "u1", 32), ("complete", "<u8")])
_VERSION = 1
_BLOCK = 256  # images that a thread checks at a time


class Journal:
    """The journal of one .beton file. Its writes are at fixed places, so that several processes can make them."""

    def __init__(self, beton: Path, key: bytes, count: int) -> None:
        """`key`: identifies images and options, see key_of. `count`: the images of the source.

        Raises UserError for what is there and no regular file.
        """
        self.path = beton.with_name(beton.name + ".unfinished")
        require_regular(self.path)
        self._key, self._count = np.frombuffer(key, np.uint8), count

    def read(self) -> tuple[np.ndarray, bool]:
        """Returns the rows, and whether the file was completed.

        Rows of other images or options are none: all are waiting.
        """
        rows = np.zeros(self._count, ROW)
        try:
            content = self.path.read_bytes()
        except OSError:
            return rows, False
        if len(content) < _HEADER.itemsize:
            return rows, False
        header = np.frombuffer(content, _HEADER, 1)[0]
        if int(header["version"]) != _VERSION or not np.array_equal(header["key"], self._key):
            return rows, False
        found = np.frombuffer(content, ROW, (len(content) - _HEADER.itemsize) // ROW.itemsize, _HEADER.itemsize)
        rows[: len(found)] = found[: self._count]
        return rows, bool(header["complete"])

    def begin(self, rows: np.ndarray) -> None:
        """Starts a journal that has these rows already."""
        with open(self.path, "wb") as file:
            file.write(self._header(complete=False) + rows.tobytes())

    def write(self, first: int, rows: np.ndarray) -> None:
        """Writes the rows of the images from `first` on, which are stored or skipped."""
        with open(self.path, "r+b", buffering=0) as file:
            os.pwrite(file.fileno(), rows.tobytes(), _HEADER.itemsize + first * ROW.itemsize)

    def mark_complete(self) -> None:
        with open(self.path, "r+b", buffering=0) as file:
            os.pwrite(file.fileno(), self._header(complete=True), 0)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    def _header(self, *, complete: bool) -> bytes:
        return np.array((_VERSION, self._key, complete), _HEADER).tobytes()


def key_of(
    labels: np.ndarray, names: Sequence[str], classes: Sequence[str], source: DataOrigin, encoding: Encoding
) -> bytes:
    """Returns the SHA-256 of all that decides which bytes a file holds, but for the content of the source's files."""
    digest = hashlib.sha256()
    facts = [asdict(source), asdict(encoding), list(classes), software_versions()]
    digest.update(json.dumps(facts, sort_keys=True).encode())
    digest.update(labels.astype(np.int64).tobytes())
    for name in names:
        digest.update(name.encode(errors="surrogateescape") + b"\0")
    return digest.digest()


def file_stamp(path: Path) -> int:
    """Returns a number that changes when the file is replaced or written to; 0 if it cannot be read."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # ValueError: a name that no file can have
        return 0
    return (status.st_mtime_ns * 31 + status.st_size) & (1 << 62) - 1


def count_damaged(path: Path, rows: np.ndarray, threads: int) -> tuple[int, int]:
    """Reads the stored images back: (how many are not as they were written, which row is the first); (0, -1) if none.

    CRC-32 finds what a disk does to them, and takes an eighth of the time of SHA-256.
    """
    stored = np.flatnonzero(rows["state"] == STORED)
    blocks = [stored[start : start + _BLOCK] for start in range(0, len(stored), _BLOCK)]
    file = os.open(path, os.O_RDONLY)

    def damaged(images: np.ndarray) -> list[int]:
        found = []
        for image, row in zip(images.tolist(), rows[images], strict=True):
            content = os.pread(file, int(row["size"]), int(row["metadata"]["f0"]["data_ptr"]))
            if len(content) != row["size"] or zlib.crc32(content) != row["crc"]:
                found.append(image)
        return found

    try:
        with ThreadPoolExecutor(threads) as pool:
            wrong = [image for block in pool.map(damaged, blocks) for image in block]
    finally:
        os.close(file)
    return len(wrong), wrong[0] if wrong else -1
