"""Parquet files as Hugging Face's data sets have them: a column of encoded images, and one of classes."""

import contextlib
import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.beton.journal import file_stamp
from trainer.data.beton.manifest import DataOrigin, Manifest
from trainer.data.beton.prepare import write_splits
from trainer.data.images import read_bytes, reason
from trainer.data.listing import composed
from trainer.data.sources.files import split_files
from trainer.data.sources.options import FilesOptions
from trainer.data.sources.splits import Labelled, sorted_classes, splits_of
from trainer.errors import NOT_JSON, UserError, counted


@dataclass(frozen=True, kw_only=True)
class ParquetOptions(FilesOptions):
    """How to store the images, and which columns hold them."""

    image_column: str | None = None
    """None: the only column of images"""
    label_column: str | None = None
    """None: the only column of classes, or the one called label"""


@dataclass(frozen=True)
class _Columns:
    image: str
    label: str
    classes: list[str] | None  # None: the file does not name them


def prepare(patterns: Sequence[str], out: Path, options: ParquetOptions) -> dict[str, Manifest]:
    """Converts the rows of parquet files to OUT/train.beton and OUT/val.beton, in the order of files and rows.

    An image is a struct of `bytes` and `path`, or the bytes alone, or a path relative to the file. A row group at a
    time is in memory, in each process. Raises UserError for files that are not such.
    """
    if options.shuffle:
        raise UserError(
            "--shuffle would read a whole row group of a parquet file for each image: leave out --shuffle, or convert "
            "the files to WebDataset shards or class folders first"
        )
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise UserError(f"parquet needs pyarrow: pip install pyarrow ({error})") from error
    train_files, val_files = split_files(patterns, ".parquet", options)
    columns = _columns(train_files[0], options)
    found = [_Rows(files, columns) for files in (train_files, val_files) if files]
    values = np.concatenate([rows.values for rows in found])
    if columns.classes is None:
        classes, labels = sorted_classes([str(value) for value in values])
    else:
        classes, labels = columns.classes, values.astype(np.int64)
        if labels.min() < 0 or labels.max() >= len(classes):
            raise UserError(
                f"{train_files[0]}: labels are {labels.min()} to {labels.max()}, not 0 to {len(classes) - 1}: are "
                f"these test images without labels?"
            )
    everything = np.split(labels, [len(found[0].values)])
    train, *val = (
        Labelled(labels=part, names=rows.names, read=rows.read, stamp=rows.stamp)
        for part, rows in zip(everything, found, strict=False)  # the second part is empty without validation files
    )
    origin = DataOrigin(kind="parquet", name=train_files[0].absolute().parent.name)
    return write_splits(out, splits_of(train, val[0] if val else None, classes, origin, options), options)


class _Rows:
    """The rows of some files. Labels are read at the start, images when they are wanted."""

    def __init__(self, files: Sequence[Path], columns: _Columns) -> None:
        self._files, self._columns = files, columns
        self._groups: list[tuple[Path, int]] = []  # file, number of the row group in it
        self._starts: list[int] = []  # the first row of each group, over all files
        self.names: list[str] = []
        self._held: tuple[int, Any] = (-1, None)  # the group that is in memory
        self._paths: tuple[int, list[str | None]] = (-1, [])  # a group, and the paths in it
        values = []
        for file in files:
            opened = _open(file)
            if missing := {columns.image, columns.label} - set(opened.schema_arrow.names):
                raise UserError(f"{file} has no column {missing.pop()!r}, unlike the first file")
            names = _class_names(_features(opened.schema_arrow), columns.label)
            if names and names != columns.classes:
                raise UserError(
                    f"{file} {_difference(names, columns.classes)} in the first file: write all files with the same "
                    f"ClassLabel"
                )
            for group in range(opened.num_row_groups):
                self._starts.append(len(self.names))
                self._groups.append((file, group))
                count = opened.metadata.row_group(group).num_rows
                first = len(self.names) - self._starts[len(self._starts) - group - 1]
                self.names += [f"{file.name}[{row}]" for row in range(first, first + count)]
            with _damage_named(file):
                column = opened.read([columns.label], use_threads=False)[columns.label]
            if column.null_count:
                raise UserError(
                    f"{file}: {counted(column.null_count, 'row')} without {columns.label}: every image needs one"
                )
            values.append(column.to_numpy())
            if columns.classes is not None and values[-1].dtype.kind not in "biu":
                raise UserError(
                    f"{file}: {columns.label} holds {column.type}, but the metadata names the classes: write their "
                    f"numbers as integers, or leave out the metadata"
                )
        if not self.names:
            raise UserError(f"{files[0]} holds no rows")
        self.values = np.concatenate(values)

    def stamp(self, image: int) -> int:
        """Changes with the parquet file, and with the file at the row's path where it may hold the image."""
        number = bisect_right(self._starts, image) - 1
        file, group = self._groups[number]
        if self._paths[0] != number:
            with _damage_named(file):
                self._paths = number, _paths(_open(file), group, self._columns.image)
        path = self._paths[1][image - self._starts[number]] if self._paths[1] else None
        return file_stamp(file) ^ (file_stamp(file.parent / path) if path else 0)

    def read(self, image: int) -> bytes:
        number = bisect_right(self._starts, image) - 1
        file, group = self._groups[number]
        if self._held[0] != number:
            table = _open(file).read_row_group(group, [self._columns.image], use_threads=False)
            self._held = number, table[self._columns.image]
        value = self._held[1][image - self._starts[number]].as_py()
        stored, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, value)
        if isinstance(stored, bytes):
            return stored
        if not isinstance(path, str):
            raise ValueError("the row holds neither bytes nor a path")
        return read_bytes(file.parent / path)


