"""The kernel of conv.py: the gradient of a convolution's weights, compiled by Numba for matrix units.

dw[k, i, j, c] is the product of channel k of dy with channel c of x, shifted by the tap (i, j) and summed over the
pixels of all images: a matrix product whose inner dimension is the pixels. One multiplication takes 32 of them, 16
places in each of two images, for 16 channels of dy and 16 of x. Both are packed for it: 16 channels of two images are
interleaved, with the zeros of the padding around each image, so that a tap only shifts the address. With a stride each
phase is packed separately, so that a tap reads neighbours. A slab is one packed band of rows of two images.
"""

# mypy: disable-error-code="attr-defined, call-arg, no-untyped-call, no-untyped-def, var-annotated"
# functions that Numba compiles have no annotations

from __future__ import annotations

from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from numba import carray, cfunc, from_dtype, njit, types
from torch import Tensor

from trainer.cpu import amx
from trainer.cpu.openmp import fetch_and_add, on_threads, pointer
from trainer.process.compile_cache import can_be_cached

# Numba's cache is valid until this file changes, so this file has to change with the two it inlines (test_house.py)
_INLINED = {"amx.py": "eeeef0140a40bec4", "openmp.py": "1e135ae2a4895501"}

_TASKS = 16  # where there are enough images: the most threads that can work
_BLOCK = 8  # tiles of channels of x and of dy in one task, at most
_PACKED_BYTES = 1 << 20  # per thread, about: half of the second-level cache of CPUs with matrix units
_ROW_BYTES, _TILE_BYTES = 64, 1024
_CHANNELS = 16  # in a tile

# The job of the threads. Addresses are of bfloat16 x and dy [images, height, width, channels], of float32 sums
# [groups of images, channels of dy, taps, channels of x], of the result, which is their sum, and of scratch memory.
_TENSORS = "x", "dy", "sums", "result", "scratch"
_SHAPES = "images", "height", "width", "channels", "dy_height", "dy_width", "dy_channels", "stride", "taps", "phases"
_SLABS = "before", "after", "pitch", "bands", "band_rows", "slab", "slabs", "steps", "phase_bytes"
_SHARES = "scratch_bytes", "tap_table", "phase_table", "groups", "tiles", "blocks", "dy_blocks"
_FIELDS = "part", "parts", "work", "thread", *_TENSORS, *_SHAPES, *_SLABS, *_SHARES
_JOB = np.dtype([(name, np.int64) for name in _FIELDS])
_THREAD = 8 * _FIELDS.index("thread")  # where it is, in bytes
_ADDRESSES = slice(_FIELDS.index("x"), _FIELDS.index("scratch") + 1)
_TAP = np.dtype([("phase", np.int64), ("offset", np.int64)])  # where a tap begins to read, in bytes from its phase
_PHASE = np.dtype([("row", np.int64), ("column", np.int64)])
_MULTIPLY, _ADD_UP = range(2)  # the kinds of work, in their order

# A thread's scratch memory begins with 64 bytes each of zeros, of addresses of products and of sums, and of the
# matrix unit's configuration before; then packed x, packed dy, and packed dy in tiles
_PRODUCTS, _SUMS, _BEFORE, _PACKED_X = (_ROW_BYTES * number for number in range(1, 5))


@njit(inline="always")
def _pack(scratch, image, image_bytes, row_bytes, column_bytes, rows, columns, from_row, to_row, to, pitch):
    """16 channels of rows of an image and of the next one, alternating; zeros for rows that are outside.

    image_bytes is 0 if there is no next image.
    """
    for row in range(from_row, to_row):
        inside = 0 <= row < rows
        one, one_bytes = (image + row * row_bytes, column_bytes) if inside else (scratch, 0)
        two, two_bytes = (one + image_bytes, column_bytes) if inside and image_bytes else (scratch, 0)
        for column in range(columns):
            amx.pair(one + column * one_bytes, two + column * two_bytes, to + column * _ROW_BYTES)
        to += pitch * _ROW_BYTES


