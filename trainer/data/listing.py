"""Lists class folders. Every command finds the same images, in the same order and with the same labels."""

import os
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from trainer.data.images import EXTENSIONS
from trainer.errors import UserError, counted, first_few, one_line

ClassOrder = Literal["text", "numeric"]
STAMP = ".verified"  # what content.py leaves in a folder
# What operating systems and network disks leave in folders, besides hidden names.
_OF_SYSTEMS = ("__MACOSX", "__pycache__", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information")


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The images below FOLDER/CLASS/, by class and then by name."""

    classes: list[str]
    labels: np.ndarray  # int64, indices into classes
    files: list[str]  # relative to the folder
    notes: tuple[str, ...]  # one line each: what was skipped, and why

    def counts(self) -> dict[str, int]:
        return dict(zip(self.classes, np.bincount(self.labels, minlength=len(self.classes)).tolist(), strict=True))


@dataclass
class _Skipped:
    """Names that were passed over, for one line each."""

    system: list[str]
    links: list[str]
    other: list[str]

    def notes(self, folder: Path) -> tuple[str, ...]:
        kinds = (
            (self.system, "hidden or system file or folder", "hidden or system files and folders"),
            (self.links, "link to a folder that is listed already", "links to folders that are listed already"),
            (self.other, "file without an image's extension", "files without an image's extension"),
        )
        return tuple(
            f"{folder}: ignored 1 {one}, {one_line(repr(names[0]))}"
            if len(names) == 1
            else f"{folder}: ignored {len(names):,} {several}, such as {one_line(repr(names[0]))}"
            for names, one, several in kinds
            if names
        )


def list_class_folders(folder: Path, order: ClassOrder = "text") -> Listing:
    """Lists the images of all class folders below `folder`. Classes are sorted as text or as numbers, images as text.

    Names that differ only in how Unicode composes their letters are one class. A folder that links lead to several
    times is walked once. Hidden names and those that systems leave behind are skipped. Raises UserError if there
    are no class folders, if one holds no images or is another one's link, and if a folder cannot be read.
    """
    skipped = _Skipped([], [], [])
    found: dict[str, list[str]] = {}  # class -> names of its folders
    for entry, is_folder in _entries(folder):
        if _is_system(entry):
            skipped.system += [entry] if entry != STAMP else []
        elif is_folder:
            found.setdefault(composed(in_utf8(entry)), []).append(entry)
    if not found:
        raise UserError(f"{folder} has no folders, one for each class")
    classes = sort_classes(found, order, folder)
    seen = {_identity(above): str(above) for above in (folder.resolve(), *folder.resolve().parents)}
    for entry in (entry for entries in found.values() for entry in entries):
        if (other := seen.setdefault(_identity(folder / entry), entry)) != entry:
            raise UserError(f"{folder / entry} and {other} are one folder, by a link: remove the link")
    files, labels = [], []
    for label, name in enumerate(classes):
        images = [file for entry in found[name] for file in _walk(folder, entry, seen, skipped)]
        if not images:
            raise UserError(f"{folder / found[name][0]} holds no images ({' '.join(EXTENSIONS)}): fill or remove it")
        files += images
        labels += [label] * len(images)
    return Listing(classes=classes, labels=np.array(labels, np.int64), files=files, notes=skipped.notes(folder))


def list_images(folder: Path) -> tuple[list[Path], tuple[str, ...]]:
    """Lists the images below `folder` as list_class_folders does in a class, and gives a line for each kind of others.

    A subfolder that cannot be read is listed among the images: opening it says why.
    """
    skipped = _Skipped([], [], [])
    seen = {_identity(above): str(above) for above in (folder.resolve(), *folder.resolve().parents)}
    files = _walk(folder, "", seen, skipped, keep_unreadable=True)
    return [folder / file for file in files], skipped.notes(folder)


def sort_classes(names: Iterable[str], order: ClassOrder, where: object = "the classes") -> list[str]:
    """Class names in text order, as torchvision's ImageFolder has them, or by their numbers.

    Raises UserError for the order of numbers where a name is none.
    """
    if order == "text":
        return sorted(names)
    if other := [name for name in names if not name.isdecimal()]:
        raise UserError(f"--class-order numeric: {where} has the class {other[0]!r}, which is not a number: use text")
    return sorted(names, key=lambda name: (int(name), name))


def class_order_of(classes: Sequence[str]) -> ClassOrder:
    """Returns numeric if the names are numbers in numeric order, which is not also their order as text; else text."""
    return "numeric" if _are_numbers(classes) and list(classes) == sort_classes(classes, "numeric") else "text"


def class_order_note(classes: Sequence[str]) -> tuple[str, ...]:
    """Returns a line where classes are named by numbers and stand in the order of text, in which 10 comes before 2."""
    if not _are_numbers(classes) or list(classes) != sorted(classes):
        return ()
    first = ", ".join(one_line(name) for name in classes[:5])
    return (f"classes are in the order of text: {first}, ...; --class-order numeric sorts class folders as numbers",)


def require_same_classes(where: object, train: Sequence[str], val: Sequence[str]) -> None:
    """Raises UserError if a class has training images only, or validation images only, and says which."""
    for here, there, split, other in ((train, val, "train", "val"), (val, train, "val", "train")):
        known = set(there)
        if missing := [name for name in here if name not in known]:
            first = first_few([*map(repr, missing)], 5)
            raise UserError(
                f"{where}: {counted(len(missing), 'class')} of {split} missing from {other}: {first}: add images to "
                f"{other}, or remove those from {split}"
            )
    if list(train) != list(val):
        raise UserError(f"{where}: train and val have their classes in different orders: prepare them together")


def require_outside(out: Path, folder: Path) -> None:
    """Raises UserError if `out` is within class folders: it would itself be taken for a class without images."""
    if folder.resolve() in out.resolve().parents:
        raise UserError(f"--out {out} is inside {folder}, whose folders are classes: choose a folder outside it")


def require_training_images(where: object, train: np.ndarray, val: np.ndarray, classes: Sequence[str]) -> None:
    """Raises UserError if a class has validation images only: a network could not learn it.

    `train`, `val`: the labels of their images.
    """
    if len(unknown := np.setdiff1d(val, train)):
        first = first_few([repr(classes[label]) for label in unknown], 5)
        raise UserError(
            f"{where}: {counted(len(unknown), 'class')} with validation images and no training images: {first}: add "
            f"training images, or remove the others"
        )


def in_utf8(name: str) -> str:
    """Returns a file's name as UTF-8, whatever the locale: the same images have the same names in every job."""
    return os.fsencode(name).decode("utf-8", "surrogateescape")


def composed(name: str) -> str:
    """Returns a name in Unicode's composed form (NFC): macOS and some archives decompose letters with accents."""
    return unicodedata.normalize("NFC", name)


def _are_numbers(classes: Sequence[str]) -> bool:
    """Whether all names are numbers, and their order as numbers is not that of text."""
    return all(name.isdecimal() for name in classes) and sort_classes(classes, "numeric") != sorted(classes)


def _walk(
    folder: Path, inner: str, seen: dict[object, str], skipped: _Skipped, *, keep_unreadable: bool = False
) -> list[str]:
    """The images below folder/inner, relative to `folder`, in torchvision's order: by folder, then by name.

    `keep_unreadable`: a folder that cannot be read is listed in place of its images. Else it is a UserError.
    """
    by_folder: dict[str, list[str]] = {}
    waiting = [inner]
    while waiting:
        here = waiting.pop()
        by_folder[here] = []
        try:
            entries = _entries(folder / here)
        except UserError:
            if not keep_unreadable:
                raise
            by_folder[here], entries = [here], []
        for entry, is_folder in entries:
            path = os.path.join(here, entry)
            if _is_system(entry):
                skipped.system += [path] if entry != STAMP else []
            elif is_folder:
                if seen.setdefault(_identity(folder / path), path) != path:
                    skipped.links.append(path)
                else:
                    waiting.append(path)
            elif entry.lower().endswith(EXTENSIONS):
                by_folder[here].append(path)
            else:
                skipped.other.append(path)
    return [file for here in sorted(by_folder) for file in by_folder[here]]


def _entries(folder: Path) -> list[tuple[str, bool]]:
    """Names in their order, and whether each is a folder or a link to one."""
    try:
        with os.scandir(folder) as entries:
            return sorted((entry.name, _is_folder(entry)) for entry in entries)
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror}") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads in a circle
        return False


def _identity(folder: Path) -> object:
    """What all links to a folder share. Of one that cannot be read its path: _entries says why."""
    try:
        status = os.stat(folder)
    except OSError:
        return folder
    return status.st_dev, status.st_ino


def _is_system(name: str) -> bool:
    return name.startswith(".") or name in _OF_SYSTEMS
