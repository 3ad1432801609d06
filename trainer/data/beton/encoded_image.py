"""The bytes of an image file as pixels: an ordinary JPEG by simplejpeg, everything else by PIL.

Both decode JPEGs with libjpeg-turbo and its defaults, to the same pixels; simplejpeg does it without the GIL. PIL
decides about all that is not plain, so that a damaged file is found as before.
"""

import io

import numpy as np
from PIL import Image

from trainer.data.beton.jpeg_decoder import decode_jpeg
from trainer.data.beton.jpeg_layout import END, JpegLayout, first_rows, read_layout
from trainer.data.images import has_orientation, to_rgb, upright


def decoded(encoded: bytes, *, apply_exif: bool = False) -> np.ndarray:
    """Decodes an image to uint8 RGB, shape (height, width, 3); see to_rgb.

    Raises whatever PIL raises for a file that is no image. `apply_exif` turns the image as its EXIF orientation says.
    """
    if apply_exif and has_orientation(encoded):
        return to_rgb(upright(Image.open(io.BytesIO(encoded))))
    return decoded_rows(encoded, plain_jpeg(encoded))


def decoded_rows(
    encoded: bytes,
    layout: JpegLayout | None,
    *,
    rows: int | None = None,
    shrunk: int = 1,
    buffer: np.ndarray | None = None,
) -> np.ndarray:
    """Decodes like `decoded`, but may stop after the first `rows` of a plain JPEG.

    The last row's colours may then differ. `layout`: what plain_jpeg returns. Of a plain JPEG, `shrunk` (2, 4 or 8)
    divides the sides, rounded up, and `buffer` is where the pixels are written, if it is large enough.
    """
    if layout:
        wanted = first_rows(encoded, layout, layout.height if rows is None else rows)
        if buffer is not None and len(buffer) < layout.height * layout.width * 3:
            buffer = None
        try:
            return decode_jpeg(wanted, fast=False, shrunk=shrunk, buffer=buffer, strict=wanted is encoded)
        except ValueError:  # also where libjpeg only warns, which PIL ignores
            if shrunk > 1:
                return to_rgb(_reduced(encoded, layout, shrunk))
    return to_rgb(Image.open(io.BytesIO(encoded)))


def plain_jpeg(encoded: bytes) -> JpegLayout | None:
    """Returns the layout of a whole JPEG of 8 bits, gray or of three colours; None for everything else."""
    if not encoded.endswith(END) or not (layout := read_layout(encoded)) or not layout.plain:
        return None
    return layout if layout.height * layout.width <= (Image.MAX_IMAGE_PIXELS or 0) else None


def _reduced(encoded: bytes, layout: JpegLayout, shrunk: int) -> Image.Image:
    opened = Image.open(io.BytesIO(encoded))
    # PIL divides the sides by the wanted ones and takes the largest of 8, 4, 2 and 1 that is not above the quotients
    opened.draft(None, (layout.width // shrunk, layout.height // shrunk))
    return opened