@njit(inline="always")
def _pack_x(job, scratch, slab, to, from_tile, to_tile):
    """Packs a slab's x, by tile of channels and phase, with the rows and columns around it that taps read."""
    image, from_row = slab // job.bands * 2, slab % job.bands * job.band_rows
    column_bytes = job.channels * 2
    row_bytes, image_bytes = job.width * column_bytes, job.height * job.width * column_bytes
    phases = carray(pointer(job.phase_table, _PHASE), job.phases)
    for phase in range(job.phases):
        row, column = phases[phase].row, phases[phase].column
        rows, columns = (job.height - row - 1) // job.stride + 1, (job.width - column - 1) // job.stride + 1
        source = job.x + image * image_bytes + row * row_bytes + column * column_bytes
        for tile in range(from_tile, to_tile):
            _pack(
                scratch, source + tile * 32, image_bytes if image + 1 < job.images else 0,
                row_bytes * job.stride, column_bytes * job.stride, rows, columns,
                from_row - job.before, from_row + job.band_rows + job.after,
                to + ((tile - from_tile) * job.phases + phase) * job.phase_bytes + job.before * _ROW_BYTES, job.pitch,
            )  # fmt: skip


@njit(inline="always")
def _pack_dy(job, scratch, slab, to, tile):
    """Packs one tile of channels of a slab's dy. The columns around it are not written and stay zero."""
    image, from_row = slab // job.bands * 2, slab % job.bands * job.band_rows
    column_bytes = job.dy_channels * 2
    row_bytes, image_bytes = job.dy_width * column_bytes, job.dy_height * job.dy_width * column_bytes
    _pack(
        scratch, job.dy + image * image_bytes + tile * 32, image_bytes if image + 1 < job.images else 0,
        row_bytes, column_bytes, job.dy_height, job.dy_width, from_row, from_row + job.band_rows, to, job.pitch,
    )  # fmt: skip


@njit(inline="always")
def _multiply(job, scratch, packed_x, dy, sums, steps, products, is_first):
    """Adds to `sums`, of 16 channels of dy, the products of `dy` with packed x: all its channels, all taps."""
    taps = carray(pointer(job.tap_table, _TAP), job.taps)
    at = carray(pointer(scratch + _PRODUCTS, np.int64), amx.TOTALS)
    to = carray(pointer(scratch + _SUMS, np.int64), amx.TOTALS)
    pitch = job.taps * job.channels * 4
    for begin in range(0, products, amx.TOTALS):
        count = min(amx.TOTALS, products - begin)
        for number in range(count):
            tile, tap = (begin + number) // job.taps, (begin + number) % job.taps
            at[number] = packed_x + (tile * job.phases + taps[tap].phase) * job.phase_bytes + taps[tap].offset
            to[number] = sums + (tap * job.channels + tile * 16) * 4
        if is_first:
            amx.clear_totals()
        else:
            amx.load_totals(scratch + _SUMS, pitch, count)
        for step in range(steps):
            amx.add_products(dy + step * _TILE_BYTES, scratch + _PRODUCTS, step * _TILE_BYTES, count)
        amx.store_totals(scratch + _SUMS, pitch, count)


