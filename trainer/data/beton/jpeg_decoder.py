"""JPEGs by simplejpeg, which calls libjpeg-turbo without the GIL."""

from typing import Any

import numpy as np
import simplejpeg


def divisor(box_height: int, box_width: int, size: int) -> int:
    """Returns 1, 2, 4 or 8: by how much a JPEG can be decoded smaller, so that its box is no smaller than the crop."""
    return next((part for part in (8, 4, 2) if min(box_height, box_width) >= part * size), 1)


def decode_jpeg(
    jpeg: bytes | bytearray,
    *,
    fast: bool,
    shrunk: int = 1,
    buffer: np.ndarray | None = None,
    strict: bool = True,
) -> np.ndarray:
    """Decodes to RGB, uint8, of shape (height, width, 3), each side divided by `shrunk` and rounded up.

    `fast`: libjpeg's fast inverse transform, as FFCV; else the accurate one, as PIL, torchvision and OpenCV. `buffer`
    is where the pixels are written, if it is large enough. Raises ValueError for a damaged image: where libjpeg gives
    up, and if `strict` also where it warns.
    """
    smaller: dict[str, Any] = {}
    if shrunk > 1:
        height, width, _, _ = simplejpeg.decode_jpeg_header(jpeg)
        smaller = {"min_height": -(-height // shrunk), "min_width": -(-width // shrunk), "min_factor": shrunk}
    pixels: np.ndarray = simplejpeg.decode_jpeg(jpeg, "RGB", fastdct=fast, buffer=buffer, strict=strict, **smaller)
    return pixels
