"""The data formats: what lies in a folder, and the Source that reads it. Nothing else tells formats apart.

A new format is its own file with a Source, a class in DataFormat that _in_folder returns, and a `case` in _open, which
mypy asks for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from trainer.data.listing import ClassOrder, class_order_of
from trainer.errors import UserError

if TYPE_CHECKING:  # prepare tells formats apart, and should not wait for torch
    from trainer.data.contents import Contents
    from trainer.data.loader import Source

Split = Literal["train", "val"]
FOLDERS: dict[str, tuple[str, ...]] = {"val": ("val", "validation", "valid"), "train": ("train",)}
"""common names of a split, for folders and shards; a data set has one of them"""
TEST = "test"  # used for validation if there are no validation images; the log says so
SYNTHETIC = "synthetic:"  # --data synthetic:50000
_DOWNLOADS = frozenset(f"ILSVRC2012_img_{part}.tar" for part in ("train", "val", "test", "train_t3", "test_v10102019"))
"""ImageNet's files as they are downloaded, which are tar files and no shards"""


@dataclass(frozen=True)
class Synthetic:
    count: int


@dataclass(frozen=True)
class Beton:
    file: Path


@dataclass(frozen=True)
class WebDataset:
    shards: tuple[Path, ...]
    notes: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class ClassFolders:
    folder: Path
    notes: tuple[str, ...] = field(default=(), compare=False)


DataFormat = Synthetic | Beton | WebDataset | ClassFolders
"""where the images of one split lie, and in which format"""


def open_source(
    data: str,
    split: Split,
    *,
    num_classes: int,
    resolution: int,
    check_content: bool = True,
    class_order: ClassOrder | None = None,
) -> Source:
    """Opens a split of the folder `data` for training; see open_split.

    Raises UserError if it has a different number of classes.
    """
    source = open_split(
        data,
        split,
        num_classes=num_classes,
        resolution=resolution,
        check_content=check_content,
        class_order=class_order,
    )
    require_classes(source, data, num_classes)
    return source


def open_split(
    data: str,
    split: Split,
    *,
    num_classes: int,
    resolution: int,
    check_content: bool = True,
    class_order: ClassOrder | None = None,
    like: Sequence[str] | None = None,
) -> Source:
    """Opens a split of the folder `data`, whatever its classes. `num_classes` and `resolution` are of synthetic:COUNT.

    `check_content`: compare every byte with the manifest's checksum, if that has not been done yet. `class_order`: of
    class folders, None for that of `like`, the classes of weights, or text; other formats store their order. Raises
    UserError if there are no images, or if they are damaged.
    """
    return _open(find_split(data, split), num_classes, resolution, check_content, class_order, like)


def require_classes(source: Source, data: str, num_classes: int) -> None:
    """Closes the source and raises UserError where it has a different number of classes than the recipe."""
    if len(source.classes) != num_classes:
        source.close()
        raise UserError(
            f"the recipe has num_classes={num_classes}, but {data} has {len(source.classes)} classes: "
            f"use --num-classes {len(source.classes)}, or other data"
        )


def open_dataset(
    data: str,
    split: Split,
    *,
    num_classes: int,
    resolution: int,
    check_content: bool = True,
    class_order: ClassOrder | None = None,
    like: Sequence[str] | None = None,
) -> Source:
    """Opens `data` outside training: also a single file, or a folder without splits (see find_dataset).

    `num_classes` and `resolution` (px) apply to synthetic:COUNT; other images have as many classes as they have.
    `check_content`, `class_order`, `like`: see open_split. Raises UserError if there are no images, or if they are
    damaged.
    """
    return _open(find_dataset(data, split), num_classes, resolution, check_content, class_order, like)


