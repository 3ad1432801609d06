"""Keeps freed memory in the process: a training step frees hundreds of megabytes and allocates as much again."""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of <malloc.h>


def keep_freed_memory() -> bool:
    """Stops glibc's malloc from returning memory to the system; False if the C library is a different one.

    By default it maps each large tensor anew, and the kernel clears its pages one by one: 75,000 page faults and an
    eighth of the time of a step of ResNet-18 on two cores (docs/experiments.md). The process then stays at its largest
    size. GPU memory is not affected: torch caches it itself.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, -1))
