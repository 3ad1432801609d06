"""WebDataset shards: each sample an image and the number of its class, in an uncompressed tar file."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trainer.data.beton.manifest import DataOrigin, Manifest
from trainer.data.beton.prepare import show_progress, write_splits
from trainer.data.shards import CLASSES, Sample, read_classes, read_samples
from trainer.data.sources.files import split_files
from trainer.data.sources.options import FilesOptions
from trainer.data.sources.ranges import Ranges
from trainer.data.sources.splits import Labelled, splits_of
from trainer.errors import UserError


def prepare(patterns: Sequence[str], out: Path, options: FilesOptions) -> dict[str, Manifest]:
    """Converts the samples of shards to OUT/train.beton and OUT/val.beton, in the order of the shards.

    Nothing is unpacked. `patterns`: see files.expand. Raises UserError, naming shard and sample, for what is not such a
    shard.
    """
    train_files, val_files = split_files(patterns, ".tar", options)
    train = _read(train_files)
    val = _read(val_files) if val_files else None
    count = 1 + max(int(found.labels.max()) for found in (train, val) if found)
    classes = read_classes(train_files[0].absolute().parent / CLASSES, count)
    origin = DataOrigin(kind="webdataset", name=train_files[0].absolute().parent.name)
    return write_splits(out, splits_of(train, val, classes, origin, options), options)


def _read(shards: Sequence[Path]) -> Labelled:
    samples: list[Sample] = []
    with show_progress("index", len(shards), "shards") as show:
        for number, shard in enumerate(shards):
            samples += read_samples(number, shard)
            show(number + 1)
    if not samples:
        raise UserError(f"{shards[0]}: no shard holds an image: give shards of .jpg and .cls files")
    ranges = Ranges(shards, np.array([(sample.shard, sample.offset, sample.size) for sample in samples], np.int64))
    return Labelled(
        labels=np.array([sample.label for sample in samples], np.int64),
        names=[f"{shards[sample.shard].name}: {sample.key}.{sample.encoding}" for sample in samples],
        read=ranges.read,
        stamp=ranges.stamp,
    )
