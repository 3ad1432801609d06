"""Batches in order, prefetched by threads. A Source supplies the images; all formats share this loader.

Compared with FFCV's own Loader: an exception reaches the caller instead of stopping a thread that the caller then
waits for; an epoch that is left early gives its buffers and threads back; every batch owns its memory, so it stays
valid; and the scratch memory is one image per thread, not one per image of every batch in flight.
"""

import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import pairwise
from typing import NamedTuple, Protocol, Self

import numpy as np
import torch

from trainer.data.contents import Contents
from trainer.data.crop import CropBoxes, CropFn, reflect_edges
from trainer.data.read_ahead import reading_ahead
from trainer.errors import UserError

BATCHES_AHEAD = 3  # batches being read while the caller works on one


class Source(Protocol):
    """Labelled images that can be read by their index, from several threads at once."""

    labels: np.ndarray
    """int64, shape (number of images,), from 0 to len(classes) - 1"""
    classes: list[str]
    name: str
    """what these images are: a phrase for the result's protocol"""

    @property
    def checksum(self) -> str:
        """Identifies the content, whatever the format. Image files are read for it once."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of these images, one line each."""
        ...

    def sizes(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Heights and widths of the stored images in pixels: integers, each of shape (n,)."""
        ...

    def read(self, images: np.ndarray, crops: CropBoxes, out: np.ndarray) -> None:
        """Writes what is cut from the images into `out`: uint8 RGB, shape (n, resolution, resolution, 3).

        Where every box has the height and width of `out`, it need not be square. Raises LocalError, naming file and
        image, if one cannot be decoded.
        """
        ...

    def contents(self, most_opened: int) -> Contents:
        """Returns what there is, without decoding an image.

        A format without an index of sizes opens at most `most_opened` images for theirs, evenly over all.
        """
        ...

    def bad_images(self) -> Iterator[str]:
        """Yields a line for each image that cannot be decoded, unless it is known that all can be."""
        ...

    def close(self) -> None: ...


class Batch(NamedTuple):
    images: torch.Tensor  # uint8, shape (n, 3, resolution, resolution), channels-last
    labels: torch.Tensor  # int64, shape (n,)
    samples: torch.Tensor  # int64, shape (n,): what each was drawn as; image = sample % number of images (order.py)


class Loader:
    """Reads batches of one source on `workers` threads. A context manager: leaving it ends the threads."""

    def __init__(self, source: Source, *, workers: int, pin_memory: bool = False) -> None:
        self.source = source
        self._workers = workers
        self._pin_memory = pin_memory
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="loader")
        self._following: list[Future[None]] = []
        self.waits_since: float | None = None
        """when the caller began to wait for the batch it waits for now, in seconds of time.monotonic()"""

    def __len__(self) -> int:
        return len(self.source.labels)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)
        self.source.close()

    def batches(
        self, samples: Iterable[np.ndarray], view: CropFn, resolution: int, read_ahead: int | None = None
    ) -> Iterator[Batch]:
        """Yields one batch for each array of samples, in their order; without repetition samples are image indices.

        read_ahead: batches whose bytes are read into the page cache together, one such group ahead of the current one.
        """
        in_flight: deque[tuple[Batch, list[Future[None]]]] = deque()
        try:
            with reading_ahead(self.source, samples, len(self), read_ahead) as samples:
                for batch in samples:
                    in_flight.append(self._start(batch, view, resolution))
                    if len(in_flight) > BATCHES_AHEAD:
                        yield self._next_of(in_flight)
                while in_flight:
                    yield self._next_of(in_flight)
        finally:  # left early, or one failed: nothing may still write into the buffers of the rest
            futures = [future for _, parts in in_flight for future in parts]
            # cancelled ones are not waited for: nothing marks them as done once the pool has shut down
            wait([future for future in futures if not future.cancel()])

    def _start(self, samples: np.ndarray, view: CropFn, resolution: int) -> tuple[Batch, list[Future[None]]]:
        images = samples % len(self)
        pixels = torch.empty((len(samples), resolution, resolution, 3), dtype=torch.uint8, pin_memory=self._pin_memory)
        out = pixels.numpy()

        def read(part: slice) -> None:
            crops = view(samples[part], *self.source.sizes(images[part]))
            self.source.read(images[part], crops, out[part])
            if crops.reflect:
                reflect_edges(crops, out[part])

        parts = [slice(start, stop) for start, stop in _split(len(samples), self._workers)]
        futures = [self._threads.submit(read, part) for part in parts]
        labels = torch.from_numpy(self.source.labels[images])
        numbers = torch.from_numpy(np.ascontiguousarray(samples))
        if self._pin_memory:  # else their copy to the device would wait for what runs there
            labels, numbers = labels.pin_memory(), numbers.pin_memory()
        return Batch(pixels.permute(0, 3, 1, 2), labels, numbers), futures

    def _next_of(self, in_flight: deque[tuple[Batch, list[Future[None]]]]) -> Batch:
        batch = self._finish(*in_flight.popleft())
        self._following = in_flight[0][1] if in_flight else []
        return batch

    @property
    def is_ready(self) -> bool:
        """Whether the batch after the latest one has been read, so that asking for it does not wait."""
        return all(future.done() for future in self._following)

    def _finish(self, batch: Batch, futures: list[Future[None]]) -> Batch:
        self.waits_since = time.monotonic()
        wait(futures)  # all of them, so that none still writes when the first one's exception leaves
        self.waits_since = None
        for future in futures:
            future.result()
        return batch


def check_square(source: Source, resolution: int) -> None:
    """Raises UserError if a padded crop would not find images of its own size."""
    images = np.arange(len(source.labels))
    heights, widths = source.sizes(images)
    wrong = np.flatnonzero((heights != resolution) | (widths != resolution))
    if len(wrong):
        raise UserError(
            f"train_crop.resolution={resolution} needs images of {resolution} x {resolution} px, but image {wrong[0]} "
            f"is {heights[wrong[0]]} x {widths[wrong[0]]}: prepare the data at this size, or use RandomResizedCrop"
        )


def _split(count: int, parts: int) -> list[tuple[int, int]]:
    edges = [count * part // parts for part in range(parts + 1)]
    return [(start, stop) for start, stop in pairwise(edges) if start < stop]
