"""Any image as what is stored: RGB, 8 bits, not larger than wanted."""

import numpy as np
from PIL import Image

from trainer.data.beton.manifest import MAX_SIDE
from trainer.data.beton.writer import BadImageError


def to_rgb(image: Image.Image | np.ndarray) -> np.ndarray:
    """An image of any mode as uint8 RGB of shape (height, width, 3).

    Gray is repeated, alpha is dropped, CMYK and palettes are converted as PIL does (and so torchvision's ImageFolder).
    Of 16 bits the upper 8 are kept, where PIL would clip to white; float must be 0 to 1. EXIF orientation is ignored.
    """
    if isinstance(image, Image.Image):
        if image.mode in ("P", "PA", "La", "RGBa"):  # by way of alpha: PIL warns of the direct way, or lacks it
            image = image.convert("LA" if image.mode == "La" else "RGBA")
        wide = image.mode in ("I", "F") or image.mode.startswith("I;16")
        pixels = np.asarray(image if wide else image.convert("RGB"))
    else:
        pixels = image
    if pixels.dtype.kind == "f" and pixels.min() >= 0 and pixels.max() <= 1:
        pixels = np.round(pixels * 255).astype(np.uint8)
    elif pixels.dtype.kind in "ui" and pixels.dtype.itemsize in (2, 4) and pixels.min() >= 0 and pixels.max() < 65536:
        pixels = (pixels >> 8).astype(np.uint8)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (3, 4) or not pixels.size:
        raise BadImageError(f"{pixels.dtype} {pixels.shape} is not 8 or 16 bits or float 0 to 1, of 1, 3 or 4 channels")
    return np.ascontiguousarray(pixels[:, :, :3])


def shrink(image: np.ndarray, max_resolution: int | None) -> np.ndarray:
    """FFCV's resizer (area averaging, sides rounded down), but never below 1 px, where OpenCV would fail."""
    import cv2

    height, width = image.shape[:2]
    if max_resolution is not None and max(height, width) > max_resolution:
        ratio = max_resolution / max(height, width)
        size = max(1, int(ratio * width)), max(1, int(ratio * height))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    if max(image.shape) > MAX_SIDE:
        raise BadImageError(f"{height} x {width} px is more than {MAX_SIDE}: set max_resolution")
    return image
