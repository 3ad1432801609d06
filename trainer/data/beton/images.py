"""Labelled images, as every source gives them to the writer."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from trainer.data.beton.manifest import DataOrigin
from trainer.data.beton.placing import shared
from trainer.data.random import RandomStream, bits


@dataclass(frozen=True, kw_only=True)
class Images:
    """Labelled images in the order in which they are written."""

    classes: list[str]
    labels: np.ndarray  # integers, indices into classes
    names: list[str]  # for messages and the manifest: relative to the source
    source: DataOrigin
    load: Callable[[int], np.ndarray]
    """RGB: uint8, shape (height, width, 3). Any error but an OSError with a number says that the image is bad."""
    oriented: np.ndarray | None = None
    """shared bools that load sets: whether the image has an EXIF orientation; None: that is not known"""
    stamp: Callable[[int], int] | None = None
    """a number that changes when the image's file changes; None: an interrupted file is not continued"""


def shuffled(images: Images) -> Images:
    """Returns the images in a random order, so that a stretch of the file holds most classes.

    The order depends on nothing but the number of images.
    """
    order = np.argsort(bits(0, 0, np.arange(len(images.labels)), RandomStream.STORED)[:, 0], kind="stable")
    stamp, known = images.stamp, images.oriented
    oriented = None if known is None else shared(len(order), np.dtype(bool))

    def load(place: int) -> np.ndarray:
        image = int(order[place])
        pixels = images.load(image)
        if known is not None and oriented is not None:
            oriented[place] = known[image]
        return pixels

    return replace(
        images,
        labels=images.labels[order],
        names=[images.names[image] for image in order],
        source=replace(images.source, shuffled=True),
        load=load,
        oriented=oriented,
        stamp=(lambda place: stamp(int(order[place]))) if stamp else None,
    )
