"""Images from WebDataset shards: uncompressed tar files in which the files of one base name, 000.jpg and 000.cls, are a
sample.

The headers are read once, at the start. After that an image is one read at a known offset, in any order: training sees
the same order as from every other format, not that of the shards.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from trainer.data.content import Stamp
from trainer.data.contents import Stored
from trainer.data.encoded import EncodedSource
from trainer.data.listing import STAMP, in_utf8
from trainer.data.shards import CLASSES, Sample, read_classes, read_samples
from trainer.errors import UserError, one_line


class WebDatasetSource(EncodedSource):
    """The samples of all shards, in the order of the shards' names and, within a shard, of the tar file."""

    def __init__(self, shards: tuple[Path, ...], notes: tuple[str, ...] = ()) -> None:
        """Raises UserError, naming shard and sample, for what is not an uncompressed tar of such samples."""
        self._shards = shards
        _require_different(shards)
        self._states = [_state(os.stat(shard)) for shard in shards]
        samples = [sample for number, shard in enumerate(shards) for sample in read_samples(number, shard)]
        if not samples:
            raise UserError(f"{shards[0]}: {_count(len(shards))} without an image: give shards of .jpg and .cls files")
        self._where = np.array([(sample.shard, sample.offset, sample.size) for sample in samples], np.int64)
        self._keys = [sample.key for sample in samples]
        self._encodings = np.array([sample.encoding for sample in samples])
        labels = np.array([sample.label for sample in samples], np.int64)
        folder = shards[0].absolute().parent
        super().__init__(
            labels=labels,
            classes=read_classes(folder / CLASSES, int(labels.max()) + 1),
            name=one_line(in_utf8(f"{folder.name}, {_count(len(shards))} from {shards[0].name}")),
            stamp=Stamp.of(folder / f".{shards[0].stem}{STAMP}", _files(samples, shards, self._states), labels),
            notes=notes,
        )

    remedy = "write the shard again without it"

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


def _files(
    samples: list[Sample], shards: tuple[Path, ...], states: list[tuple[int, int]]
) -> Iterator[tuple[str, int, int]]:
    """Each shard with its length and time, then each sample with its place."""
    for shard, state in zip(shards, states, strict=True):
        yield shard.name, *state
    for sample in samples:
        yield f"{sample.key}.{sample.encoding}", sample.offset, sample.size


def _require_different(shards: tuple[Path, ...]) -> None:
    """Raises UserError if two shards are one file, by a link: each of its images would be trained on twice."""
    seen: dict[Path, Path] = {}
    for shard in shards:
        if (other := seen.setdefault(shard.resolve(), shard)) != shard:
            raise UserError(f"{shard} and {other} are one file, by a link: remove the link")


def _state(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns


def _count(shards: int) -> str:
    return "1 shard" if shards == 1 else f"{shards:,} shards"
