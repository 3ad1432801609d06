"""The data formats: what lies in a folder, and the Source that reads it. Nothing else tells formats apart.

A new format is its own file with a Source, a class in Found that _in_folder returns, and a `case` in _open, which mypy
asks for.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainer.data.loader import Contents, Source
from trainer.data.synthetic import SyntheticSource
from trainer.errors import UserError

Split = Literal["train", "val"]
FOLDERS: dict[str, tuple[str, ...]] = {"val": ("val", "validation", "test"), "train": ("train",)}
"""common names of a split, for folders and shards, the preferred one first"""
SYNTHETIC = "synthetic:"  # --data synthetic:50000


@dataclass(frozen=True)
class Synthetic:
    count: int


@dataclass(frozen=True)
class Beton:
    file: Path


@dataclass(frozen=True)
class WebDataset:
    shards: tuple[Path, ...]


@dataclass(frozen=True)
class ClassFolders:
    folder: Path


Found = Synthetic | Beton | WebDataset | ClassFolders


def open_source(data: str, split: Split, *, num_classes: int, resolution: int, check_content: bool = True) -> Source:
    """Opens a split of the folder `data` for training.

    `check_content`: compare every byte with the manifest's checksum, if that has not been done yet.
    Raises UserError if there are no images, if they are damaged, or if they have a different number of classes.
    """
    source = _open(find(data, split), num_classes, resolution, check_content)
    if len(source.classes) != num_classes:
        source.close()
        raise UserError(
            f"the recipe has num_classes={num_classes}, but {split} in {data} has {len(source.classes)} classes: "
            f"use --num-classes {len(source.classes)}, or other data"
        )
    return source


def open_dataset(data: str, split: Split, *, num_classes: int, resolution: int, check_content: bool = True) -> Source:
    """Opens `data` outside training: also a single file, or a folder without splits (see find_dataset).

    `num_classes` and `resolution` (px) apply to synthetic:COUNT; other images have as many classes as they have.
    `check_content`: see open_source. Raises UserError if there are no images, or if they are damaged.
    """
    return _open(find_dataset(data, split), num_classes, resolution, check_content)


def find(data: str, split: Split) -> Found:
    """The split in the folder `data`: DATA/train.beton, then DATA/*train*.tar and DATA/train/*.tar, then the class
    folders below DATA/train/. Raises UserError if there is none of them."""
    if data.startswith(SYNTHETIC):
        count = data.removeprefix(SYNTHETIC)
        if not count.isdecimal() or not int(count):
            raise UserError(f"--data {data} names no number of images: write synthetic:50000")
        return Synthetic(int(count) if split == "train" else max(1, int(count) // 10))
    if found := _in_folder(Path(data), split):
        return found
    raise UserError(
        f"--data {data} has neither {split}.beton nor the folder {_folders(split)}: write it with python -m trainer "
        f"prepare, or give WebDataset shards (*{split}*.tar)"
    )


def find_dataset(data: str, split: Split) -> Found:
    """As find, and also: a .beton file, a .tar shard, a folder of class folders, a folder of shards without splits."""
    path = Path(data)
    if data.startswith(SYNTHETIC):
        return find(data, split)
    if path.suffix == ".beton" and not path.is_dir():
        return Beton(path)
    if path.suffix == ".tar" and path.is_file():
        return WebDataset((path,))
    if not path.exists():
        raise UserError(f"{data}: there is no such file or folder")
    if not path.is_dir():
        raise UserError(f"{data} is neither a .beton file nor a folder: write it with python -m trainer prepare")
    found = _in_folder(path, split)
    other_splits = [_in_folder(path, name) for name in FOLDERS if name != split]
    if isinstance(found, ClassFolders) and any(isinstance(other, Beton) for other in other_splits):
        found = None  # what was prepared has only the other split: its class folders may hold different images
    elif found is None and not any(other_splits):
        if shards := sorted(path.glob("*.tar")):
            return WebDataset(tuple(shards))
        if any(entry.is_dir() for entry in path.iterdir()):
            return ClassFolders(path)
    if found is None:
        raise UserError(
            f"{data} has neither {split}.beton nor the folder {_folders(split)} nor shards of {split}, and is no "
            f".beton file or folder of class folders"
        )
    return found


def beton_file(data: str, split: Split) -> Path | None:
    """The .beton file that would be opened; None if the images are in a different format."""
    found = find_dataset(data, split)
    return found.file if isinstance(found, Beton) else None


def _in_folder(folder: Path, split: str) -> Found | None:
    beton = folder / f"{split}.beton"
    if beton.exists():
        return Beton(beton)
    for name in FOLDERS[split]:
        named = re.compile(rf"(.*[^a-z])?{name}([^a-z].*)?\.tar")  # train-0000.tar, imagenet1k-train-0000.tar
        shards = [path for path in folder.glob("*.tar") if named.fullmatch(path.name)]
        if shards := sorted(shards) or sorted((folder / name).glob("*.tar")):
            return WebDataset(tuple(shards))
    for name in FOLDERS[split]:
        if (folder / name).is_dir():
            return ClassFolders(folder / name)
    return None


def _folders(split: Split) -> str:
    return " or ".join(f"{name}/" for name in FOLDERS[split])


def _open(found: Found, num_classes: int, resolution: int, check_content: bool) -> Source:
    match found:
        case Synthetic(count):
            return SyntheticSource(count, num_classes, resolution)
        case Beton(file):
            return open_beton(file, check_content)
        case WebDataset(shards):
            from trainer.data.webdataset import WebDatasetSource

            return WebDatasetSource(shards)
        case ClassFolders(folder):
            from trainer.data.image_folder import ImageFolderSource

            return ImageFolderSource(folder)


def open_beton(path: Path, check_content: bool) -> Source:
    """One .beton file; see open_source. Raises UserError if it is damaged, or if FFCV is not installed."""
    try:
        from trainer.data.beton.source import BetonSource
    except ImportError as error:
        raise UserError(
            f"{path} needs FFCV: pip install 'shortcut-trainer[ffcv]' (or give the folder of the original images)"
        ) from error
    return BetonSource(path, check_content)


def read_contents(found: Found, *, most_opened: int) -> Contents:
    """What a split holds, without decoding an image: see Source.contents. Needs no FFCV for a .beton file."""
    if isinstance(found, Beton):
        from trainer.data.beton.index import read_contents as of_beton

        return of_beton(found.file)
    source = _open(found, num_classes=1, resolution=1, check_content=False)
    contents = source.contents(most_opened)
    source.close()
    return contents
