"""The kernels of norm.py: norms of bfloat16 images, compiled by Numba, on PyTorch's own threads.

Images are read in the order of memory, as rows of about 256 values that hold each channel equally often, so that the
inner loops are long enough to be worth starting. A bfloat16 is the upper half of the float32 of the same value. The
number of partial sums does not depend on the number of threads, so that the bits of the result do not either.

Every value takes one product and sum: y = scale x + shift, and dx = scale dy + slope x + offset.
"""

# mypy: disable-error-code="attr-defined, call-arg, no-untyped-call, no-untyped-def, var-annotated"
# functions that Numba compiles have no annotations

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import carray, cfunc, from_dtype, njit, types
from numba.extending import intrinsic

from trainer.cpu.openmp import fetch_and_add, on_threads, pointer
from trainer.process.compile_cache import can_be_cached

# Numba's cache is valid until this file changes, so this file has to change with the one it inlines (test_house.py)
_INLINED = {"openmp.py": "1e135ae2a4895501"}

_PARTS = 32  # of the images, each with its own sums: the most threads that can work
_BLOCK = 64  # rows added up in float32 before they are added to a float64 sum
_WIDTH = 256  # values in a row at least, where the pixels divide evenly
_ZERO = np.float32(0)

# The job of the threads: the next part, the kind of work, and addresses of uint16 [rows, width] (0 for none),
# of float64 sums [parts, 2, width] and of float32 factors [4, width], which are scale, shift, slope and offset
_FIELDS = "part", "work", "rows", "width", "x", "shortcut", "y", "dy", "dx", "sums", "factors"
_JOB = np.dtype([(name, np.int64) for name in _FIELDS])
_SUM_UP, _APPLY, _SUM_UP_GRADIENTS, _APPLY_GRADIENTS = range(4)  # the kinds of work, in their order


@intrinsic
def _as_float(_context, bits):
    return types.float32(types.uint32), lambda _c, builder, _s, values: builder.bitcast(values[0], ir.FloatType())


@intrinsic
def _as_bits(_context, value):
    return types.uint32(types.float32), lambda _c, builder, _s, values: builder.bitcast(values[0], ir.IntType(32))


@intrinsic
def _prefer_wide_vectors(_context):
    """Makes LLVM use vectors of 512 bits in this function. Its default, 256, spares the clocks of older CPUs."""

    def generate(context, builder, _signature, _values):
        # llvmlite's own add() rejects attributes that have a value
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return types.void(), generate


@njit(inline="always")
def _wide(bits):
    return _as_float(np.uint32(bits) << np.uint32(16))


@njit(inline="always")
def _narrow(value):
    """Rounded to nearest, ties to even; NaN stays NaN."""
    bits = _as_bits(value)
    return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))


@njit(inline="always")
def _rectified(value):
    """ReLU; NaN stays NaN."""
    return _ZERO if value < _ZERO else value


@njit(inline="always")
def _images(address, job):
    return carray(pointer(address, np.uint16), (job.rows, job.width))


@njit(inline="always")
def _factors(job):
    return carray(pointer(job.factors, np.float32), (4, job.width))


@njit(inline="always")
def _sum_up(job, first, end, total, squares):
    """Adds x and its squares."""
    x = _images(job.x, job)
    for index in range(first, end):
        x_row = x[index]
        for column in range(job.width):
            value = _wide(x_row[column])
            total[column] += value
            squares[column] += value * value


@njit(inline="always")
def _sum_up_gradients(job, first, end, total, products):
    """Adds dy where y > 0 and its products with x; with a shortcut, also writes the shortcut's gradient.

    y is kept only with a shortcut; without one its sign is that of scale x + shift.
    """
    x, dy, scale, shift = _images(job.x, job), _images(job.dy, job), _factors(job)[0], _factors(job)[1]
    if job.shortcut:
        y, dshortcut = _images(job.y, job), _images(job.shortcut, job)
        for index in range(first, end):
            x_row, y_row, dy_row, to = x[index], y[index], dy[index], dshortcut[index]
            for column in range(job.width):
                gradient = _ZERO if _wide(y_row[column]) <= _ZERO else _wide(dy_row[column])
                to[column] = _narrow(gradient)
                total[column] += gradient
                products[column] += gradient * _wide(x_row[column])
    else:
        for index in range(first, end):
            x_row, dy_row = x[index], dy[index]
            for column in range(job.width):
                value = _wide(x_row[column])
                gradient = _ZERO if value * scale[column] + shift[column] <= _ZERO else _wide(dy_row[column])
                total[column] += gradient
                products[column] += gradient * value