@njit(inline="always")
def _do_task(job, task, scratch):
    """One block of channels of x times one of dy, over the images of one group: a part of one of the sums."""
    group, block, dy_block = task % job.groups, task // job.groups % job.blocks, task // job.groups // job.blocks
    tiles, dy_tiles, pairs = job.channels // _CHANNELS, job.dy_channels // _CHANNELS, (job.images + 1) // 2
    from_tile, to_tile = tiles * block // job.blocks, tiles * (block + 1) // job.blocks
    from_dy, to_dy = dy_tiles * dy_block // job.dy_blocks, dy_tiles * (dy_block + 1) // job.dy_blocks
    from_slab, to_slab = pairs * group // job.groups * job.bands, pairs * (group + 1) // job.groups * job.bands
    packed_x = scratch + _PACKED_X
    packed_dy = packed_x + job.tiles * job.phases * job.phase_bytes
    tiles_of_dy = packed_dy + job.steps * _TILE_BYTES
    channel_bytes = job.taps * job.channels * 4
    sums = job.sums + group * job.dy_channels * channel_bytes + from_tile * 16 * 4

    for first in range(from_slab, to_slab, job.slabs):
        end = min(first + job.slabs, to_slab)
        places = (end - first) * job.slab
        steps = (places + 15) // 16
        for slab in range(first, end):
            _pack_x(job, scratch, slab, packed_x + (slab - first) * job.slab * _ROW_BYTES, from_tile, to_tile)
        for tile in range(from_dy, to_dy):
            for slab in range(first, end):
                _pack_dy(job, scratch, slab, packed_dy + (slab - first) * job.slab * _ROW_BYTES, tile)
            for place in range(places, steps * 16):  # where a longer chunk may have been before
                amx.pair(scratch, scratch, packed_dy + place * _ROW_BYTES)
            for step in range(steps):
                amx.transpose(packed_dy + step * _TILE_BYTES, tiles_of_dy + step * _TILE_BYTES)
            to = sums + tile * 16 * channel_bytes
            _multiply(
                job, scratch, packed_x, tiles_of_dy, to, steps, (to_tile - from_tile) * job.taps, first == from_slab
            )


@njit(inline="always")
def _do_tasks(job, jobs, task):
    """Takes tasks until none is left, in scratch memory of its own. The matrix unit's configuration is restored."""
    scratch = job.scratch + fetch_and_add(jobs.ctypes.data + _THREAD) * job.scratch_bytes
    # packing does not write the zeros between rows and images
    carray(pointer(scratch, np.uint8), job.scratch_bytes)[:] = 0
    amx.read_configuration(scratch + _BEFORE)
    amx.configure(amx.CONFIGURATION.ctypes.data)
    while task < job.parts:
        _do_task(job, task, scratch)
        task = fetch_and_add(jobs.ctypes.data)
    amx.configure(scratch + _BEFORE)


@njit(inline="always")
def _add_up(job, part):
    """Adds up a part of the result, in the order of the groups."""
    size = job.dy_channels * job.taps * job.channels
    first, end = size * part // job.parts, size * (part + 1) // job.parts
    sums = carray(pointer(job.sums, np.float32), (job.groups, size))
    total = carray(pointer(job.result, np.float32), size)[first:end]
    total[:] = sums[0, first:end]
    for group in range(1, job.groups):
        one = sums[group, first:end]
        for number in range(len(total)):
            total[number] += one[number]


@cfunc(types.void(types.CPointer(from_dtype(_JOB))), cache=can_be_cached())
def _do_parts(address):
    """Runs on each thread: takes the next part of the job until none is left."""
    jobs = carray(address, 1)
    job = jobs[0]
    part = fetch_and_add(jobs.ctypes.data)
    if part < job.parts and job.work == _MULTIPLY:
        _do_tasks(job, jobs, part)
    elif job.work == _ADD_UP:
        while part < job.parts:
            _add_up(job, part)
            part = fetch_and_add(jobs.ctypes.data)


@njit(nogil=True, cache=can_be_cached())
def _run(do_parts, threads, fields):
    jobs = carray(pointer(fields.ctypes.data, _JOB), 1)
    on_threads(do_parts, jobs.ctypes.data, threads, np.uint32(0))
    if jobs[0].groups > 1:
        jobs[0].part, jobs[0].parts, jobs[0].work = 0, _TASKS, _ADD_UP
        on_threads(do_parts, jobs.ctypes.data, threads, np.uint32(0))


