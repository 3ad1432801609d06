"""Small photographs, and what every test of a source asks of the files that were written from it."""

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainer.data.beton.images import Images
from trainer.data.beton.index import verify
from trainer.data.beton.manifest import read_manifest
from trainer.data.beton.prepare import PrepareOptions

RAW = {"write_mode": "raw", "max_resolution": 64, "workers": 1}
AS_IT_IS = PrepareOptions(**RAW)  # type: ignore[arg-type]


def pixels(number: int) -> np.ndarray:
    """A different image for each number, of its own size."""
    return np.random.default_rng(number).integers(0, 256, (8 + number % 5, 9 + number % 7, 3), np.uint8)


def png(number: int) -> bytes:
    return _encoded(number, "PNG")


def jpeg(number: int) -> bytes:
    return _encoded(number, "JPEG")


def decoded(encoded: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))


def contents(path: Path) -> tuple[list[int], list[np.ndarray]]:
    """Labels and pixels of a file of raw images, after its content was verified."""
    index, content = verify(path, read_manifest(path)), path.read_bytes()
    images = [
        np.frombuffer(content, np.uint8, index.sizes[image], index.pointers[image]).reshape(
            index.heights[image], index.widths[image], 3
        )
        for image in range(len(index))
    ]
    return index.labels.tolist(), images


def assert_holds(path: Path, expected: list[tuple[int, np.ndarray]]) -> None:
    """The file holds these labels and pixels, in this order."""
    labels, images = contents(path)
    assert labels == [label for label, _ in expected]
    for image, (_, wanted) in zip(images, expected, strict=True):
        assert np.array_equal(image, wanted)


def stamps_of(prepare: Callable[[], object]) -> dict[str, list[int]]:
    """The stamps of the images that `prepare` would store. An interrupted file is continued while they stay."""
    found: dict[str, list[int]] = {}

    def write_splits(_out: Path, splits: dict[str, Images], _options: PrepareOptions) -> None:
        for split, images in splits.items():
            assert images.stamp is not None
            found[split] = [images.stamp(image) for image in range(len(images.labels))]

    with pytest.MonkeyPatch.context() as patch:
        for name in ("csv_list", "imagenet", "parquet", "torchvision_set", "webdataset"):
            patch.setattr(f"trainer.data.sources.{name}.write_splits", write_splits)
        prepare()
    return found


def changed_by_replacing(file: Path, prepare: Callable[[], object]) -> dict[str, list[bool]]:
    """Which images of each split have another stamp after `file` was replaced."""
    before = stamps_of(prepare)
    os.utime(file, ns=(0, 0))
    after = stamps_of(prepare)
    return {split: [one != other for one, other in zip(before[split], after[split], strict=True)] for split in before}


def _encoded(number: int, kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels(number)).save(file, kind)
    return file.getvalue()
