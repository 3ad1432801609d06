"""Images from WebDataset shards: uncompressed tar files in which the files of one base name, 000.jpg and 000.cls, are a
sample.

The headers are read once, at the start. After that an image is one read at a known offset, in any order: training sees
the same order as from every other format, not that of the shards.
"""

import io
import os
import tarfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from trainer.data.content import Stamp
from trainer.data.encoded import EncodedSource
from trainer.data.images import reason
from trainer.data.listing import STAMP, composed, in_utf8
from trainer.data.loader import Stored
from trainer.errors import UserError, one_line

IMAGES = ("jpg", "jpeg", "png", "webp", "bmp", "ppm")  # extensions
LABEL = "cls"  # a number from 0, as text
CLASSES = "classes.txt"  # beside the shards, not required: one name a line


class _Sample(NamedTuple):
    shard: int
    key: str
    encoding: str
    offset: int  # of the image's bytes
    size: int
    label: int


class WebDatasetSource(EncodedSource):
    """The samples of all shards, in the order of the shards' names and, within a shard, of the tar file."""

    def __init__(self, shards: tuple[Path, ...], notes: tuple[str, ...] = ()) -> None:
        """Raises UserError, naming shard and sample, for what is not an uncompressed tar of such samples."""
        self._shards = shards
        _require_different(shards)
        self._states = [_state(os.stat(shard)) for shard in shards]
        samples = [sample for number, shard in enumerate(shards) for sample in _index(number, shard)]
        if not samples:
            raise UserError(f"{shards[0]}: {_count(len(shards))} without an image: give shards of .jpg and .cls files")
        self._where = np.array([(sample.shard, sample.offset, sample.size) for sample in samples], np.int64)
        self._keys = [sample.key for sample in samples]
        self._encodings = np.array([sample.encoding for sample in samples])
        labels = np.array([sample.label for sample in samples], np.int64)
        folder = shards[0].absolute().parent
        super().__init__(
            labels=labels,
            classes=_classes(folder / CLASSES, int(labels.max()) + 1),
            name=one_line(in_utf8(f"{folder.name}, {_count(len(shards))} from {shards[0].name}")),
            stamp=Stamp.of(folder / f".{shards[0].stem}{STAMP}", _files(samples, shards, self._states), labels),
            notes=notes,
        )

    remedy = "write the shard again without it"

    def open_image(self, image: int) -> Image.Image:
        return Image.open(io.BytesIO(self.encoded(image)))

    def encoded(self, image: int) -> bytes:
        shard, offset, size = (int(value) for value in self._where[image])
        descriptor = os.open(self._shards[shard], os.O_RDONLY)  # not held: a data set may have thousands of shards
        try:
            stored = os.pread(descriptor, size, offset)
            if _state(os.fstat(descriptor)) != self._states[shard]:
                raise OSError("the shard was written to since the start")
        finally:
            os.close(descriptor)
        return stored

    def where(self, image: int) -> str:
        return f"{self._shards[self._where[image, 0]]}: {self._keys[image]}"

    def stored(self) -> tuple[Stored, ...]:
        return tuple(
            Stored(str(encoding), int(chosen.sum()), int(self._where[chosen, 2].sum()))
            for encoding in np.unique(self._encodings)
            if (chosen := self._encodings == encoding).any()
        )


def _index(number: int, shard: Path) -> Iterator[_Sample]:
    """The samples of a shard. The files of a sample lie side by side; files that are neither image nor label are
    skipped."""
    seen: set[str] = set()
    try:
        with tarfile.open(shard, "r:") as tar, open(shard, "rb") as file:
            length = os.fstat(file.fileno()).st_size
            files = (member for member in tar if member.isfile() and _is_part(member.name))
            for key, members in groupby(files, key=lambda member: _key(member.name)):
                if key in seen:
                    raise UserError(f"{shard}: the files of sample {key} do not lie side by side: sort the shard")
                seen.add(key)
                parts = list(members)
                if parts[-1].offset_data + parts[-1].size > length:
                    raise UserError(f"{shard} is truncated: {parts[-1].name} would end after its last byte, {length}")
                images = [part for part in parts if _extension(part.name) != LABEL]
                labels = [part for part in parts if _extension(part.name) == LABEL]
                if (len(images), len(labels)) != (1, 1):
                    raise UserError(
                        f"{shard}: sample {key} has {len(images)} images and {len(labels)} .{LABEL} files: write one "
                        f"of each"
                    )
                text = os.pread(file.fileno(), min(labels[0].size, 32), labels[0].offset_data)
                label = _label(shard, labels[0].name, text)
                encoding = _extension(images[0].name)
                yield _Sample(number, key, encoding, images[0].offset_data, images[0].size, label)
    except tarfile.TarError as error:
        raise UserError(f"{shard} is not an uncompressed tar file, or is damaged: {error}") from error
    except OSError as error:
        raise UserError(f"{shard} cannot be read: {error.strerror or error}") from error


def _is_part(name: str) -> bool:
    """Whether a file is an image or a label, and not what macOS adds to its archives (._000.jpg)."""
    return _extension(name) in (*IMAGES, LABEL) and not name.rpartition("/")[2].startswith(".")


def _key(name: str) -> str:
    """What the files of a sample share: WebDataset's rule, all before the first dot of the base name."""
    folder, slash, base = name.rpartition("/")
    return f"{folder}{slash}{base.partition('.')[0]}"


def _extension(name: str) -> str:
    return name.rpartition("/")[2].partition(".")[2].lower()


def _label(shard: Path, name: str, text: bytes) -> int:
    if not text.strip().isdigit():
        raise UserError(f"{shard}: {name} holds {text[:32]!r}: write the number of the class, from 0")
    return int(text)


def _classes(path: Path, count: int) -> list[str]:
    if not path.exists():
        return [str(label) for label in range(count)]
    try:
        names = [composed(name) for name in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({reason(error)}): write one name a line, in UTF-8") from error
    if len(names) < count:
        raise UserError(f"{path} has {len(names)} lines, but labels go up to {count - 1}: write one name a line")
    return names


def _files(
    samples: list[_Sample], shards: tuple[Path, ...], states: list[tuple[int, int]]
) -> Iterator[tuple[str, int, int]]:
    """Each shard with its length and time, then each sample with its place."""
    for shard, state in zip(shards, states, strict=True):
        yield shard.name, *state
    for sample in samples:
        yield f"{sample.key}.{sample.encoding}", sample.offset, sample.size


def _require_different(shards: tuple[Path, ...]) -> None:
    """Raises UserError where two shards are one file, by a link: each of its images would be trained on twice."""
    seen: dict[Path, Path] = {}
    for shard in shards:
        if (other := seen.setdefault(shard.resolve(), shard)) != shard:
            raise UserError(f"{shard} and {other} are one file, by a link: remove the link")


def _state(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns


def _count(shards: int) -> str:
    return "1 shard" if shards == 1 else f"{shards:,} shards"
