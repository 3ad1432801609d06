"""Labelled noise: for tests, and for measuring the training loop without a loader."""

from collections.abc import Iterator

import numpy as np

from trainer.data.contents import Contents
from trainer.data.crop import CropBoxes
from trainer.data.random import RandomStream, bits
from trainer.errors import counted

_DISTINCT = 64  # different images; more would only cost memory


class SyntheticSource:
    """`count` images of noise in `num_classes` classes; an image's brightness tells its class, so it can be learned.

    They are stored at `resolution` px, and read at any other.
    """

    notes: tuple[str, ...] = ()

    def __init__(self, count: int, num_classes: int, resolution: int) -> None:
        images = np.arange(count)
        self.classes = [f"class {label}" for label in range(num_classes)]
        self.checksum = f"synthetic:{count}"
        self.name = f"{counted(count, 'image')} of synthetic noise"
        self.labels = (bits(0, 0, images, RandomStream.ORDER)[:, 0] % np.uint64(num_classes)).astype(np.int64)
        self._resolution = resolution
        self._noise = {resolution: _noise(resolution)}  # by resolution
        self._brightness = np.linspace(0, 127, num_classes).astype(np.uint8)

    def sizes(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        size = np.full(len(images), self._resolution, np.int32)
        return size, size

    def read(self, images: np.ndarray, crops: CropBoxes, out: np.ndarray) -> None:
        """Reads whole images, whatever the crops: there is nothing to see in a crop of noise."""
        resolution = out.shape[1]
        if resolution not in self._noise:
            self._noise[resolution] = _noise(resolution)
        noise = self._noise[resolution][images % _DISTINCT]
        np.add(noise, self._brightness[self.labels[images]][:, None, None, None], out=out)

    def contents(self, most_opened: int) -> Contents:
        return Contents(count=len(self.labels))

    def bad_images(self) -> Iterator[str]:
        """None."""
        return iter(())

    def close(self) -> None:
        """Nothing is held open."""


def _noise(resolution: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 128, (_DISTINCT, resolution, resolution, 3), np.uint8)
