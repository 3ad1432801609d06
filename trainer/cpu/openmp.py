"""Runs code that Numba compiles on the threads of PyTorch's own operations, by GNU OpenMP, which PyTorch has loaded."""

# mypy: disable-error-code="no-untyped-call, no-untyped-def"
# functions that Numba compiles have no annotations

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

# void GOMP_parallel(void (*function)(void *), void *data, threads, flags) calls function(data) on `threads` threads,
# one of which is the caller's
on_threads: Any = types.ExternalFunction("GOMP_parallel", types.void(*(types.uintp,) * 2, *(types.uint32,) * 2))


@intrinsic
def pointer(_context, address, dtype):
    """A pointer to values of `dtype` at `address`, for carray()."""
    kind = types.CPointer(dtype.dtype)
    return kind(types.int64, dtype), lambda context, builder, _s, values: builder.inttoptr(
        values[0], context.get_value_type(kind)
    )


@intrinsic
def fetch_and_add(_context, address):
    """Atomically adds one to the int64 at `address`, and returns the value before."""
    number = ir.IntType(64)
    return types.int64(types.int64), lambda _c, builder, _s, values: builder.atomic_rmw(
        "add", builder.inttoptr(values[0], number.as_pointer()), ir.Constant(number, 1), "monotonic"
    )