@njit(inline="always")
def _apply(job, first, end):
    """y = relu(scale x + shift + shortcut)."""
    x, y, scale, shift = _images(job.x, job), _images(job.y, job), _factors(job)[0], _factors(job)[1]
    if job.shortcut:
        shortcut = _images(job.shortcut, job)
        for index in range(first, end):
            x_row, shortcut_row, y_row = x[index], shortcut[index], y[index]
            for column in range(job.width):
                value = _wide(x_row[column]) * scale[column] + shift[column] + _wide(shortcut_row[column])
                y_row[column] = _narrow(_rectified(value))
    else:
        for index in range(first, end):
            x_row, y_row = x[index], y[index]
            for column in range(job.width):
                y_row[column] = _narrow(_rectified(_wide(x_row[column]) * scale[column] + shift[column]))


@njit(inline="always")
def _apply_gradients(job, first, end):
    """dx = scale dy + slope x + offset, with dy zero where y <= 0."""
    x, dx, factors = _images(job.x, job), _images(job.dx, job), _factors(job)
    scale, shift, slope, offset = factors[0], factors[1], factors[2], factors[3]
    if job.shortcut:
        dshortcut = _images(job.shortcut, job)
        for index in range(first, end):
            x_row, gradient_row, dx_row = x[index], dshortcut[index], dx[index]
            for column in range(job.width):
                others = _wide(x_row[column]) * slope[column] + offset[column]
                dx_row[column] = _narrow(_wide(gradient_row[column]) * scale[column] + others)
    else:
        dy = _images(job.dy, job)
        for index in range(first, end):
            x_row, dy_row, dx_row = x[index], dy[index], dx[index]
            for column in range(job.width):
                value = _wide(x_row[column])
                gradient = _ZERO if value * scale[column] + shift[column] <= _ZERO else _wide(dy_row[column])
                dx_row[column] = _narrow(gradient * scale[column] + (value * slope[column] + offset[column]))


@njit(inline="always")
def _sum_part(job, part, first, end):
    """Blocks in float32, and their sums in float64."""
    sums = carray(pointer(job.sums, np.float64), (_PARTS, 2, job.width))
    total, others = np.empty(job.width, np.float32), np.empty(job.width, np.float32)
    for column in range(job.width):
        sums[part, 0, column] = sums[part, 1, column] = 0
    for block in range(first, end, _BLOCK):
        total.fill(_ZERO)
        others.fill(_ZERO)
        if job.work == _SUM_UP:
            _sum_up(job, block, min(block + _BLOCK, end), total, others)
        else:
            _sum_up_gradients(job, block, min(block + _BLOCK, end), total, others)
        for column in range(job.width):
            sums[part, 0, column] += total[column]
            sums[part, 1, column] += others[column]


@cfunc(types.void(types.CPointer(from_dtype(_JOB))), cache=can_be_cached(), fastmath={"contract"})
def _do_parts(address):
    """Runs on each thread: takes the next part of the job until none is left."""
    _prefer_wide_vectors()
    jobs = carray(address, 1)
    job = jobs[0]
    part = fetch_and_add(jobs.ctypes.data)
    while part < _PARTS:
        first, end = job.rows * part // _PARTS, job.rows * (part + 1) // _PARTS
        if job.work == _APPLY:
            _apply(job, first, end)
        elif job.work == _APPLY_GRADIENTS:
            _apply_gradients(job, first, end)
        else:
            _sum_part(job, part, first, end)
        part = fetch_and_add(jobs.ctypes.data)


@njit(inline="always")
def _run(do_parts, jobs, work, threads):
    jobs[0].part, jobs[0].work = 0, work
    on_threads(do_parts, jobs.ctypes.data, threads, np.uint32(0))


@njit(inline="always")
def _by_channel(sums, which, channels):
    """float64 [channels]: sums over all parts and all columns of a channel, in order."""
    for part in range(1, _PARTS):
        for column in range(sums.shape[2]):
            sums[0, which, column] += sums[part, which, column]
    found = np.zeros(channels)
    for column in range(sums.shape[2]):
        found[column % channels] += sums[0, which, column]
    return found


@njit(inline="always")
def _repeat(values, factors):
    """Repeats two rows of one number per channel to rows of one number per column."""
    for column in range(factors.shape[1]):
        factors[0, column] = values[0, column % values.shape[1]]
        factors[1, column] = values[1, column % values.shape[1]]