def _open(file: Path) -> Any:
    from pyarrow import parquet

    with _damage_named(file):
        return parquet.ParquetFile(file, pre_buffer=False)  # without threads, which a forked process would lack


@contextlib.contextmanager
def _damage_named(file: Path) -> Iterator[None]:
    """Raises UserError if the file cannot be read."""
    from pyarrow import ArrowException

    try:
        yield
    except (ArrowException, OSError) as error:
        raise UserError(f"{file} is not a whole parquet file: {reason(error)}") from error


def _paths(opened: Any, group: int, column: str) -> list[str | None]:
    """The paths in a row group, read without its images; empty if all of these are bytes."""
    from pyarrow import types

    kind = opened.schema_arrow.field(column).type
    if types.is_struct(kind):
        row_group = opened.metadata.row_group(group)
        for leaf in map(row_group.column, range(row_group.num_columns)):
            known = leaf.path_in_schema == f"{column}.bytes" and leaf.statistics
            if known and known.has_null_count and known.null_count == 0:
                return []
        if kind.get_field_index("path") < 0:
            return []
        rows = opened.read_row_group(group, [f"{column}.path"], use_threads=False)[column].to_pylist()
        values = [row and row["path"] for row in rows]
    elif "binary" in str(kind):
        return []
    else:
        values = opened.read_row_group(group, [column], use_threads=False)[column].to_pylist()
    return [value if isinstance(value, str) else None for value in values]


def _columns(file: Path, options: ParquetOptions) -> _Columns:
    """The columns of images and classes, by Hugging Face's metadata where there is some, else by their types."""
    from pyarrow import types

    schema = _open(file).schema_arrow
    features = _features(schema)
    kinds = {name: feature.get("_type") for name, feature in features.items()}
    images = [name for name in schema.names if kinds.get(name) == "Image"] or [
        field.name for field in schema if types.is_binary(field.type) or types.is_struct(field.type)
    ]
    labels = [name for name in schema.names if kinds.get(name) == "ClassLabel"] or [
        field.name for field in schema if field.name.lower() in ("label", "labels", "class")
    ]
    image = _one(file, schema.names, images, options.image_column, "image")
    label = _one(file, schema.names, labels, options.label_column, "label")
    return _Columns(image, label, _class_names(features, label))


def _features(schema: Any) -> dict[str, dict[str, Any]]:
    """What Hugging Face's metadata says of each column; nothing if there is none, or none that can be read."""
    found: Any = None
    with contextlib.suppress(*NOT_JSON, AttributeError):
        found = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    features = found.items() if isinstance(found, dict) else ()
    return {name: feature for name, feature in features if isinstance(feature, dict)}


def _class_names(features: dict[str, dict[str, Any]], label: str) -> list[str] | None:
    feature = features.get(label, {})
    names = feature.get("names") if feature.get("_type") == "ClassLabel" else None
    return [composed(str(name)) for name in names] if names else None


def _difference(names: list[str], others: list[str] | None) -> str:
    """The first class in which both differ."""
    if others is None:
        return "names its classes, which have no names"
    pairs = enumerate(zip_longest(map(repr, names), map(repr, others), fillvalue="not there"))
    index, (name, other) = next((index, pair) for index, pair in pairs if pair[0] != pair[1])
    return f"has other classes: class {index} is {name} here and {other}"


def _one(file: Path, known: Sequence[str], found: Sequence[str], given: str | None, kind: str) -> str:
    if given is not None:
        if given not in known:
            raise UserError(f"{file} has no column {given!r}: it has {', '.join(known)}")
        return given
    if len(found) != 1:
        which = f"several {kind} columns, {', '.join(found)}" if found else f"no {kind} column among {', '.join(known)}"
        raise UserError(f"{file} has {which}: choose one with --{kind}-column")
    return found[0]
