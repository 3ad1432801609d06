"""What is prepared: class folders, CIFAR-10 and scikit-learn's digits -> OUT/train.beton and OUT/val.beton.

Each is a list of labelled images; writer.py stores it. Their order depends on nothing but their names. --shuffle
permutes it, always in the same way for the same number of images.
"""

import pickle
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from trainer.data.beton.encoded_image import decoded
from trainer.data.beton.images import Images, shuffled
from trainer.data.beton.journal import Journal, file_stamp
from trainer.data.beton.manifest import DataOrigin, Encoding, Manifest, manifest_path, read_manifest, stamp_path
from trainer.data.beton.pixels import shrink
from trainer.data.beton.placing import shared
from trainer.data.beton.writer import is_complete, journal_of, write_beton
from trainer.data.formats import FOLDERS, class_folders
from trainer.data.images import has_orientation, read_bytes, to_rgb
from trainer.data.listing import (
    ClassOrder,
    class_order_note,
    list_class_folders,
    require_outside,
    require_same_classes,
    require_training_images,
)
from trainer.errors import UserError, counted, rate
from trainer.process.long_task import time_left
from trainer.process.regular import require_regular

SPLITS = FOLDERS  # the small one first: what is wrong shows early
LINE_EVERY = 10.0  # seconds between lines of progress where there is no terminal
SHORTEST = 0.1  # seconds from which a rate is computed


@dataclass(frozen=True, kw_only=True)
class PrepareOptions(Encoding):
    """The defaults are FFCV's for ResNet-50 on ImageNet: 500 px, half of the images as JPEG of quality 90.

    Source: arXiv:2306.12517 and the README of github.com/libffcv/ffcv-imagenet. Its mode `smart` is left out: at its
    default threshold it compresses nothing.
    """

    workers: int | None = None
    """processes that write; None: one per usable CPU"""
    skip_bad: bool = False
    """leave out images that cannot be decoded, print and list them in the manifest; False: the first one is an error"""
    class_order: ClassOrder = "text"
    """of class folders. text: as torchvision's ImageFolder, 0 1 10 2; numeric: by number, 0 1 2 10"""
    apply_exif: bool = False
    """turn images as their EXIF orientation says, which FFCV and torchvision ignore"""
    shuffle: bool = False
    """store the training images in a random order, always the same: for recipes with a quasi-random order"""
    overwrite: bool = False
    """replace a train.beton or val.beton that is already there"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.workers is not None and self.workers < 1:
            raise UserError(f"workers={self.workers} is not 1 or more (or None: one per usable CPU)")


IMAGENET = PrepareOptions()
SMALL_IMAGES = PrepareOptions(write_mode="raw", max_resolution=32)
"""CIFAR-10 and digits: pixels as they are, up to 3 kB an image"""


def prepare_folder(
    src: Path, out: Path, options: PrepareOptions = IMAGENET, kind: Literal["folder", "cifar10"] = "folder"
) -> dict[str, Manifest]:
    """Converts SRC/train/CLASS/... and SRC/val/CLASS/... (or validation, or valid) to .beton files in OUT.

    Classes and images come in the order of torchvision's ImageFolder, and as there EXIF orientation is ignored, unless
    the options say otherwise.
    """
    found = {split: class_folders(src, split) for split in SPLITS}
    for split in SPLITS:
        require_outside(out, found[split].folder)
    if found["train"].folder.resolve() == found["val"].folder.resolve():
        raise UserError(
            f"{found['train'].folder} and {found['val'].folder} are one folder, by a link: remove the link, and draw "
            f"validation images with --val-fraction 0.1"
        )
    listed = {split: list_class_folders(found[split].folder, options.class_order) for split in SPLITS}
    for split in SPLITS:
        for note in (*found[split].notes, *listed[split].notes):
            print(note)
    require_same_classes(src, listed["train"].classes, listed["val"].classes)
    for note in class_order_note(listed["train"].classes):
        print(note)
    splits = {}
    for split, files in listed.items():
        folder = found[split].folder.name
        origin = DataOrigin(
            kind=kind,
            name=src.resolve().name,
            folder=folder,
            class_order=options.class_order,
            exif="applied" if options.apply_exif else "ignored",
        )
        names = [f"{folder}/{file}" for file in files.files]
        splits[split] = _images(files.classes, files.labels, names, origin, options, src)
    return write_splits(out, splits, options)


def prepare_cifar10(src: Path, out: Path, options: PrepareOptions = SMALL_IMAGES) -> dict[str, Manifest]:
    """Converts CIFAR-10: its "python version" (SRC or SRC/cifar-10-batches-py), or folders SRC/train and SRC/test."""
    folder = src / "cifar-10-batches-py" if (src / "cifar-10-batches-py").is_dir() else src
    if not (folder / "batches.meta").exists() and (src / "train").is_dir():
        return prepare_folder(src, out, options, kind="cifar10")
    classes = _unpickle(folder / "batches.meta").get("label_names")
    if not isinstance(classes, list) or not classes or not all(isinstance(name, str) for name in classes):
        raise UserError(f"{folder / 'batches.meta'} has no label_names: it is not CIFAR-10's")
    if options.class_order != "text":
        raise UserError(
            f"--class-order {options.class_order} is for class folders, and {folder} holds CIFAR-10's batches, which "
            f"have their own order: leave it out"
        )
    origin = DataOrigin(kind="cifar10", name=src.resolve().name)
    splits = {}
    for split, batches in (("val", ["test_batch"]), ("train", [f"data_batch_{number}" for number in range(1, 6)])):
        read = [_read_batch(folder / name, len(classes)) for name in batches]
        pixels, labels, names = (np.concatenate(parts) for parts in zip(*read, strict=True))
        splits[split] = _images(classes, labels, names.tolist(), origin, options, pixels)
    return write_splits(out, splits, options)


def prepare_digits(out: Path, options: PrepareOptions = SMALL_IMAGES) -> dict[str, Manifest]:
    """Converts scikit-learn's 1,797 handwritten digits of 8 x 8 px, each pixel drawn as 2 x 2: nothing is lost.

    Every fifth image, from the first on, is for validation (360), the others are for training (1,437).
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UserError(f"digits needs scikit-learn: pip install scikit-learn ({error})") from error
    digits = load_digits()
    gray = np.round(digits.images * (255 / 16)).astype(np.uint8)  # from 0 to 16
    pixels = np.repeat(gray.repeat(2, axis=1).repeat(2, axis=2)[..., None], 3, axis=3)
    origin = DataOrigin(kind="digits", name="scikit-learn load_digits")
    splits = {}
    for split, is_val in (("val", True), ("train", False)):
        chosen = np.flatnonzero((np.arange(len(pixels)) % 5 == 0) == is_val)
        names = [f"digit[{image}]" for image in chosen]
        classes = [str(name) for name in digits.target_names]
        splits[split] = _images(classes, digits.target[chosen], names, origin, options, pixels[chosen])
    return write_splits(out, splits, options)