@njit(nogil=True, cache=can_be_cached())
def _forward(
    do_parts, threads, jobs, sums, factors, pixels, weight, bias, eps, per_channel, running_mean, running_var, momentum
):
    channels = len(weight)
    _run(do_parts, jobs, _SUM_UP, threads)
    total, squares = _by_channel(sums, 0, channels), _by_channel(sums, 1, channels)
    for channel in range(channels):
        mean = total[channel] / pixels
        var = max(squares[channel] / pixels - mean * mean, 0.0)
        scale = weight[channel] / np.sqrt(var + eps)
        per_channel[0, channel], per_channel[1, channel] = scale, bias[channel] - mean * scale
        per_channel[2, channel], per_channel[3, channel] = mean, var
        if len(running_mean):
            unbiased = var * (pixels / (pixels - 1))
            running_mean[channel] += momentum * (mean - running_mean[channel])
            running_var[channel] += momentum * (unbiased - running_var[channel])
    _repeat(per_channel[:2], factors)
    _run(do_parts, jobs, _APPLY, threads)


@njit(nogil=True, cache=can_be_cached())
def _backward(do_parts, threads, jobs, sums, factors, pixels, per_channel, eps, dweight, dbias):
    channels = len(dweight)
    gradient_factors = np.empty((2, channels), np.float32)
    _repeat(per_channel[:2], factors)
    _run(do_parts, jobs, _SUM_UP_GRADIENTS, threads)
    total, products = _by_channel(sums, 0, channels), _by_channel(sums, 1, channels)
    for channel in range(channels):
        scale, mean = np.float64(per_channel[0, channel]), np.float64(per_channel[2, channel])
        inverse = 1 / np.sqrt(per_channel[3, channel] + eps)
        of_weight = (products[channel] - mean * total[channel]) * inverse
        dweight[channel], dbias[channel] = of_weight, total[channel]
        slope = -scale * inverse * of_weight / pixels
        offset = -scale * total[channel] / pixels - slope * mean
        gradient_factors[0, channel], gradient_factors[1, channel] = slope, offset
    _repeat(gradient_factors, factors[2:])
    _run(do_parts, jobs, _APPLY_GRADIENTS, threads)


def forward(
    x: int, shortcut: int, y: int, pixels: int, weight: np.ndarray, bias: np.ndarray, eps: float,
    per_channel: np.ndarray, running_mean: np.ndarray, running_var: np.ndarray, momentum: float, threads: int,
) -> None:  # fmt: skip
    """Writes y = relu(norm(x) + shortcut), and scale, shift, mean and biased variance into float32 [4, channels].

    Images are addresses of bfloat16 [pixels, channels]; 0 for no shortcut. weight and bias: float32 [channels]. Running
    statistics move by `momentum` towards this batch's mean and unbiased variance; they are float32 [channels], or [0]
    for none.
    """
    work = _work(pixels, len(weight), x=x, shortcut=shortcut, y=y)
    running = running_mean, running_var, momentum
    _forward(_do_parts.address, np.uint32(threads), *work, pixels, weight, bias, eps, per_channel, *running)


def backward(
    x: int, y: int, dy: int, dshortcut: int, dx: int, pixels: int, per_channel: np.ndarray, eps: float,
    dweight: np.ndarray, dbias: np.ndarray, threads: int,
) -> None:  # fmt: skip
    """Writes the gradients of x, the shortcut, weight and bias from dy and what forward() wrote.

    y and dshortcut are 0 if there was no shortcut.
    """
    work = _work(pixels, len(dweight), x=x, shortcut=dshortcut, y=y, dy=dy, dx=dx)
    _backward(_do_parts.address, np.uint32(threads), *work, pixels, per_channel, eps, dweight, dbias)


def _work(
    pixels: int, channels: int, *, x: int, shortcut: int, y: int, dy: int = 0, dx: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(job, its sums, its factors): allocated here, because Numba would free them after their last use that it sees."""
    together = max(1, _WIDTH // channels)
    while pixels % together:
        together -= 1
    rows, width = pixels // together, together * channels
    sums, factors = np.empty((_PARTS, 2, width)), np.empty((4, width), np.float32)
    job = 0, 0, rows, width, x, shortcut, y, dy, dx, sums.ctypes.data, factors.ctypes.data
    return np.array([job], _JOB), sums, factors
