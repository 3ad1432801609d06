"""ImageNet's official files (ILSVRC2012) as they are downloaded: tar files that are read and not unpacked.

ILSVRC2012_img_train.tar holds a tar for each class, ILSVRC2012_img_val.tar holds flat images, and the development kit
has the validation labels. Kaggle's copy has folders instead, and the labels in a CSV file. Labels are WNIDs in the
order of text, as of class folders.
"""

import csv
import io
import re
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from trainer.data.archive import require_end
from trainer.data.beton.manifest import DataOrigin, Manifest
from trainer.data.beton.prepare import IMAGENET, PrepareOptions, show_progress, write_splits
from trainer.data.listing import list_class_folders, require_outside
from trainer.data.sources.ranges import Ranges
from trainer.data.sources.splits import Labelled, both_splits, of_files
from trainer.errors import UserError, counted
from trainer.process.regular import require_regular

TRAIN, VAL, DEVKIT = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12"
TRUTH, META = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"
SYNSETS = "imagenet_2012_validation_synset_labels.txt"
"""one WNID per line for each validation image, as TensorFlow's and Keras' scripts have it: used instead of the kit"""
KAGGLE, SOLUTION = Path("ILSVRC", "Data", "CLS-LOC"), "LOC_val_solution.csv"
"""where Kaggle's copy (imagenet-object-localization-challenge) has its images, and the labels of the flat folder val"""
_WNID = re.compile(r"n\d{8}")
_VAL_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")
_FROM = "image-net.org, ILSVRC2012, after registration"
_AGAIN = f"download it again from {_FROM}"


class _Split(NamedTuple):
    wnids: list[str]  # of each image
    names: list[str]
    read: Ranges | list[Path]


def prepare(src: Path, out: Path, options: PrepareOptions = IMAGENET) -> dict[str, Manifest]:
    """Converts ImageNet's official files, the folders train and val that they unpack to, or Kaggle's.

    Raises UserError, naming each missing file and where it comes from, and where the files do not fit one another.
    """
    images = src / KAGGLE if (src / KAGGLE).is_dir() else src
    _require_all_there(src, images)
    val_wnids = _val_wnids(src) if _is_flat(images) else None
    val = _flat(images, val_wnids) if val_wnids else _folders(images / "val", out)
    train = _train_tar(images / TRAIN) if (images / TRAIN).exists() else _folders(images / "train", out)
    classes = sorted(set(train.wnids))
    for missing, where, other in (
        (set(val.wnids) - set(classes), "validation", "training"),
        (set(classes) - set(val.wnids), "training", "validation"),
    ):
        if missing:
            raise UserError(
                f"{src}: {counted(len(missing), 'class')} with {where} images and no {other} images, such as "
                f"{min(missing)}: is a download incomplete?"
            )
    origin = DataOrigin(kind="imagenet", name=src.resolve().name)
    splits = both_splits(_labelled(train, classes), _labelled(val, classes), classes, origin, options)
    return write_splits(out, splits, options)


def _require_all_there(src: Path, images: Path) -> None:
    """Raises UserError with all that is missing, and for what is no regular file, before anything is read."""
    missing = []
    if not (images / TRAIN).exists() and not (images / "train").is_dir():
        missing.append(f"{TRAIN} (or the folder train)")
    if not (images / VAL).exists() and not (images / "val").is_dir():
        missing.append(f"{VAL} (or the folder val)")
    kits = (f"{DEVKIT}.tar.gz", DEVKIT, SYNSETS, SOLUTION)
    if _is_flat(images) and not any((src / name).exists() for name in kits):
        missing.append(f"{DEVKIT}.tar.gz (the labels of the validation images)")
    if missing:
        raise UserError(f"{src} lacks {', '.join(missing)}: download from {_FROM}, and put it there as it is")
    kit = src / DEVKIT / "data"
    for path in (images / TRAIN, images / VAL, kit / META, kit / TRUTH, *(src / name for name in kits)):
        require_regular(path)


def _is_flat(src: Path) -> bool:
    """Whether the validation images have no class folders: then the labels come from the development kit."""
    return (src / VAL).exists() or not any(_WNID.fullmatch(path.name) for path in (src / "val").glob("n*"))


def _train_tar(path: Path) -> _Split:
    """Where the images lie in a tar of tars: headers are read, the images are not."""
    wnids: list[str] = []
    names: list[str] = []
    where = []
    try:
        with tarfile.open(path, "r:") as outer:
            classes = [member for member in outer if member.isfile()]
            require_end(outer, path, _AGAIN)
            with show_progress(f"index of {path.name}", len(classes), "classes") as show:
                for number, member in enumerate(classes):
                    wnid = Path(member.name).name.removesuffix(".tar")
                    if not _WNID.fullmatch(wnid):
                        raise UserError(f"{path} holds {member.name!r}, and not one tar file for each class")
                    for name, offset, size in _members(outer.extractfile(member), f"{path}, {member.name}"):
                        wnids.append(wnid)
                        names.append(name)
                        where.append((0, member.offset_data + offset, size))
                    show(number + 1)
    except tarfile.TarError as error:
        raise UserError(f"{path} is not a whole tar file ({error}): {_AGAIN}") from error
    return _Split(wnids, names, Ranges([path], np.array(where, np.int64).reshape(-1, 3)))


