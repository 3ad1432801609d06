"""Reads the next window of a quasi-random order into the page cache, while the current one is decoded.

The decoding threads read single images in random order. This thread has read the same bytes before, in the order of
the file, so a disk sees long sequential reads. It reads instead of advising (posix_fadvise): Linux shortens long
advice, and network file systems may ignore it.
"""

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class Prefetching(Protocol):
    """A source that can read stored bytes into the page cache."""

    def prefetch(self, images: np.ndarray, stop: threading.Event) -> None:
        """Reads the bytes of `images` (int64, shape (n,)) in the order of the file, until `stop` is set.

        An error of the disk is not raised: the thread that decodes the image meets it and names the image.
        """
        ...

    def release(self, images: np.ndarray) -> None:
        """Takes the bytes of `images` out of the page cache.

        Linux keeps bytes that were read twice, by this thread and for decoding, and would evict the next window.
        """
        ...


@contextmanager
def reading_ahead(
    source: object, samples: Iterable[np.ndarray], count: int, batches: int | None
) -> Iterator[Iterable[np.ndarray]]:
    """Yields `samples` unchanged; within the context `source` prefetches up to twice `batches` of them.

    count: images of the source; batches: None, or a source that cannot prefetch, reads nothing ahead.
    """
    if batches is None or not isinstance(source, Prefetching):
        yield samples
        return
    stop = threading.Event()
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as thread:
        try:
            yield _one_ahead(source, iter(samples), count, batches, thread, stop)
        finally:
            stop.set()


def _one_ahead(
    source: Prefetching,
    samples: Iterator[np.ndarray],
    count: int,
    batches: int,
    thread: ThreadPoolExecutor,
    stop: threading.Event,
) -> Iterator[np.ndarray]:
    def following() -> list[np.ndarray]:
        chunk = list(islice(samples, batches))
        if chunk:
            thread.submit(source.prefetch, np.concatenate(chunk) % count, stop)
        return chunk

    before: list[np.ndarray] = []
    current = following()
    while current:
        if before:  # decoded by now, but for a few batches if the window is very small
            thread.submit(source.release, np.concatenate(before) % count)
        ahead = following()
        yield from current
        before, current = current, ahead
