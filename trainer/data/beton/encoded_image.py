"""The bytes of an image file as pixels: an ordinary JPEG by simplejpeg, everything else by PIL.

Both decode JPEGs with libjpeg-turbo and its defaults, to the same pixels; simplejpeg does it without Python's lock. PIL
decides about all that is not plain, so that a damaged file is found as before.
"""

import io

import numpy as np
from PIL import Image

from trainer.data.beton.jpeg_decoder import decode_jpeg
from trainer.data.beton.jpeg_layout import END, read_layout
from trainer.data.images import has_orientation, to_rgb, upright


def decoded(
    encoded: bytes, *, apply_exif: bool = False, shrunk: int = 1, buffer: np.ndarray | None = None
) -> np.ndarray:
    """uint8 RGB, shape (height, width, 3), see to_rgb. Raises whatever PIL raises for a file that is no image.

    `apply_exif` turns the image as its EXIF orientation says. `shrunk`: of a plain JPEG, 2, 4 or 8 divide its sides,
    rounded up. `buffer`: where a plain JPEG's pixels are written, if it is large enough.
    """
    if apply_exif and has_orientation(encoded):
        return to_rgb(upright(Image.open(io.BytesIO(encoded))))
    if size := plain_jpeg_size(encoded):
        if buffer is not None and len(buffer) < size[0] * size[1] * 3:
            buffer = None
        try:
            return decode_jpeg(encoded, fast=False, shrunk=shrunk, buffer=buffer)
        except ValueError:  # also where libjpeg only warns, which PIL ignores
            if shrunk > 1:
                return to_rgb(_reduced(encoded, size, shrunk))
    return to_rgb(Image.open(io.BytesIO(encoded)))


def plain_jpeg_size(encoded: bytes) -> tuple[int, int] | None:
    """Height and width of a whole JPEG of 8 bits, gray or of three colours; None for everything else."""
    if not encoded.endswith(END) or not (layout := read_layout(encoded)) or not layout.plain:
        return None
    size = layout.height, layout.width
    return size if size[0] * size[1] <= (Image.MAX_IMAGE_PIXELS or 0) else None


def _reduced(encoded: bytes, size: tuple[int, int], shrunk: int) -> Image.Image:
    opened = Image.open(io.BytesIO(encoded))
    opened.draft(None, (-(-size[1] // shrunk), -(-size[0] // shrunk)))  # type: ignore[arg-type]
    return opened
