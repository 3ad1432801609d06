"""Batches for the model: on its device, augmented, normalised, channels-last."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import NamedTuple

import torch

from trainer.data.augment import Augmenter
from trainer.data.loader import Batch


class DeviceBatch(NamedTuple):
    images: torch.Tensor  # float32, shape (n, 3, resolution, resolution), channels-last
    labels: torch.Tensor  # int64, shape (n,)
    samples: torch.Tensor  # int64, shape (n,)


@cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    """One stream per process: torch caches freed memory per stream, and a new stream could not reuse it."""
    return torch.cuda.Stream(device)


def device_batches(
    batches: Iterable[Batch],
    device: torch.device,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    augmenter: Augmenter | None = None,
    is_ready: Callable[[], bool] = lambda: True,
) -> Iterator[DeviceBatch]:
    """Copies uint8 images to the device, then augments and normalises them there.

    On a GPU this happens one batch ahead, on a stream of its own, which does not wait for the model. A batch's memory
    is free when the GPU has done its step. So the batches of all steps that the host is ahead are in memory: see
    RunAhead.

    `is_ready`: whether the next of `batches` can be had without waiting. If not, nothing is prepared ahead: a batch is
    never held back for the one after it. Torch's cache of pinned memory takes a batch's memory back, and waits for the
    copy before it reuses it.
    """
    scale = torch.tensor([1 / (255 * value) for value in std], device=device).view(1, 3, 1, 1)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=device).view(1, 3, 1, 1)

    def prepare(batch: Batch) -> DeviceBatch:
        images, labels, samples = (tensor.to(device, non_blocking=True) for tensor in batch)
        if augmenter:
            images = augmenter.pixels(images, batch.samples.numpy())
        images = images.float().mul_(scale).add_(shift)
        if augmenter:
            images = augmenter.normalised(images, batch.samples.numpy())
        return DeviceBatch(images, labels, samples)

    if device.type != "cuda":
        yield from map(prepare, batches)
        return

    stream, source = _copy_stream(device), iter(batches)
    prepared: deque[tuple[DeviceBatch, torch.cuda.Event]] = deque()
    while True:
        while not prepared or (len(prepared) == 1 and is_ready()):
            if (batch := next(source, None)) is None:
                break
            with torch.cuda.stream(stream):
                prepared.append((prepare(batch), stream.record_event()))
        if not prepared:
            return
        following, done = prepared.popleft()
        current = torch.cuda.current_stream(device)
        current.wait_event(done)
        for tensor in following:  # allocated on `stream`: not to be reused while the model still reads it
            tensor.record_stream(current)
        yield following
