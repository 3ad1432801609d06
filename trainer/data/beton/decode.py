"""From stored bytes to the pixels of a crop. All compiled code of the reader is in this file.

FFCV's C++ library decodes JPEGs (libjpeg-turbo) and enlarges (OpenCV). Numba compiles the rest, which runs without
Python's lock. It is one file because Numba's cache on disk compares the age of a function's own file only.

- A JPEG may hold restart markers, after which its entropy coder and its prediction start afresh (ITU-T T.81, E.1.4).
  Where their distance divides a row of MCUs, the image is a grid of tiles that are coded independently: the tiles under
  the crop, with their own height and width in the header and the markers renumbered, are a JPEG.
- Shrinking is OpenCV's INTER_AREA: its float32 products, added in its order, but a row that two crop rows share once.
- With `scaled`, which changes pixels, libjpeg's inverse transform makes 4 x 4, 2 x 2 or 1 pixels of a block of 8 x 8:
  the smallest that leaves the crop no smaller than its target. A crop may then begin and end within a pixel.
"""

import numpy as np
from numba import njit

from trainer.data.beton.index import BAD_JPEG, RAW, SHORT_READ
from trainer.data.beton.native import imdecode, memchr, memcpy, pread, resize
from trainer.process.compile_cache import can_be_cached

_MARGIN = 1  # px around a crop: chroma of half the resolution is interpolated from the next sample
_NARROW = 8  # px: libjpeg interpolates no chroma where a row has less than 3 samples of it
_ZERO, _ONE, _TWO, _THREE, _FOUR, _FIVE, _SIX, _SEVEN, _EIGHT = (np.uint64(number) for number in range(9))


@njit(nogil=True, cache=can_be_cached())
def _layout(jpeg, size):  # type: ignore[no-untyped-def]
    """(offset of the frame's header, offset of the scan's data, MCU height and width in px, restart interval).

    The interval is 0 unless the JPEG is one baseline scan with restart markers; all are 0 if no frame is found.
    """
    nothing = 0, 0, 0, 0, 0
    frame = components = interval = np.int64(0)
    mcu_height = mcu_width = np.int64(8)
    place = np.int64(2)
    while place + 6 <= size and jpeg[place] == 0xFF:
        marker = jpeg[place + 1]
        end = place + 2 + (np.int64(jpeg[place + 2]) << 8 | np.int64(jpeg[place + 3]))
        if end > size:
            return nothing
        if marker == 0xC0:  # SOF0, baseline
            frame, components = place, np.int64(jpeg[place + 9]) if place + 10 <= end else np.int64(0)
            if not components or place + 10 + 3 * components > end:
                return nothing
            if components > 1:  # else an MCU is one block, whatever the sampling
                for component in range(components):
                    sampling = np.int64(jpeg[place + 11 + 3 * component])
                    mcu_width = max(mcu_width, 8 * (sampling >> 4))
                    mcu_height = max(mcu_height, 8 * (sampling & 15))
        elif marker == 0xDD:  # DRI
            interval = np.int64(jpeg[place + 4]) << 8 | np.int64(jpeg[place + 5])
        elif marker == 0xDA:  # SOS
            if not frame or np.int64(jpeg[place + 4]) != components:
                return frame, 0, 0, 0, 0
            return frame, end, mcu_height, mcu_width, interval
        elif 0xC1 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # another kind of frame
            return place if place + 10 <= end else 0, 0, 0, 0, 0
        place = end
    return nothing


@njit(nogil=True, cache=can_be_cached())
def _find_tiles(jpeg, size, start, ends):  # type: ignore[no-untyped-def]
    """Writes the end of each tile into `ends` (at least one). False if their number or order is wrong."""
    count, begin, place = 0, jpeg.ctypes.data, start
    while place < size - 1:
        found = memchr(begin + np.uint64(place), 0xFF, size - 1 - place)
        if found == 0:
            return False
        place = np.int64(found - begin)
        follows = jpeg[place + 1]
        if follows != 0:  # else a byte 0xFF of the data
            ends[count] = place
            count += 1
            if count == len(ends):
                return follows == 0xD9 and place + 2 == size
            if follows != 0xD0 + (count - 1) % 8:
                return False
        place += 2
    return False


