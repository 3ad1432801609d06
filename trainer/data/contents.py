"""What a split holds, as far as that is known without decoding an image."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Stored(NamedTuple):
    """Images of a split that are stored in one encoding."""

    encoding: str
    images: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a split holds, as far as that is known without decoding an image."""

    count: int
    classes: int | None = None
    heights: np.ndarray | None = None  # px of all images, or of a sample evenly over them
    widths: np.ndarray | None = None
    file_bytes: int | None = None  # length of a .beton
    stored: tuple[Stored, ...] = ()
