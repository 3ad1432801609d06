"""A whole image, for code that shows it or counts its pixels."""

import numpy as np

from trainer.data.crop import CropBoxes
from trainer.data.loader import Source


def whole_image(source: Source, image: int) -> np.ndarray:
    """The uncropped image: uint8 RGB, shape (height, width, 3).

    Raises LocalError with the file and the image if it cannot be decoded.
    """
    images = np.array([image])
    heights, widths = source.sizes(images)
    height, width = int(heights[0]), int(widths[0])
    out = np.empty((1, height, width, 3), np.uint8)
    source.read(images, CropBoxes(np.array([[0, 0, height, width]], np.int32), np.zeros(1, bool)), out)
    pixels: np.ndarray = out[0]
    return pixels