@njit(nogil=True, cache=can_be_cached())
def _splice(jpeg, size, height, width, top, left, bottom, right, shrunk, ends, out):  # type: ignore[no-untyped-def]
    """Writes the tiles under the rows top to bottom and columns left to right into `out`, as a JPEG of its own.

    `shrunk`: the decoder will divide height and width by it. Returns (bytes written, first row, first column, height,
    width) of the area they cover. Returns 0 bytes and the whole image where the JPEG has no tiles or is damaged between
    them: the decoder then reports the damage. Returns -1 bytes where the JPEG says another height or width.
    """
    nothing = 0, 0, 0, height, width
    frame, start, mcu_height, mcu_width, interval = _layout(jpeg, size)
    if frame and (np.int64(jpeg[frame + 5]) << 8 | np.int64(jpeg[frame + 6]) != height
                  or np.int64(jpeg[frame + 7]) << 8 | np.int64(jpeg[frame + 8]) != width):  # fmt: skip
        return -1, 0, 0, height, width
    if interval == 0:
        return nothing
    row_mcus, rows = -(-width // mcu_width), -(-height // mcu_height)
    tile_width, columns = interval * mcu_width, row_mcus // interval
    if row_mcus % interval or not _find_tiles(jpeg, size, start, ends[: rows * columns]):
        return nothing

    margin = _MARGIN * shrunk
    first_row, end_row = max(0, top - margin) // mcu_height, (min(height, bottom + margin) - 1) // mcu_height + 1
    first, end = max(0, left - margin) // tile_width, (min(width, right + margin) - 1) // tile_width + 1
    while end - first < columns and min(width, end * tile_width) - first * tile_width < _NARROW * shrunk:
        first, end = (first - 1, end) if first else (first, end + 1)
    top, left = first_row * mcu_height, first * tile_width
    covered_height, covered_width = min(height, end_row * mcu_height) - top, min(width, end * tile_width) - left

    source, destination = jpeg.ctypes.data, out.ctypes.data
    memcpy(destination, source, start)
    out[frame + 5], out[frame + 6] = covered_height >> 8, covered_height & 255
    out[frame + 7], out[frame + 8] = covered_width >> 8, covered_width & 255
    place, number = start, 0
    for row in range(first_row, end_row):
        for tile in range(row * columns + first, row * columns + end):
            begin = ends[tile - 1] + 2 if tile else start
            length = ends[tile] - begin
            memcpy(destination + np.uint64(place), source + np.uint64(begin), length)
            out[place + length], out[place + length + 1] = 0xFF, 0xD0 + number % 8
            place += length + 2
            number += 1
    out[place - 1] = 0xD9  # instead of the last restart marker: the end of the image
    return place, top, left, covered_height, covered_width


@njit(nogil=True, cache=can_be_cached())
def _load(file, pointer, size, mode, height, width, box, shrunk, scratch):  # type: ignore[no-untyped-def]
    """Reads at least the area of the box into `pixels`, RGB, row by row. A JPEG is read at 1 / `shrunk` of its size.

    Returns (0 or the failure's code, first row, first column, height, width) of the area that was read, in stored
    pixels.
    """
    file_bytes, tiles, ends, pixels = scratch
    top, left = min(max(box[0], 0), height - 1), min(max(box[1], 0), width - 1)
    bottom, right = max(min(box[0] + box[2], height), top + 1), max(min(box[1] + box[3], width), left + 1)
    if mode == RAW:
        wanted = (bottom - top) * width * 3
        if pread(file, pixels.ctypes.data, wanted, pointer + top * width * 3) != wanted:
            return SHORT_READ, 0, 0, 0, 0
        return 0, top, 0, bottom - top, width
    if pread(file, file_bytes.ctypes.data, size, pointer) != size:
        return SHORT_READ, 0, 0, 0, 0
    spliced, row, column, rows, columns = _splice(
        file_bytes, size, height, width, top, left, bottom, right, shrunk, ends, tiles
    )
    source = tiles.ctypes.data if spliced else file_bytes.ctypes.data
    sound = spliced >= 0 and not imdecode(  # which itself takes a JPEG of any size
        source, spliced or size, rows, columns, pixels.ctypes.data, rows, columns, 0, 0, 1, shrunk, False, False
    )
    return 0 if sound else BAD_JPEG, row, column, rows, columns


@njit(nogil=True, cache=can_be_cached())
def _area_weights(start, length, count, starts, weights):  # type: ignore[no-untyped-def]
    """The weights with which a line of `length` makes `count` pixels: computeResizeAreaTab of OpenCV 4.6, resize.cpp.

    Here the line may begin and end within a pixel, after `start` < 1 of the first. Pixel p is the sum of line[starts[p]
    + k] * weights[k, p] over k. `weights` must be 0 before the call. Returns the largest number of weights of a pixel.
    """
    scale, stop = 1.0 / (count / length), start + length
    most = 0
    for place in range(count):
        begin = start + place * scale
        end = begin + scale
        cell = min(scale, stop - begin)
        last = min(np.int64(np.floor(end)), np.int64(np.ceil(stop)) - 1)
        first = min(np.int64(np.ceil(begin)), last)
        number = 0
        if first - begin > 1e-3:
            weights[0, place] = (first - begin) / cell
            number = 1
        starts[place] = first - number
        for _ in range(first, last):
            weights[number, place] = 1.0 / cell
            number += 1
        if end - last > 1e-3:
            weights[number, place] = min(end - last, 1.0, cell) / cell
            number += 1
        most = max(most, number)
    return most


@njit(nogil=True, cache=can_be_cached())
def _sum_row(row, starts, weights, count, flip, sums):  # type: ignore[no-untyped-def]
    """Sums one row of the image into the pixels of a row of the crop: RGB, float32, mirrored if `flip`.

    Indices are unsigned: Numba would check each signed one for being negative, which takes longer than the sum.
    """
    size = len(starts)
    place, step = np.uint64(3 * (size - 1) if flip else 0), np.uint64(-3 if flip else 3)  # wraps around
    for pixel in range(size):
        at = starts[pixel] * _THREE
        if count == 2:
            a, b = weights[0, pixel], weights[1, pixel]
            sums[place] = row[at] * a + row[at + _THREE] * b
            sums[place + _ONE] = row[at + _ONE] * a + row[at + _FOUR] * b
            sums[place + _TWO] = row[at + _TWO] * a + row[at + _FIVE] * b
        elif count == 3:
            a, b, c = weights[0, pixel], weights[1, pixel], weights[2, pixel]
            sums[place] = row[at] * a + row[at + _THREE] * b + row[at + _SIX] * c
            sums[place + _ONE] = row[at + _ONE] * a + row[at + _FOUR] * b + row[at + _SEVEN] * c
            sums[place + _TWO] = row[at + _TWO] * a + row[at + _FIVE] * b + row[at + _EIGHT] * c
        else:
            red = green = blue = np.float32(0)
            for tap in range(count):
                weight = weights[tap, pixel]
                red += row[at] * weight
                green += row[at + _ONE] * weight
                blue += row[at + _TWO] * weight
                at += _THREE
            sums[place], sums[place + _ONE], sums[place + _TWO] = red, green, blue
        place += step


@njit(nogil=True, cache=can_be_cached())
def _shrink(pixels, width, top, left, box_height, box_width, shrunk, flip, target):  # type: ignore[no-untyped-def]
    """Averages a box of an image into a `target` that is no larger: bit for bit INTER_AREA where `shrunk` is 1.

    `pixels` hold the image at 1 / `shrunk` of its size. Box and width are those of the image.
    """
    size, width = target.shape[0], -(-width // shrunk)
    first_row, first_column = top // shrunk, left // shrunk
    columns = -(-(left + box_width) // shrunk) - first_column
    taps = max(box_height, box_width) // (shrunk * size) + 3
    row_starts, column_starts = np.empty(size, np.int64), np.empty(size, np.uint64)
    row_weights, column_weights = np.zeros((taps, size), np.float32), np.zeros((taps, size), np.float32)
    row_taps = _area_weights(top % shrunk / shrunk, box_height / shrunk, size, row_starts, row_weights)
    column_taps = _area_weights(left % shrunk / shrunk, box_width / shrunk, size, column_starts, column_weights)
    row = np.zeros(3 * (columns + taps), np.float32)  # with room for weights of 0 beyond its end
    sums, totals = np.empty(3 * size, np.float32), np.empty(3 * size, np.float32)
    summed = -1  # the row whose sums are in `sums`
    for y in range(size):
        totals[:] = 0
        for tap in range(row_taps):
            weight = row_weights[tap, y]
            if weight == 0:
                continue
            if summed != row_starts[y] + tap:
                summed = row_starts[y] + tap
                start = ((first_row + summed) * width + first_column) * 3
                stored = pixels[start : start + 3 * columns]
                for place in range(3 * columns):
                    row[place] = stored[place]
                _sum_row(row, column_starts, column_weights, column_taps, flip, sums)
            for place in range(3 * size):
                totals[place] += sums[place] * weight
        line = target[y].reshape(3 * size)
        for place in range(3 * size):
            line[place] = np.uint8(np.int32(np.rint(totals[place])))


@njit(nogil=True, cache=can_be_cached())
def _copy(pixels, height, width, top, left, fill, flip, target):  # type: ignore[no-untyped-def]
    """Copies a box of the target's size. `fill` is the colour beyond the image."""
    for row in range(target.shape[0]):
        for column in range(target.shape[1]):
            y, x = top + row, left + column
            place = target.shape[1] - 1 - column if flip else column
            within = 0 <= y < height and 0 <= x < width
            start = (y * width + x) * 3
            for channel in range(3):
                target[row, place, channel] = pixels[start + channel] if within else fill[channel]


@njit(nogil=True, cache=can_be_cached())
def cut(pixels, height, width, top, left, box_height, box_width, shrunk, fill, flip, target):  # type: ignore[no-untyped-def]
    """Writes a box of an image into `target`, uint8 RGB of shape (size, size, 3), resized to it and mirrored if `flip`.

    `pixels` hold the image, of height x width px, at 1 / `shrunk` of its size: RGB, uint8, flat. A box that reaches
    beyond the image must have the target's size, and gets `fill` there. A target of the box's size need not be square.
    """
    size = target.shape[0]
    inside = top >= 0 and left >= 0 and top + box_height <= height and left + box_width <= width
    if not inside or (box_height == target.shape[0] and box_width == target.shape[1]):
        _copy(pixels, height, width, top, left, fill, flip, target)
    elif shrunk > 1 or (min(box_height, box_width) >= size and (box_height % size or box_width % size)):
        _shrink(pixels, width, top, left, box_height, box_width, shrunk, flip, target)
    else:  # enlarged, or shrunk by an integer, where INTER_AREA adds in a different order
        resize(
            0, pixels.ctypes.data, height, width, top, top + box_height, left, left + box_width,
            target.ctypes.data, size, size,
        )  # fmt: skip
        if flip:
            for row in target:
                for place in range(size // 2):
                    other = size - 1 - place
                    for channel in range(3):
                        row[place, channel], row[other, channel] = row[other, channel], row[place, channel]


@njit(nogil=True, cache=can_be_cached())
def decode(file, images, stored, boxes, flips, fill, scaled, scratch, out):  # type: ignore[no-untyped-def]
    """Reads each image, cuts its box and flips it. Returns (position of the first failure, its code) or (0, 0).

    scaled: decode a JPEG whose box is at least twice as high and wide as the crop at 1/2, 1/4 or 1/8 of its size.
    stored: pointers, sizes, modes, heights and widths of all images.
    scratch, for the largest image: twice its stored bytes; an int64 per MCU of 8 x 8 px; 3 bytes per pixel.
    """
    pointers, sizes, modes, all_heights, all_widths = stored
    size = out.shape[1]
    for position in range(len(images)):
        image = images[position]
        box, height, width = boxes[position], np.int64(all_heights[image]), np.int64(all_widths[image])
        top, left, box_height, box_width = np.int64(box[0]), np.int64(box[1]), np.int64(box[2]), np.int64(box[3])
        shrunk = np.int64(1)
        if scaled and modes[image] != RAW:
            while shrunk < 8 and min(box_height, box_width) >= 2 * shrunk * size:
                shrunk *= 2
        code, row, column, height, width = _load(
            file, pointers[image], sizes[image], modes[image], height, width, box, shrunk, scratch
        )
        if code:
            return position, code
        cut(
            scratch[3], height, width, top - row, left - column, box_height, box_width, shrunk, fill, flips[position],
            out[position],
        )  # fmt: skip
    return 0, 0