def weight_gradient(x: Tensor, dy: Tensor, kernel_size: int, stride: int, threads: int) -> Tensor:
    """float32 [K, C, kernel_size, kernel_size], channels-last: of a convolution from x [N, C, H, W] to [N, K, H', W'].

    It is padded by kernel_size // 2. x and the gradient dy are bfloat16 and channels-last; C and K are multiples of 16.
    Products are added up in float32, in an order that does not depend on the number of threads. A value of x that is
    not finite spreads to all taps of its channel, because the padding is multiplied too.
    """
    assert amx.is_available()
    plan = _plan(x.shape, dy.shape, kernel_size, stride)
    result = x.new_empty(dy.shape[1], kernel_size, kernel_size, x.shape[1], dtype=torch.float32)
    sums = result.new_empty(plan.groups, *result.shape) if plan.groups > 1 else result
    scratch = x.new_empty(min(threads, plan.tasks) * plan.scratch_bytes + _ROW_BYTES, dtype=torch.uint8)
    fields = plan.fields.copy()
    aligned = scratch.data_ptr() + -scratch.data_ptr() % _ROW_BYTES
    fields[_ADDRESSES] = x.data_ptr(), dy.data_ptr(), sums.data_ptr(), result.data_ptr(), aligned
    _run(_do_parts.address, np.uint32(threads), fields)
    return result.permute(0, 3, 1, 2)


class _Plan(NamedTuple):
    """A job without the addresses of its tensors."""

    fields: np.ndarray
    tasks: int
    groups: int
    scratch_bytes: int
    tables: tuple[np.ndarray, np.ndarray]  # kept alive: `fields` has their addresses


@cache
def _plan(x: torch.Size, dy: torch.Size, kernel_size: int, stride: int) -> _Plan:
    images, channels, height, width = x
    _, dy_channels, dy_height, dy_width = dy
    # tap (i, j) reads, for row h of dy, row stride (h + move) + phase of x; columns are the same
    reads = [divmod(tap - kernel_size // 2, stride) for tap in range(kernel_size)]
    before, after = -min(reads)[0], max(reads)[0]
    phases = sorted({(row, column) for (_, row), (_, column) in product(reads, reads)})
    pitch = dy_width + before  # rows share the zeros between them, and so do images that lie one behind the other

    blocks, dy_blocks = -(-channels // _CHANNELS // _BLOCK), -(-dy_channels // _CHANNELS // _BLOCK)
    groups = max(1, min((images + 1) // 2, _TASKS // (blocks * dy_blocks)))
    tiles = -(-channels // _CHANNELS // blocks)
    place_bytes = (tiles * len(phases) + 2) * _ROW_BYTES
    bands = max(1, round(dy_height * pitch * place_bytes / _PACKED_BYTES))
    band_rows = -(-dy_height // bands)
    bands = -(-dy_height // band_rows)
    slab = (band_rows + before) * pitch
    slabs = max(1, min(-(-images // 2 // groups), _PACKED_BYTES // (slab * place_bytes))) if bands == 1 else 1
    steps = -(-slabs * slab // 16)
    phase_bytes = (steps * 16 + (before + after + 1) * pitch + after) * _ROW_BYTES

    tap_table = np.array(
        [
            (phases.index((row, column)), ((down + before) * pitch + right + before) * _ROW_BYTES)
            for (down, row), (right, column) in product(reads, reads)
        ],
        _TAP,
    )
    phase_table = np.array(phases, _PHASE)
    tasks = groups * blocks * dy_blocks
    scratch_bytes = _PACKED_X + tiles * len(phases) * phase_bytes + 2 * steps * _TILE_BYTES
    values = {
        "parts": tasks, "work": _MULTIPLY, "scratch_bytes": scratch_bytes,
        "images": images, "height": height, "width": width, "channels": channels,
        "dy_height": dy_height, "dy_width": dy_width, "dy_channels": dy_channels, "stride": stride,
        "taps": len(tap_table), "tap_table": tap_table.ctypes.data,
        "phases": len(phases), "phase_table": phase_table.ctypes.data,
        "before": before, "after": after, "bands": bands, "band_rows": band_rows, "pitch": pitch,
        "slab": slab, "slabs": slabs, "steps": steps, "phase_bytes": phase_bytes,
        "groups": groups, "tiles": tiles, "blocks": blocks, "dy_blocks": dy_blocks,
    }  # fmt: skip
    fields = np.array([values.get(name, 0) for name in _FIELDS])
    return _Plan(fields, tasks, groups, scratch_bytes, (tap_table, phase_table))
