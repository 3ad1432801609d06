"""An image not larger than wanted."""

import numpy as np

from trainer.data.beton.manifest import MAX_SIDE
from trainer.data.images import BadImageError


def shrink(image: np.ndarray, max_resolution: int | None) -> np.ndarray:
    """Shrinks as FFCV's resizer (area averaging, sides rounded down), but never below 1 px, where OpenCV would fail."""
    import cv2

    height, width = image.shape[:2]
    if max_resolution is not None and max(height, width) > max_resolution:
        ratio = max_resolution / max(height, width)
        size = max(1, int(ratio * width)), max(1, int(ratio * height))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    if max(image.shape) > MAX_SIDE:
        raise BadImageError(f"{height} x {width} px is more than {MAX_SIDE}: set max_resolution")
    return image
