"""A photograph as JPEG: FFCV's encoding, with restart markers that make tiles of it (decode.py reads them).

The markers change no pixel, and every decoder reads them. Tiles of 32 px cost 2.0 % more bytes (196 ImageNet
photographs of at most 500 px, quality 90); larger ones cost less and leave more to decode: see docs/experiments.md.
"""

import numpy as np

MCU = 16  # px: what is coded together where chroma has half the resolution, as OpenCV writes it


def encode_jpeg(pixels: np.ndarray, quality: int, tiles: bool) -> np.ndarray:
    """Encodes RGB, uint8, shape (height, width, 3), as a baseline JPEG, 4:2:0; returns uint8, shape (n,)."""
    import cv2

    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    if tiles:
        options += [cv2.IMWRITE_JPEG_RST_INTERVAL, restart_interval(pixels.shape[1])]
    _, stored = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)
    return stored.reshape(-1)


def restart_interval(width: int) -> int:
    """MCUs between restart markers: 2, or the next number up to 8 that divides a row of the image, else 1."""
    row = -(-width // MCU)
    return next((interval for interval in range(2, 9) if row % interval == 0), 1)
