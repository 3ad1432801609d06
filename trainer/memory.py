"""Freed memory stays with the process: a training step frees hundreds of megabytes and asks for as much again."""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of <malloc.h>


def keep_freed_memory() -> bool:
    """Tells glibc's malloc not to give memory back to the system; returns whether there is a glibc that was told.

    By default it maps each large tensor anew, and the kernel clears its pages one by one: 75,000 page faults and an
    eighth of the time of a step of ResNet-18 on two cores (docs/performance.md). The process stays as large as it was
    at its largest. Tensors on a GPU are not meant: torch keeps that memory itself.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, -1))