def _members(file: IO[bytes] | None, archive: object) -> Iterator[tuple[str, int, int]]:
    """Name, first byte and size of each file in a tar file, which messages call `archive`."""
    assert file is not None
    with tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
            if member.isfile():
                yield Path(member.name).name, member.offset_data, member.size
        require_end(tar, archive, _AGAIN)


def _flat(src: Path, wnids: list[str]) -> _Split:
    """The flat validation images, each with the WNID of its number."""
    if (path := src / VAL).exists():
        try:
            with open(path, "rb") as file:
                members = sorted(_members(file, path))
        except tarfile.TarError as error:
            raise UserError(f"{path} is not a whole tar file ({error}): {_AGAIN}") from error
        names = [name for name, _, _ in members]
        where = [(0, offset, size) for _, offset, size in members]
        read: Ranges | list[Path] = Ranges([path], np.array(where, np.int64).reshape(-1, 3))
    else:
        path = src / "val"
        names = sorted(file.name for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
        read = [path / name for name in names]
    numbers = [int(found[1]) if (found := _VAL_NAME.fullmatch(name)) else 0 for name in names]
    if numbers != list(range(1, len(wnids) + 1)):
        raise UserError(
            f"{path} holds {len(names):,} files, and not the {len(wnids):,} images ILSVRC2012_val_00000001.JPEG to "
            f"{len(wnids):08} that the labels are of: {_AGAIN}"
        )
    return _Split(wnids, names, read)


def _folders(folder: Path, out: Path) -> _Split:
    require_outside(out, folder)
    listed = list_class_folders(folder)
    for note in listed.notes:
        print(note)
    paths = [folder / name for name in listed.files]
    return _Split([listed.classes[label] for label in listed.labels], [path.name for path in paths], paths)


def _val_wnids(src: Path) -> list[str]:
    """The WNID of each validation image, by its number."""
    if (path := src / SYNSETS).exists():
        wnids = path.read_text(encoding="utf-8", errors="replace").split()
        if wrong := [wnid for wnid in wnids if not _WNID.fullmatch(wnid)]:
            raise UserError(f"{path} holds {wrong[0]!r}, and not one WNID per line, such as n01440764")
        return wnids
    if (path := src / SOLUTION).exists():
        return _of_kaggle(path)
    kit = {name: _of_devkit(src, name) for name in (META, TRUTH)}
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise UserError(
            f"{META} of the development kit is read by scipy: pip install scipy, or put {SYNSETS} into {src}"
        ) from error
    try:
        synsets = loadmat(io.BytesIO(kit[META]), squeeze_me=True)["synsets"]
        leaves = {
            int(number): str(wnid)
            for number, wnid, children in zip(
                *(np.atleast_1d(synsets[name]) for name in ("ILSVRC2012_ID", "WNID", "num_children")), strict=True
            )
            if children == 0
        }
        return [leaves[int(number)] for number in kit[TRUTH].split()]
    except Exception as error:  # a damaged file may raise anything
        raise UserError(f"{src}: the development kit's {META} and {TRUTH} do not fit together: {error!r}") from error


def _of_kaggle(path: Path) -> list[str]:
    """The WNIDs in Kaggle's table of ImageId and PredictionString: ILSVRC2012_val_00000001,n01440764 85 1 499 272."""
    found: dict[int, str] = {}
    try:
        with open(path, encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                number, wnid = _VAL_NAME.fullmatch(f"{row['ImageId']}.JPEG"), row["PredictionString"].split()[0]
                if not number or not _WNID.fullmatch(wnid):
                    raise ValueError(f"{row['ImageId']!r}, {row['PredictionString']!r}")
                found[int(number[1])] = wnid
    except Exception as error:  # a damaged file may raise anything
        raise UserError(f"{path} is not Kaggle's table of validation labels: {error!r}: download it again") from error
    if sorted(found) != list(range(1, len(found) + 1)):
        raise UserError(f"{path} has {len(found):,} images, up to number {max(found, default=0):,}: download it again")
    return [found[number] for number in sorted(found)]


def _of_devkit(src: Path, name: str) -> bytes:
    """A file of the development kit, from its folder or its archive."""
    path = src / DEVKIT / "data" / name
    try:
        if path.exists():
            return path.read_bytes()
        path = src / f"{DEVKIT}.tar.gz"
        with tarfile.open(path, "r:gz") as tar:
            found = [member for member in tar if Path(member.name).name == name and member.isfile()]
            require_end(tar, path, _AGAIN)  # where gzip's checksum is
            if found and (file := tar.extractfile(found[0])):
                return file.read()
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise UserError(f"{path} cannot be read ({error}): {_AGAIN}") from error
    raise UserError(f"{path} has no {name}: {_AGAIN}")


def _labelled(split: _Split, classes: list[str]) -> Labelled:
    labels = {wnid: label for label, wnid in enumerate(classes)}
    numbers = np.array([labels[wnid] for wnid in split.wnids], np.int64)
    names = [f"{wnid}/{name}" for wnid, name in zip(split.wnids, split.names, strict=True)]
    if isinstance(split.read, Ranges):
        found = Labelled(labels=numbers, names=names, read=split.read.read, stamp=split.read.stamp)
    else:
        found = of_files(split.read, numbers, names)
    return found.only(np.array(sorted(range(len(found)), key=found.names.__getitem__)))  # as of class folders
