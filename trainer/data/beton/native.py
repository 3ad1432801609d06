"""C functions that compiled code calls: FFCV's decoder and resizer, and two of the C library."""

import ctypes
import importlib.util
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
from numba import types


def _load() -> None:
    """Makes FFCV's C++ functions known to numba by name.

    Looked up on disk instead of `import ffcv`, which compiles typed dictionaries for some five seconds. Named symbols,
    unlike ctypes' addresses, let numba store the compiled function for the next process.
    """
    found = importlib.util.find_spec("ffcv")
    folders = (found and found.submodule_search_locations) or ()  # any folder called ffcv counts as a package
    files = [file for folder in folders for file in Path(folder).glob("_libffcv*.so")]
    if not files:
        raise ImportError("ffcv is not installed")
    library = ctypes.CDLL(str(files[0]))
    for name in ("imdecode", "resize"):
        llvm.add_symbol(f"ffcv_{name}", ctypes.cast(getattr(library, name), ctypes.c_void_p).value)


_load()

# int imdecode(source, source_size, height, width, destination, crop_height, crop_width, offset_x, offset_y,
#              scale_numerator, scale_denominator, enable_crop, flip): 0 when the whole JPEG was sound. A scale reaches
#              libjpeg as the size of the destination, each side divided and rounded up
imdecode: Any = types.ExternalFunction(
    "ffcv_imdecode",
    types.int32(types.uintp, types.uint64, types.uint32, types.uint32, types.uintp, *(types.uint32,) * 6,
                types.boolean, types.boolean),
)  # fmt: skip
# void resize(unused, source, height, width, first_row, end_row, first_column, end_column, destination, height, width)
resize: Any = types.ExternalFunction("ffcv_resize", types.void(*(types.int64,) * 11))
pread: Any = types.ExternalFunction("pread", types.int64(types.int32, types.uintp, types.uint64, types.int64))
memchr: Any = types.ExternalFunction("memchr", types.uintp(types.uintp, types.int32, types.uint64))
memcpy: Any = types.ExternalFunction("memcpy", types.uintp(types.uintp, types.uintp, types.uint64))
