"""Mean and standard deviation of the training images: what `--mean` and `--std` of a recipe are for own images."""

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from PIL import Image

from trainer.commands.look.whole_image import whole_image
from trainer.data.loader import Source

Channels = tuple[float, float, float]


class Statistics(NamedTuple):
    """Of the channels red, green and blue, where 0 is black and 1 is white."""

    mean: Channels
    std: Channels
    images: int  # that were read


def statistics_of(source: Source, images: np.ndarray, threads: int) -> Statistics:
    """Statistics over all pixels of these whole images, in which each image counts alike, whatever its size.

    This is how training sees them: each gives one crop of the same size. `images`: int64, shape (n,).
    Raises LocalError if one cannot be decoded.
    """
    with ThreadPoolExecutor(threads) as pool:
        moments = np.array(list(pool.map(lambda image: _moments(source, int(image)), images)))
    mean, squares = moments.mean(axis=0)
    std = np.sqrt(np.maximum(squares - mean**2, 0))
    return Statistics(_channels(mean), _channels(std), len(images))


def _moments(source: Source, image: int) -> np.ndarray:
    """Mean of the pixels and of their squares: float64, shape (2, 3)."""
    counts = np.reshape(Image.fromarray(whole_image(source, image)).histogram(), (3, 256))
    shares, values = counts / counts[0].sum(), np.arange(256) / 255
    return np.stack([shares @ values, shares @ values**2])


def _channels(values: np.ndarray) -> Channels:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
