"""Any image file as RGB of 8 bits. Every command opens and converts images here, so that all see the same pixels."""

import contextlib
import errno
import io
import os
import stat
from pathlib import Path

import numpy as np
from PIL import Image

from trainer.errors import one_line

# torchvision.datasets.folder.IMG_EXTENSIONS, so that both see the same images
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
_ORIENTATION = 0x0112  # the EXIF tag; 1: as stored, 2 to 8: mirrored or turned (CIPA DC-008, 4.6.4)
_EXIF_WITHIN = 1 << 16  # bytes from the start: a JPEG's EXIF is one segment, the first or second one


class BadImageError(Exception):
    """This image cannot be read or stored; another one can be."""


def to_rgb(image: Image.Image | np.ndarray) -> np.ndarray:
    """Converts an image of any mode to uint8 RGB of shape (height, width, 3).

    Gray is repeated, alpha is dropped, CMYK and palettes are converted as PIL does (and so torchvision's ImageFolder).
    Of 16 bits the upper 8 are kept, where PIL would clip to white; float must be 0 to 1. EXIF orientation is ignored.
    Raises BadImageError for other pixels, such as 32 bits, whose white is unknown, and whatever PIL raises where the
    file is damaged.
    """
    if isinstance(image, Image.Image):
        if image.mode in ("P", "PA", "La", "RGBa"):  # by way of alpha: PIL warns of the direct way, or lacks it
            image = image.convert("LA" if image.mode == "La" else "RGBA")
        wide = image.mode in ("I", "F") or image.mode.startswith("I;16")
        pixels = np.asarray(image if wide else image.convert("RGB"))
        if image.mode == "I" and image.format == "PPM":  # of 16 bits, which PIL scales to 65535
            pixels = pixels.astype(np.uint16)
    else:
        pixels = image
    if pixels.dtype.kind == "f" and pixels.min() >= 0 and pixels.max() <= 1:
        pixels = np.round(pixels * 255).astype(np.uint8)
    elif pixels.dtype.kind in "ui" and pixels.dtype.itemsize == 2 and pixels.min() >= 0:
        pixels = (pixels >> 8).astype(np.uint8)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (3, 4) or not pixels.size:
        raise BadImageError(f"{pixels.dtype} {pixels.shape} is not 8 or 16 bits or float 0 to 1, of 1, 3 or 4 channels")
    return np.ascontiguousarray(pixels[:, :, :3])


def has_orientation(encoded: bytes) -> bool:
    """Whether an encoded image says by EXIF that it is to be shown turned or mirrored.

    TIFF's own tag is none of these: PIL applies it when it decodes.
    """
    if encoded[8:16] == b"WEBPVP8X" and len(encoded) > 20:  # EXIF comes after the pixels; a bit says that there is some
        return bool(encoded[20] & 8) and _orientation(encoded)
    if b"exif" not in encoded[:_EXIF_WITHIN].lower():  # "Exif" in JPEG, "eXIf" in PNG
        return b"eXIf" in encoded[-_EXIF_WITHIN:] and _orientation(encoded)
    return _orientation(encoded)


def is_turned(opened: Image.Image) -> bool:
    """Whether an opened image says by EXIF that it is to be shown turned or mirrored. Damaged EXIF says nothing."""
    with contextlib.suppress(Exception):  # its pixels may be sound, and PIL raises what the damage leads to
        return opened.getexif().get(_ORIENTATION, 1) in range(2, 9)
    return False


_TURNS = {  # by EXIF orientation, as in ImageOps.exif_transpose
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def upright(opened: Image.Image) -> Image.Image:
    """Turns the image as its EXIF orientation says.

    PIL's exif_transpose also writes the other tags again, and raises where one of them has an unusual type.
    """
    opened.load()  # of a TIFF, PIL turns the pixels here and removes the tag
    turn = _TURNS.get(opened.getexif().get(_ORIENTATION, 1))
    return opened if turn is None else opened.transpose(turn)


def read_bytes(path: Path) -> bytes:
    """Reads the file's content; see read_file."""
    return read_file(path)[0]


def read_file(path: Path) -> tuple[bytes, os.stat_result]:
    """Reads the file's content, and then its status.

    Raises OSError, and BadImageError for a link that leads to no file and for what is no regular file. A named pipe is
    none: reading it would wait for somebody who writes.
    """
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise BadImageError("it is no regular file")
            return file.read(), os.fstat(file.fileno())
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP) and path.is_symlink():
            raise BadImageError("it is a link that leads to no file") from error
        if error.errno in (errno.EISDIR, errno.ENXIO):  # a folder; a socket, or a device that is not there
            raise BadImageError("it is no regular file") from error
        raise


def reason(error: BaseException) -> str:
    """Returns one line for whatever a decoder raised: OSError, ValueError, SyntaxError, DecompressionBombError, ..."""
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        return one_line(error.strerror)  # PIL's own have no number
    text = one_line(" ".join(str(error).split()))  # OpenCV's are of several lines
    return text if text and isinstance(error, BadImageError | OSError) else f"{type(error).__name__}: {text}"


def _orientation(encoded: bytes) -> bool:
    with contextlib.suppress(Exception), Image.open(io.BytesIO(encoded)) as opened:
        return opened.format != "TIFF" and is_turned(opened)
    return False
