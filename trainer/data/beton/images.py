"""Labelled images, as every source gives them to the writer."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from trainer.data.beton.manifest import DataOrigin


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
