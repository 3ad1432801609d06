"""A CSV or TSV file with one image per line: its path and its class, perhaps its split."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer.data.beton.manifest import DataOrigin, Manifest
from trainer.data.beton.prepare import write_splits
from trainer.data.formats import FOLDERS
from trainer.data.images import EXTENSIONS
from trainer.data.sources.options import SplitOptions
from trainer.data.sources.splits import of_files, sorted_classes, splits_of
from trainer.errors import UserError, counted, one_line
from trainer.process.regular import require_regular

PATHS = ("path", "file", "filename", "file_name", "filepath", "image", "image_path")  # names of the columns
LABELS = ("label", "class", "class_name", "classname", "category", "target")
SPLITS = ("split", "subset", "set")


@dataclass(frozen=True, kw_only=True)
class CsvOptions(SplitOptions):
    """How to store the images, and what the columns of the file are."""

    val: Path | None = None
    """a second file with the validation images; None: the column split says which they are, or --val-fraction"""
    root: Path | None = None
    """folder that the paths are relative to; None: that of the file"""
    path_column: str | None = None
    """column of the image's path; None: the one called path, file, filename or image"""
    label_column: str | None = None
    """column of the class, a name or a number; None: the one called label, class, category or target"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.val and self.val_fraction is not None:
            raise UserError("--val and --val-fraction both say what to validate on: give one of them")


@dataclass(frozen=True)
class _Line:
    path: Path
    name: str
    label: str
    split: str


def prepare(src: Path, out: Path, options: CsvOptions) -> dict[str, Manifest]:
    """Converts the images that SRC lists to OUT/train.beton and OUT/val.beton, in the order of the lines.

    Classes are sorted: as numbers where all are numbers, else as text. Raises UserError, naming the line, for what is
    not a list of images.
    """
    lines = _read(src, options)
    if unused := [line for line in lines if line.split == "test" or (options.val and line.split == "val")]:
        splits = " and ".join(sorted({line.split for line in unused}))
        print(f"left out {counted(len(unused), 'image')} of split {splits}, such as {one_line(unused[0].name)}")
    validation: list[_Line] | None = None
    if options.val:
        validation = _of_split(_read(options.val, options), "val")
    elif any(line.split for line in lines):
        validation = _of_split(lines, "val")
        if not validation and options.val_fraction is not None:
            validation = None  # they are drawn from the training images
    lines = _of_split(lines, "train")
    for which, found in (("training", lines), ("validation", validation)):
        if found is not None and not found:
            raise UserError(f"{options.val if options.val and found is validation else src} lists no {which} images")
    everything = [*lines, *(validation or ())]
    _require_one_class_each(src, everything)
    classes, labels = sorted_classes([line.label for line in everything])
    listed = of_files([line.path for line in everything], labels, [line.name for line in everything])
    train = listed.only(np.arange(len(lines)))
    val = listed.only(np.arange(len(lines), len(everything))) if validation is not None else None
    origin = DataOrigin(kind="csv", name=src.name)
    return write_splits(out, splits_of(train, val, classes, origin, options), options)


def _read(path: Path, options: CsvOptions) -> list[_Line]:
    require_regular(path)
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            delimiter = next((mark for mark in "\t;" if mark in first and (mark == "\t" or "," not in first)), ",")
            rows = [(number, row) for number, row in enumerate(csv.reader(file, delimiter=delimiter), 1) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as CSV or TSV in UTF-8: {error}") from error
    if not rows:
        raise UserError(f"{path} is empty: write a path and a label on each line")
    path_column, label_column, split_column, has_header = _columns(path, rows[0][1], options)
    folder = options.root or path.parent
    lines = []
    for number, row in rows[has_header:]:
        if len(row) != len(rows[0][1]):
            raise UserError(f"{path}, line {number}: {len(row)} columns instead of {len(rows[0][1])}")
        name, label = row[path_column].strip(), row[label_column].strip()
        if not name or not label:
            raise UserError(f"{path}, line {number}: the path or the label is empty")
        split = _split(path, number, row[split_column]) if split_column is not None else ""
        lines.append(_Line(folder / name, name, label, split))
    marked, unmarked = [line for line in lines if line.split], [line for line in lines if not line.split]
    if marked and unmarked:
        raise UserError(
            f"{path}: {unmarked[0].name} has no split, but {marked[0].name} has one: write train, val or test"
        )
    return lines


def _of_split(lines: Sequence[_Line], split: str) -> list[_Line]:
    """The lines of this split, and those of a file that has no column of splits."""
    return [line for line in lines if line.split in (split, "")]


def _columns(path: Path, header: Sequence[str], options: CsvOptions) -> tuple[int, int, int | None, bool]:
    """Where path, label and split are, and whether the first line names them."""
    names = [name.strip() for name in header]
    places = []
    for given, known in ((options.path_column, PATHS), (options.label_column, LABELS), (None, SPLITS)):
        if given is not None and given not in names:
            raise UserError(f"{path} has no column {given!r}: its first line is {', '.join(names)}")
        found = [place for place, name in enumerate(names) if name == given or (not given and name.lower() in known)]
        if len(found) > 1:
            raise UserError(
                f"{path} has the columns {' and '.join(names[place] for place in found)}: choose with --path-column "
                f"and --label-column"
            )
        places.append(found[0] if found else None)
    paths, labels, splits = places
    if paths is not None and labels is not None:
        return paths, labels, splits, True
    if len(names) == 2 and names[0].lower().endswith(EXTENSIONS):
        return 0, 1, None, False
    raise UserError(
        f"{path}: its first line, {', '.join(names)}, does not name the columns path and label: pass --path-column and "
        f"--label-column"
    )


def _split(path: Path, number: int, text: str) -> str:
    name = text.strip().lower()
    if not name:
        return ""
    for split, names in FOLDERS.items():
        if name in names and name != "test":
            return split
    if name != "test":
        raise UserError(f"{path}, line {number}: the split {text!r} is not train, val or test")
    return "test"


def _require_one_class_each(path: Path, lines: Sequence[_Line]) -> None:
    seen: dict[Path, _Line] = {}
    for line in lines:
        other = seen.setdefault(line.path, line)
        if other.label != line.label:
            raise UserError(f"{path} lists {line.name} with two labels, {other.label} and {line.label}")
        if other is not line:
            raise UserError(f"{path} lists {line.name} twice: remove one of the lines")
