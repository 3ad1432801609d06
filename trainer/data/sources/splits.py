"""Makes the splits of a source: which images are for validation, and how each is decoded."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from trainer.data.beton.encoded_image import decoded
from trainer.data.beton.images import Images
from trainer.data.beton.journal import file_stamp
from trainer.data.beton.manifest import DataOrigin, HeldOut
from trainer.data.beton.pixels import shrink
from trainer.data.beton.placing import shared
from trainer.data.beton.prepare import PrepareOptions
from trainer.data.images import has_orientation, is_turned, read_bytes, to_rgb, upright
from trainer.data.listing import composed, require_training_images
from trainer.data.sources.options import SplitOptions
from trainer.errors import UserError

_MOST_DIGITS = 255  # as many as a folder's name may have; Python converts 4,300
Read = Callable[[int], bytes | Image.Image | np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Labelled images of a source before they are divided into splits."""

    labels: np.ndarray  # int64, indices into the classes
    names: list[str]  # for messages and the manifest
    read: Read  # the encoded image, or what is decoded already
    stamp: Callable[[int], int]  # see Images

    def __len__(self) -> int:
        return len(self.labels)

    def only(self, chosen: np.ndarray) -> "Labelled":
        """Returns the chosen images, in their order. `chosen`: bools or indices."""
        images = np.arange(len(self))[chosen]
        names = [self.names[image] for image in images]
        return Labelled(
            labels=self.labels[images],
            names=names,
            read=lambda image: self.read(int(images[image])),
            stamp=lambda image: self.stamp(int(images[image])),
        )


def splits_of(
    train: Labelled, val: Labelled | None, classes: Sequence[str], origin: DataOrigin, options: SplitOptions
) -> dict[str, Images]:
    """Returns what both_splits does; without `val`, the validation images are drawn from the training images.

    Raises UserError if the options do not say how many, and if they do although there are validation images.
    """
    if val is not None:
        if options.val_fraction is not None:
            raise UserError(f"{origin.name} has validation images: leave out --val-fraction")
        return both_splits(train, val, classes, origin, options)
    if options.val_fraction is None:
        raise UserError(
            f"{origin.name} has no validation images: pass --val-fraction 0.1 to draw them from the training images"
        )
    held_out = hold_out(train.labels, train.names, options.val_fraction, options.seed)
    origin = replace(origin, held_out=HeldOut(val_fraction=options.val_fraction, seed=options.seed))
    print(f"validation: {held_out.sum():,} of {len(held_out):,} images, drawn class by class with seed {options.seed}")
    return both_splits(train.only(~held_out), train.only(held_out), classes, origin, options)


def both_splits(
    train: Labelled, val: Labelled, classes: Sequence[str], origin: DataOrigin, options: PrepareOptions
) -> dict[str, Images]:
    """Returns the images of val and train as prepare writes them: val first, so that what is wrong shows early."""
    require_training_images(origin.name, train.labels, val.labels, classes)
    return {split: _images(found, classes, origin, options) for split, found in (("val", val), ("train", train))}


def of_files(paths: Sequence[Path], labels: np.ndarray, names: list[str]) -> Labelled:
    """Returns images that are a file each."""
    return Labelled(
        labels=labels,
        names=names,
        read=lambda image: read_bytes(paths[image]),
        stamp=lambda image: file_stamp(paths[image]),
    )


def hold_out(labels: np.ndarray, names: Sequence[str], fraction: float, seed: int) -> np.ndarray:
    """Chooses the images for validation: bools, the share `fraction` of each class, rounded, and at least one.

    A class of one image keeps it for training. An image is drawn by the hash of its name and the seed, so that an
    added image moves few of the others.
    """
    drawn = np.array([hashlib.sha256(f"{seed} {name}".encode(errors="surrogateescape")).digest()[:8] for name in names])
    order = np.lexsort((np.arange(len(labels)), drawn, labels))
    held_out = np.zeros(len(labels), bool)
    starts = np.flatnonzero(np.diff(labels[order], prepend=-1))
    for start, end in zip(starts, [*starts[1:], len(labels)], strict=True):
        count = min(max(1, int(fraction * (end - start) + 0.5)), end - start - 1)
        held_out[order[start : start + count]] = True
    return held_out


def sorted_classes(names: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Returns the classes in their order, and the label of each name.

    Numbers are sorted as numbers, other names as text. Names that differ only in how Unicode composes their letters are
    one class. Raises UserError for a number that is too long.
    """
    names = [composed(name) for name in names]
    distinct = set(names)
    are_numbers = all(name.isdecimal() for name in distinct)
    if are_numbers and (long := [name for name in distinct if len(name) > _MOST_DIGITS]):
        raise UserError(f"the label {long[0][:20]}... has {len(long[0]):,} digits: use at most {_MOST_DIGITS}")
    classes = sorted(distinct, key=lambda name: (int(name), name)) if are_numbers else sorted(distinct)
    labels = {name: label for label, name in enumerate(classes)}
    return classes, np.array([labels[name] for name in names], np.int64)


def _images(found: Labelled, classes: Sequence[str], origin: DataOrigin, options: PrepareOptions) -> Images:
    def load(image: int) -> np.ndarray:
        stored = found.read(image)
        if isinstance(stored, bytes):
            oriented[image] = has_orientation(stored)
            stored = decoded(stored, apply_exif=options.apply_exif)
        elif isinstance(stored, Image.Image):
            oriented[image] = is_turned(stored)
            stored = upright(stored) if options.apply_exif and oriented[image] else stored
        return shrink(to_rgb(stored), options.max_resolution)

    oriented = shared(len(found), np.dtype(bool))
    origin = replace(origin, exif="applied" if options.apply_exif else "ignored")
    return Images(
        classes=list(classes),
        labels=found.labels,
        names=found.names,
        source=origin,
        load=load,
        oriented=oriented,
        stamp=found.stamp,
    )