def find_split(data: str, split: Split) -> DataFormat:
    """Finds the images of a split in the folder `data`.

    DATA/train.beton comes first, then DATA/*train*.tar and DATA/train/*.tar, then the class folders below DATA/train/.
    Raises UserError if there is none of them.
    """
    if data.startswith(SYNTHETIC):
        count = data.removeprefix(SYNTHETIC)
        if not count.isdecimal() or len(count) > 9 or not int(count):
            raise UserError(f"--data {data:.60} names no number of images below a billion: write synthetic:50000")
        return Synthetic(int(count) if split == "train" else max(1, int(count) // 10))
    if found := _unmixed(Path(data), split):
        return found
    _refuse_downloads(Path(data))
    raise UserError(
        f"--data {data} has neither {split}.beton nor the folder {_folders(split)}: write it with python -m trainer "
        f"prepare, or give WebDataset shards ({split}-000000.tar, ...)"
    )


def find_dataset(data: str, split: Split) -> DataFormat:
    """Finds what find_split does, or a .beton file, a .tar shard, or class folders or shards without splits."""
    path = Path(data)
    if data.startswith(SYNTHETIC):
        return find_split(data, split)
    if path.suffix in (".beton", ".ffcv") and not path.is_dir():
        return Beton(path)
    if path.suffix == ".tar" and path.is_file():
        return WebDataset((path,))
    if not path.exists():
        raise UserError(f"{data}: there is no such file or folder")
    if not path.is_dir():
        raise UserError(f"{data} is neither a .beton file nor a folder: write it with python -m trainer prepare")
    found = _unmixed(path, split)
    if found is None and not any(_in_folder(path, name) for name in FOLDERS if name != split):
        if shards := _tars(path):
            return WebDataset(tuple(shards))
        if any(entry.is_dir() for entry in path.iterdir()):
            return ClassFolders(path)
    if found is None:
        _refuse_downloads(path)
        raise UserError(
            f"{data} has neither {split}.beton nor the folder {_folders(split)} nor shards of {split}, and is no "
            f".beton file or folder of class folders"
        )
    return found


def class_folders(data: Path, split: str) -> ClassFolders:
    """Finds the class folders of a split, whatever else lies in `data`. Raises UserError if there are none."""
    found: DataFormat | None = _class_folders(data, split, FOLDERS[split])
    if found is None and split == "val" and (test := _class_folders(data, split, (TEST,))):
        found = _for_validation(test, data)
    if not isinstance(found, ClassFolders):
        raise UserError(f"{data} has no folder {' or '.join(FOLDERS[split])} with one folder for each class")
    return found


def beton_file(data: str, split: Split) -> Path | None:
    """Returns the .beton file that would be opened; None if the images are in a different format."""
    found = find_dataset(data, split)
    return found.file if isinstance(found, Beton) else None


def _in_folder(folder: Path, split: str) -> DataFormat | None:
    for beton in (folder / f"{split}.beton", folder / f"{split}.ffcv"):
        if beton.exists():
            return Beton(beton)
    if found := _shards(folder, split, FOLDERS[split]) or _class_folders(folder, split, FOLDERS[split]):
        return found
    if split == "val" and (fallback := _shards(folder, split, (TEST,)) or _class_folders(folder, split, (TEST,))):
        return _for_validation(fallback, folder)
    return None


def _unmixed(folder: Path, split: str) -> DataFormat | None:
    """What _in_folder finds. Raises UserError for class folders or shards where the other split was prepared: they may
    hold other images."""
    found = _in_folder(folder, split)
    if found is None or isinstance(found, Beton):
        return found
    for other in FOLDERS:
        if other != split and isinstance(prepared := _in_folder(folder, other), Beton):
            raise UserError(
                f"{folder} has {prepared.file.name}, but no {split}.beton: was prepare interrupted? Give its command "
                f"again, or move {prepared.file.name} away"
            )
    return found


def _for_validation(test: WebDataset | ClassFolders, folder: Path) -> WebDataset | ClassFolders:
    note = f"{folder}: the images of {TEST} are used for validation, because none are named {_listed('val')}"
    return replace(test, notes=(note,))


def _shards(folder: Path, split: str, names: tuple[str, ...]) -> WebDataset | None:
    found = {}
    for name in names:
        named = re.compile(rf"(.*[^a-z])?{name}([^a-z].*)?\.tar")  # train-0000.tar, imagenet1k-train-0000.tar
        shards = [path for path in _tars(folder) if named.fullmatch(path.name)]
        if shards := shards or _tars(folder / name):
            found[name] = WebDataset(tuple(shards))
    return found[_only(found, folder, split)] if found else None


def _tars(folder: Path) -> list[Path]:
    """The tar files that may be shards: not what macOS adds to archives, nor ImageNet as it is downloaded."""
    return sorted(path for path in folder.glob("[!.]*.tar") if path.name not in _DOWNLOADS)


def _refuse_downloads(folder: Path) -> None:
    """Raises UserError if ImageNet lies as it is downloaded: `prepare imagenet` alone reads that."""
    if any((folder / name).exists() for name in _DOWNLOADS):
        raise UserError(
            f"{folder} has ImageNet's files as they are downloaded: convert them with python -m trainer prepare "
            f"imagenet {folder} --out DIR"
        )


def _class_folders(folder: Path, split: str, names: tuple[str, ...]) -> ClassFolders | None:
    by_target = {(folder / name).resolve(): name for name in reversed(names) if (folder / name).is_dir()}
    found = {name: ClassFolders(folder / name) for name in reversed(by_target.values())}
    return found[_only(found, folder, split)] if found else None


def _only(found: Iterable[str], folder: Path, split: str) -> str:
    """The name of the one that was found. Raises UserError if there are several: none is the obvious choice."""
    first, *others = found
    if others:
        raise UserError(
            f"{folder} has {first} and {' and '.join(others)}: which are the {split} images? Rename or move the other"
        )
    return first


def _folders(split: Split) -> str:
    return " or ".join(f"{name}/" for name in FOLDERS[split])


def _listed(split: str) -> str:
    *names, last = FOLDERS[split]
    return f"{', '.join(names)} or {last}"


def _open(
    dataset: DataFormat,
    num_classes: int,
    resolution: int,
    check_content: bool,
    class_order: ClassOrder | None = None,
    like: Sequence[str] | None = None,
) -> Source:
    if class_order and not isinstance(dataset, ClassFolders):
        raise UserError(
            f"--class-order {class_order} is for class folders, and this is a {type(dataset).__name__}, which stores "
            f"its classes in their order: leave it out, or give it to python -m trainer prepare"
        )
    match dataset:
        case Synthetic(count):
            from trainer.data.synthetic import SyntheticSource

            return SyntheticSource(count, num_classes, resolution)
        case Beton(file):
            return open_beton(file, check_content)
        case WebDataset(shards, notes):
            from trainer.data.webdataset import WebDatasetSource

            return WebDatasetSource(shards, notes)
        case ClassFolders(folder, notes):
            from trainer.data.image_folder import ImageFolderSource

            return ImageFolderSource(folder, class_order or (class_order_of(like) if like else "text"), notes)


def open_beton(path: Path, check_content: bool) -> Source:
    """Opens one .beton file; see open_source. Raises UserError if it is damaged."""
    from trainer.data.beton.source import BetonSource

    return BetonSource(path, check_content)


def read_contents(dataset: DataFormat, *, most_opened: int) -> Contents:
    """Reads what a split holds, without decoding an image: see Source.contents."""
    if isinstance(dataset, Beton):
        from trainer.data.beton.index import read_contents as of_beton

        return of_beton(dataset.file)
    source = _open(dataset, num_classes=1, resolution=1, check_content=False)
    contents = source.contents(most_opened)
    source.close()
    return contents
