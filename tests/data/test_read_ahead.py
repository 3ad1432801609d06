"""Reading ahead: the same batches, and their bytes in the order of the file before they are decoded."""

import os
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Self

import numpy as np
import pytest

from tests.support.processes import TIMEOUT
from trainer.data.beton.index import read_index
from trainer.data.beton.source import BetonSource
from trainer.data.crop import eval_view
from trainer.data.loader import Loader
from trainer.data.read_ahead import reading_ahead
from trainer.recipe import CenterCrop

BATCHES = [np.arange(start, start + 4)[::-1] for start in (40, 8, 24, 0, 32, 16, 48)]


class Recorder:
    """A source that only records what it is asked to prefetch."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.released: list[list[int]] = []
        self.began = threading.Event()

    def prefetch(self, images: np.ndarray, stop: threading.Event) -> None:
        self.asked.append(images.tolist())
        self.began.set()

    def release(self, images: np.ndarray) -> None:
        self.released.append(images.tolist())


class AtOnce:
    """An executor without a thread: submit() returns when the work is done."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def submit(self, function: Callable[..., None], *arguments: object) -> None:
        function(*arguments)


def test_read_ahead_yields_the_same_batches_and_asks_for_one_group_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.data.read_ahead.ThreadPoolExecutor", AtOnce)
    source = Recorder()
    groups = [np.concatenate(BATCHES[part]).tolist() for part in (slice(0, 3), slice(3, 6), slice(6, 7))]
    with reading_ahead(source, BATCHES, 100, 3) as batches:
        iterator = iter(batches)
        first = next(iterator)
        assert source.asked == groups[:2]
        rest = [*iterator]
    assert all(a is b for a, b in zip([first, *rest], BATCHES, strict=True))
    assert source.asked == groups
    assert source.released == groups[:2], "what was decoded"


def test_read_ahead_samples_of_repeated_images_are_images() -> None:
    source = Recorder()
    with reading_ahead(source, [np.array([3, 13, 25])], 10, 2) as batches:
        assert len([*batches]) == 1
    assert source.asked == [[3, 3, 5]]


def test_read_ahead_ends_its_thread_when_the_epoch_is_left_early() -> None:
    class Endless(Recorder):
        def prefetch(self, images: np.ndarray, stop: threading.Event) -> None:
            self.began.set()
            assert stop.wait(TIMEOUT)

    source = Endless()
    with reading_ahead(source, BATCHES, 100, 2) as batches:
        next(iter(batches))
        assert source.began.wait(TIMEOUT)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read-ahead")]


@pytest.mark.parametrize(("source", "batches"), [(Recorder(), None), (object(), 3)])
def test_read_ahead_is_off_without_a_window_or_a_source_that_can(source: object, batches: int | None) -> None:
    with reading_ahead(source, BATCHES, 100, batches) as samples:
        assert samples is BATCHES


def test_prefetch_reads_every_byte_of_the_images_once_in_the_order_of_the_file(
    photo_betons: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = photo_betons / "train.beton"
    index, read = read_index(path), list[tuple[int, int]]()

    def record(file: int, buffers: list[memoryview], offset: int) -> int:
        read.append((offset, offset + len(buffers[0])))
        return len(buffers[0])

    monkeypatch.setattr(os, "preadv", record)
    images = np.array([60, 3, 17, 4, 5])
    source = BetonSource(path)
    source.prefetch(images, threading.Event())
    source.close()
    assert read == sorted(read) and all(a[1] <= b[0] for a, b in pairwise(read))
    for image in images:
        start, end = int(index.pointers[image]), int(index.pointers[image] + index.sizes[image])
        covered = sum(min(end, stop) - max(start, begin) for begin, stop in read if begin < end and stop > start)
        assert covered == end - start


def test_prefetch_stops_at_once_and_leaves_errors_to_the_decoder(
    photo_betons: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def fail(*_: object) -> int:
        calls.append(1)
        raise OSError("the disk fails")

    monkeypatch.setattr(os, "preadv", fail)
    source, stopped = BetonSource(photo_betons / "train.beton"), threading.Event()
    source.prefetch(np.arange(64), stopped)
    assert len(calls) == 1
    stopped.set()
    source.prefetch(np.arange(64), stopped)
    assert len(calls) == 1
    source.close()


def test_loader_gives_the_same_pixels_when_it_reads_ahead(photo_betons: Path) -> None:
    view = eval_view(CenterCrop(resolution=32, crop_ratio=1.0))
    with Loader(BetonSource(photo_betons / "train.beton"), workers=2) as loader:
        plain, ahead = ([*loader.batches(BATCHES, view, 32, read_ahead=window)] for window in (None, 2))
    assert len(plain) == len(ahead) == len(BATCHES)
    for a, b in zip(plain, ahead, strict=True):
        assert np.array_equal(a.images.numpy(), b.images.numpy()) and np.array_equal(a.samples, b.samples)