def _images(
    classes: Iterable[str], labels: np.ndarray, names: list[str], source: DataOrigin, options: PrepareOptions,
    pixels: np.ndarray | Path,
) -> Images:  # fmt: skip
    """Images of an array in memory, or of the files `names` in the folder `pixels`."""

    def load(image: int) -> np.ndarray:
        if not isinstance(pixels, Path):
            return shrink(to_rgb(pixels[image]), options.max_resolution)
        encoded = read_bytes(pixels / names[image])
        oriented[image] = has_orientation(encoded)
        return shrink(decoded(encoded, apply_exif=options.apply_exif), options.max_resolution)

    oriented = shared(len(names), np.dtype(bool))
    stamp = (lambda image: file_stamp(pixels / names[image])) if isinstance(pixels, Path) else None
    return Images(
        classes=list(classes), labels=labels, names=names, source=source, load=load, oriented=oriented, stamp=stamp
    )


class _OnlyArrays(pickle.Unpickler):
    """Builds numpy arrays and plain values. A pickle can name any function to be called: nothing else is looked up."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {"_reconstruct": np.empty(0).__reduce__()[0], "ndarray": np.ndarray, "dtype": np.dtype}
        if module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray") and name in allowed:
            return allowed[name]
        raise pickle.UnpicklingError(f"it wants {module}.{name}, which is no part of a numpy array")


def _unpickle(path: Path) -> dict[str, Any]:
    require_regular(path)
    try:
        with open(path, "rb") as file:
            content = _OnlyArrays(file, encoding="latin1").load()  # written by Python 2: its strings are bytes
        return {name if isinstance(name, str) else name.decode(): value for name, value in content.items()}
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): CIFAR-10's python version has it") from error
    except Exception as error:  # a damaged pickle may raise anything
        raise UserError(f"{path} is not a file of CIFAR-10: {error}") from error


def _read_batch(path: Path, num_classes: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    batch = _unpickle(path)
    data, labels = batch.get("data"), batch.get("labels", ())
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape[1:] != (3072,):
        raise UserError(f"{path} has no data of 3,072 bytes an image: it is not CIFAR-10's")
    known = isinstance(labels, list) and all(type(label) is int and 0 <= label < num_classes for label in labels)
    if not known or len(labels) != len(data):
        raise UserError(f"{path} has no list of {len(data)} labels from 0 to {num_classes - 1}: it is not CIFAR-10's")
    names = [f"{path.name}[{row}]" for row in range(len(data))]
    return data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), np.array(labels, np.int64), names


def write_splits(out: Path, splits: dict[str, Images], options: PrepareOptions) -> dict[str, Manifest]:
    """Writes OUT/SPLIT.beton for each split.

    Raises UserError if one cannot be written or is there already, and if --skip-bad left out all training images
    of a class.
    """
    if options.shuffle:
        splits = {split: shuffled(images) if split == "train" else images for split, images in splits.items()}
    paths = {split: out / f"{split}.beton" for split in splits}
    encoding = Encoding(**{field.name: getattr(options, field.name) for field in fields(Encoding)})
    journals = {split: journal_of(paths[split], images, encoding) for split, images in splits.items()}
    complete = {
        split: is_complete(paths[split], images, journals[split], skip_bad=options.skip_bad)
        for split, images in splits.items()
    }
    for split, path in paths.items():
        if path.exists() and not options.overwrite and not complete[split]:
            raise UserError(f"{path} is there already: pass --overwrite to replace it, or give another folder")
    manifests = {split: read_manifest(paths[split]) for split in splits if complete[split]}
    for split in manifests:
        print(f"{paths[split]}: complete since the start that was interrupted")
    try:
        _write_all(paths, splits, options, manifests, journals)
    except BaseException:
        for split in manifests:  # else the same command would be told that they are there already
            if splits[split].stamp is None:  # nothing says whether the source has changed until then
                for path in (paths[split], manifest_path(paths[split]), stamp_path(paths[split]), journals[split].path):
                    path.unlink(missing_ok=True)
        raise
    for journal in journals.values():
        journal.remove()
    train, val = (np.flatnonzero(manifests[split].class_counts) for split in ("train", "val"))
    require_training_images(out, train, val, manifests["train"].classes)
    return manifests


def _write_all(
    paths: dict[str, Path], splits: dict[str, Images], options: PrepareOptions, manifests: dict[str, Manifest],
    journals: dict[str, Journal],
) -> None:  # fmt: skip
    """Writes one file after another, and adds its manifest to `manifests`."""
    encoding = Encoding(**{field.name: getattr(options, field.name) for field in fields(Encoding)})
    for split, images in splits.items():
        if split in manifests:
            continue
        with _kept(paths[split], journals[split]), show_progress(paths[split].name, len(images.labels)) as progress:
            manifests[split] = write_beton(
                paths[split], images, encoding, workers=options.workers, skip_bad=options.skip_bad, keep_journal=True,
                progress=progress,
            )  # fmt: skip
        print(f"{paths[split]}: {manifests[split].summary()}", flush=True)
        if oriented := manifests[split].exif_oriented:
            done = "turned by it" if options.apply_exif else "stored as they lie; --apply-exif turns them"
            print(f"{paths[split]}: {counted(oriented, 'image')} with an EXIF orientation: {done}", flush=True)


@contextmanager
def _kept(path: Path, journal: Journal) -> Iterator[None]:
    """Says so where an interrupted file can be continued."""
    try:
        yield
    except (UserError, KeyboardInterrupt):
        if journal.path.exists():
            print(f"{path}: the images stored so far are kept, and the same command continues with the others")
        raise


@contextmanager
def show_progress(title: str, total: int, unit: str = "images") -> Iterator[Callable[[int], None]]:
    """Shows a bar on a terminal, elsewhere a line now and then."""
    console = Console(stderr=True)
    columns = BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"), TimeRemainingColumn()
    bar = Progress(TextColumn(title), *columns, console=console, disable=not console.is_terminal)
    task = bar.add_task(title, total=total, speed="")
    started = said = 0.0
    first = 0  # how many were done at the start: a resumed file has some
    line = ""

    def show(done: int) -> None:
        nonlocal started, said, line, first
        now = time.monotonic()
        if not started:
            started, said, first = now, now, done
            bar.start()  # not before: its thread must not be forked with the workers
        is_measured = done > first and now - started >= SHORTEST
        speed = f"{rate((done - first) / (now - started))} {unit}/s" if is_measured else ""
        bar.update(task, completed=done, speed=speed)
        line = f"{title}: {done:,} of {total:,} {unit}{f', {speed}' if speed else ''}"
        if now - said > LINE_EVERY and not console.is_terminal:
            said = now
            left = time_left(now - started, done - first, total - first) if speed else ""
            print(f"{line}, {left}" if left else line, flush=True)

    try:
        yield show
    finally:
        bar.stop()
        if line and not console.is_terminal:
            print(line, flush=True)
