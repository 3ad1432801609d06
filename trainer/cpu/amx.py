"""The matrix units of Intel's CPUs (AMX), as instructions for code that Numba compiles.

A core has eight tiles of 16 rows of 64 bytes. One instruction multiplies two tiles of bfloat16 and adds the product to
a third, of float32 [16, 16]: 8,192 multiplications. It reads the rows of the first factor as they are, and those of the
second in pairs: two rows of 16 values interleaved as one of 32. (Intel 64 and IA-32
Architectures Software Developer's Manual, volume 1, chapter 18; volume 2, TDPBF16PS.)
"""

# mypy: disable-error-code="attr-defined, no-untyped-call, no-untyped-def"
# functions that Numba compiles have no annotations

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from functools import cache, partial
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic

_SYSTEM_CALL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18  # Linux: arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA
_BYTE, _NUMBER = ir.IntType(8), ir.IntType(64)
_PIXEL, _PAIR, _WORDS = (ir.VectorType(ir.IntType(bits), lanes) for bits, lanes in ((16, 16), (16, 32), (32, 16)))
_ROW_BYTES = 64
TOTALS = 6  # tiles that hold sums; the other two of the eight hold the factors
_FIRST, _SECOND = 6, 7

# Loaded by each thread first: palette 1, and for each tile 16 rows of 64 bytes
CONFIGURATION = np.zeros(64, np.uint8)
CONFIGURATION[0], CONFIGURATION[48:56] = 1, 16
CONFIGURATION[16:32].view(np.uint16)[:] = _ROW_BYTES


@cache
def is_available() -> bool:
    """Whether this CPU has bfloat16 matrix units and Numba compiles for it; asks Linux to let this process use them."""
    if platform.system() != "Linux" or platform.machine() != "x86_64" or config.CPU_NAME or config.CPU_FEATURES:
        return False
    if not all(binding.get_host_cpu_features().get(feature) for feature in ("amx-tile", "amx-bf16", "avx512bw")):
        return False
    numbers = map(ctypes.c_long, (_SYSTEM_CALL, _REQUEST_PERMISSION, _TILE_DATA))
    return bool(ctypes.CDLL(None).syscall(*numbers) == 0)


@intrinsic
def configure(_context, address):
    """Loads this thread's configuration from 64 bytes at `address`: CONFIGURATION, or read_configuration()'s."""
    return types.void(types.int64), partial(_move_configuration, "ldtilecfg")


@intrinsic
def read_configuration(_context, address):
    """Writes this thread's configuration to 64 bytes at `address`: zeros where there is none."""
    return types.void(types.int64), partial(_move_configuration, "sttilecfg")


def _move_configuration(name: str, context: Any, builder: Any, _signature: Any, values: Any) -> Any:
    _emit(builder, name, _pointer(builder, values[0]))
    return context.get_dummy_value()


@intrinsic
def clear_totals(_context):
    """Sets all totals to zero."""

    def generate(context, builder, _signature, _values):
        for total in range(TOTALS):
            _emit(builder, "tilezero", _tile(total))
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def load_totals(_context, addresses, pitch, count):
    """The first `count` totals, each from 16 rows of 16 float32, `pitch` bytes apart; `addresses`: of an int64 [6]."""
    return types.void(types.int64, types.int64, types.int64), partial(_move_totals, "tileloadd64")


@intrinsic
def store_totals(_context, addresses, pitch, count):
    """Writes the first `count` totals where load_totals() reads them."""
    return types.void(types.int64, types.int64, types.int64), partial(_move_totals, "tilestored64")


def _move_totals(name: str, context: Any, builder: Any, _signature: Any, values: Any) -> Any:
    addresses, pitch, count = values
    for total in _up_to(builder, count):
        _emit(builder, name, _tile(total), _pointer(builder, _number_at(builder, addresses, total)), pitch)
    return context.get_dummy_value()


@intrinsic
def add_products(_context, first, seconds, offset, count):
    """Adds to each of the first `count` totals the product of the tile at `first` with that at seconds[total] + offset.

    A tile is 1,024 bytes; `seconds` is the address of an int64 [6].
    """

    def generate(context, builder, _signature, values):
        first, seconds, offset, count = values
        pitch = ir.Constant(_NUMBER, _ROW_BYTES)
        _emit(builder, "tileloadd64", _tile(_FIRST), _pointer(builder, first), pitch)
        for total in _up_to(builder, count):
            second = builder.add(_number_at(builder, seconds, total), offset)
            _emit(builder, "tileloadd64", _tile(_SECOND), _pointer(builder, second), pitch)
            _emit(builder, "tdpbf16ps", _tile(total), _tile(_FIRST), _tile(_SECOND))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.int64), generate


@intrinsic
def pair(_context, first, second, to):
    """Interleaves two rows of 16 values of 2 bytes into one at `to`."""

    def generate(context, builder, _signature, values):
        first, second = (builder.load(_pointer(builder, value, _PIXEL), align=2) for value in values[:2])
        alternating = [lane for channel in range(16) for lane in (channel, channel + 16)]
        builder.store(_shuffle(builder, first, second, alternating), _pointer(builder, values[2], _PAIR), align=64)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@intrinsic
def transpose(_context, source, to):
    """Transposes a tile of 16 x 16 values of 4 bytes. Both addresses are multiples of 64."""

    def generate(context, builder, _signature, values):
        def row_at(address, row):
            return _pointer(builder, builder.add(address, ir.Constant(_NUMBER, _ROW_BYTES * row)), _WORDS)

        rows = [builder.load(row_at(values[0], row), align=64) for row in range(16)]
        low = [lane for column in range(8) for lane in (column, column + 16)]
        high = [lane + 8 for lane in low]
        for _ in range(4):  # each round rotates the bits of a value's (row, column) by one
            rows = [_shuffle(builder, rows[n // 2], rows[n // 2 + 8], high if n % 2 else low) for n in range(16)]
        for number, row in enumerate(rows):
            builder.store(row, row_at(values[1], number), align=64)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


def _emit(builder: Any, name: str, *arguments: Any) -> None:
    signature = ir.FunctionType(ir.VoidType(), [argument.type for argument in arguments])
    builder.call(cgutils.get_or_insert_function(builder.module, signature, f"llvm.x86.{name}"), arguments)


def _up_to(builder: Any, count: Any) -> Iterator[int]:
    """The numbers of all totals; code emitted for one runs only where it is less than `count`."""
    for total in range(TOTALS):
        with builder.if_then(builder.icmp_signed("<", ir.Constant(_NUMBER, total), count)):
            yield total


def _tile(number: int) -> Any:
    return ir.Constant(_BYTE, number)


def _pointer(builder: Any, address: Any, to: Any = _BYTE) -> Any:
    return builder.inttoptr(address, to.as_pointer())


def _number_at(builder: Any, address: Any, index: int) -> Any:
    return builder.load(_pointer(builder, builder.add(address, ir.Constant(_NUMBER, 8 * index)), _NUMBER))


def _shuffle(builder: Any, first: Any, second: Any, lanes: list[int]) -> Any:
    return builder.shuffle_vector(first, second, ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes))
