"""What decode.py does, without FFCV's library and Numba: JPEGs by simplejpeg, resizing by OpenCV, both from wheels.

The pixels are the same, bit for bit: simplejpeg calls libjpeg-turbo with the options that FFCV gives it, and OpenCV's
INTER_AREA is FFCV's resizing. Both work without the GIL.
"""

import os
from typing import Any

import cv2
import numpy as np

from trainer.data.beton.index import BAD_JPEG, RAW, SHORT_READ
from trainer.data.beton.jpeg_decoder import decode_jpeg, divisor
from trainer.data.beton.jpeg_layout import MARGIN, read_layout

_NARROW = 8  # px, see decode.py


def decode(
    file: int, images: np.ndarray, stored: tuple[np.ndarray, ...], boxes: np.ndarray, flips: np.ndarray,
    fill: np.ndarray, scaled: bool, scratch: tuple[np.ndarray, ...], out: np.ndarray,
) -> tuple[int, int]:  # fmt: skip
    """See decode.decode."""
    pointers, sizes, modes, heights, widths = (values[images].tolist() for values in stored)
    for position, (top, left, box_height, box_width) in enumerate(boxes.tolist()):
        height, width = heights[position], widths[position]
        first_row, first = min(max(top, 0), height - 1), min(max(left, 0), width - 1)
        bottom, right = max(min(top + box_height, height), first_row + 1), max(min(left + box_width, width), first + 1)
        shrunk, row, column = 1, first_row, 0
        if modes[position] == RAW:
            content = os.pread(file, (bottom - row) * width * 3, pointers[position] + row * width * 3)
            if len(content) != (bottom - row) * width * 3:
                return position, SHORT_READ
            pixels = np.frombuffer(content, np.uint8).reshape(bottom - row, width, 3)
            height = bottom - row
        else:
            content = os.pread(file, sizes[position], pointers[position])
            if len(content) != sizes[position]:
                return position, SHORT_READ
            shrunk = divisor(box_height, box_width, out.shape[1]) if scaled else 1
            try:
                content, row, column, height, width = spliced(
                    content, height, width, first_row, first, bottom, right, shrunk
                )
                pixels = decode_jpeg(content, fast=True, shrunk=shrunk, buffer=scratch[3])
            except ValueError:
                return position, BAD_JPEG
            if pixels.shape[:2] != (-(-height // shrunk), -(-width // shrunk)):
                return position, BAD_JPEG
        cut(
            pixels, height, width, top - row, left - column, box_height, box_width, shrunk, fill, flips[position],
            out[position],
        )  # fmt: skip
    return 0, 0


def spliced(
    jpeg: bytes, height: int, width: int, top: int, left: int, bottom: int, right: int, shrunk: int
) -> tuple[bytes, int, int, int, int]:
    """Returns the tiles under rows top to bottom and columns left to right, as a JPEG of its own; see decode._splice.

    Returns (its bytes, first row, first column, height, width); the whole image where there are no tiles. Raises
    ValueError where the JPEG says another height or width.
    """
    whole = jpeg, 0, 0, height, width
    layout = read_layout(jpeg)
    if layout and (layout.height, layout.width) != (height, width):
        raise ValueError(f"a JPEG of {layout.height} x {layout.width} px instead of {height} x {width}")
    if layout is None or layout.interval == 0:
        return whole
    tile_height, tile_width = layout.mcu_height, layout.interval * layout.mcu_width
    row_mcus, rows = -(-width // layout.mcu_width), -(-height // tile_height)
    columns = row_mcus // layout.interval
    ends = _tile_ends(jpeg, layout.data, rows * columns) if row_mcus % layout.interval == 0 else None
    if ends is None:
        return whole
    margin = MARGIN * shrunk
    first_row, end_row = max(0, top - margin) // tile_height, (min(height, bottom + margin) - 1) // tile_height + 1
    first, end = max(0, left - margin) // tile_width, (min(width, right + margin) - 1) // tile_width + 1
    while end - first < columns and min(width, end * tile_width) - first * tile_width < _NARROW * shrunk:
        first, end = (first - 1, end) if first else (first, end + 1)
    top, left = first_row * tile_height, first * tile_width
    covered = min(height, end_row * tile_height) - top, min(width, end * tile_width) - left
    header = bytearray(jpeg[: layout.data])
    header[layout.frame + 5 : layout.frame + 9] = covered[0].to_bytes(2, "big") + covered[1].to_bytes(2, "big")
    parts, places, length = [bytes(header)], [], len(header)
    for row in range(first_row, end_row):
        tiles = range(row * columns + first, row * columns + end)
        begin = ends[tiles.start - 1] + 2 if tiles.start else layout.data
        parts.append(jpeg[begin : ends[tiles.stop - 1] + 2])
        places += [ends[tile] - begin + length + 1 for tile in tiles]
        length += len(parts[-1])
    content = bytearray(b"".join(parts))
    for number, place in enumerate(places):
        content[place] = 0xD0 + number % 8
    content[-1] = 0xD9
    return bytes(content), top, left, *covered


def _tile_ends(jpeg: bytes, start: int, count: int) -> list[int] | None:
    """Where each tile ends. None if their number or order is wrong."""
    stored = np.frombuffer(jpeg, np.uint8)
    places = np.flatnonzero(stored[start:-1] == 0xFF) + start
    places = places[stored[places + 1] != 0]  # else a byte 0xFF of the data
    if len(places) != count or places[-1] + 2 != len(jpeg) or stored[-1] != 0xD9:
        return None
    in_order = stored[places[:-1] + 1] == 0xD0 + np.arange(count - 1) % 8
    return places.tolist() if in_order.all() else None


def cut(
    pixels: np.ndarray, height: int, width: int, top: int, left: int, box_height: int, box_width: int, shrunk: int,
    fill: np.ndarray, flip: bool, target: np.ndarray,
) -> None:  # fmt: skip
    """See decode.cut; `pixels` may have any shape."""
    rows, columns = target.shape[:2]
    image = pixels.reshape(-(-height // shrunk), -(-width // shrunk), 3)
    inside = top >= 0 and left >= 0 and top + box_height <= height and left + box_width <= width
    if not inside or (box_height, box_width) == (rows, columns):
        target[:] = fill
        part = image[max(top, 0) : max(top + rows, 0), max(left, 0) : max(left + columns, 0)]
        target[max(-top, 0) :, max(-left, 0) :][: part.shape[0], : part.shape[1]] = part
    elif shrunk > 1:
        _average(image, top, left, box_height, box_width, shrunk, target)
    else:
        part = image[top : top + box_height, left : left + box_width]
        target[:] = cv2.resize(part, (columns, rows), interpolation=cv2.INTER_AREA)
    if flip:
        target[:] = cv2.flip(target, 1)


def _average(
    image: np.ndarray, top: int, left: int, box_height: int, box_width: int, shrunk: int, target: np.ndarray
) -> None:
    """decode._shrink: the same float32 products, added in the same order."""
    rows, row_weights = _area_weights(top % shrunk / shrunk, box_height / shrunk, len(target))
    columns, column_weights = _area_weights(left % shrunk / shrunk, box_width / shrunk, len(target))
    under = image[top // shrunk : -(-(top + box_height) // shrunk)]
    summed = _weighted(under, columns + left // shrunk, column_weights, axis=1)
    target[:] = np.rint(_weighted(summed, rows, row_weights, axis=0)).astype(np.int32)


def _weighted(image: np.ndarray, starts: np.ndarray, weights: np.ndarray, axis: int) -> np.ndarray:
    """Sums along an axis: pixel p is the sum of image[starts[p] + k] * weights[k, p] over k."""
    shape = (-1, 1, 1) if axis == 0 else (1, -1, 1)
    total: Any = np.float32(0)
    for tap, weight in enumerate(weights):
        taken = image.take(np.minimum(starts + tap, image.shape[axis] - 1), axis).astype(np.float32)
        total = total + taken * weight.reshape(shape)
    return np.asarray(total)


def _area_weights(start: float, length: float, count: int) -> tuple[np.ndarray, np.ndarray]:
    """decode._area_weights: (starts, int64, shape (count,); weights, float32, shape (taps, count))."""
    scale, stop = 1.0 / (count / length), start + length
    begin = start + np.arange(count) * scale
    end = begin + scale
    cell = np.minimum(scale, stop - begin)
    last = np.minimum(np.floor(end), np.ceil(stop) - 1).astype(np.int64)
    first = np.minimum(np.ceil(begin).astype(np.int64), last)
    before = first - begin > 1e-3
    starts = first - before
    weights = np.zeros((int((last - starts).max()) + 1, count), np.float32)
    taps = np.arange(len(weights))[:, None] + starts
    whole = (taps >= first) & (taps < last)
    weights[:] = np.where(whole, 1.0 / cell, 0)
    weights[0] = np.where(before, (first - begin) / cell, weights[0])
    partial = np.minimum(np.minimum(end - last, 1.0), cell) / cell
    weights[:] = np.where((taps == last) & (end - last > 1e-3), partial, weights)
    return starts, weights
