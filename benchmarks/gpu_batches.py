"""The batches that are measured on a GPU: read alone, lying on the device, and both as training has them."""

import math
from collections.abc import Generator, Iterator
from itertools import count

import numpy as np
import torch

from trainer.data.augment import Augmenter
from trainer.data.contents import Contents
from trainer.data.crop import CropBoxes, train_view
from trainer.data.device import DeviceBatch, device_batches
from trainer.data.loader import Batch, Loader, Source
from trainer.data.order import epoch_order, train_batches
from trainer.data.stream import train_stream
from trainer.distributed.process_group import World
from trainer.recipe import Recipe

EPOCH = 2000  # micro-batches at least: at an epoch's beginning nothing is read ahead, and ImageNet's has 5,000


class Repeated:
    """A source whose images come so often that an epoch has EPOCH micro-batches. Each time they are cut anew."""

    def __init__(self, source: Source, micro_batch_size: int) -> None:
        self.source, self._count = source, len(source.labels)
        self.labels = np.tile(source.labels, math.ceil(EPOCH * micro_batch_size / self._count))
        self.classes, self.name, self.checksum = source.classes, source.name, source.checksum
        self.notes = source.notes

    def sizes(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.source.sizes(images % self._count)

    def read(self, images: np.ndarray, crops: CropBoxes, out: np.ndarray) -> None:
        self.source.read(images % self._count, crops, out)

    def contents(self, most_opened: int) -> Contents:
        return self.source.contents(most_opened)

    def bad_images(self) -> Iterator[str]:
        return self.source.bad_images()

    def close(self) -> None:
        self.source.close()


class Batches:
    """Micro-batches for ever, from each of several places."""

    def __init__(self, recipe: Recipe, loader: Loader, world: World) -> None:
        self._recipe, self._loader, self._world = recipe, loader, world
        size, resolution = recipe.micro_batch_size, recipe.train_crop.resolution
        host = Batch(
            torch.randint(256, (size, resolution, resolution, 3), dtype=torch.uint8),
            torch.randint(min(recipe.num_classes, len(loader.source.classes)), (size,)),
            torch.arange(size),
        )
        self._host = Batch(*(part.pin_memory() for part in host)) if world.device.type == "cuda" else host

    def read(self) -> Generator[Batch, None, None]:
        """The loader's, on the host."""
        recipe = self._recipe
        for epoch in count():
            samples = train_batches(
                epoch_order(recipe.seed, epoch, len(self._loader)),
                first_step=0,
                micro_batch_size=recipe.micro_batch_size,
                accumulation=1,
                rank=0,
                world_size=1,
            )
            view = train_view(recipe.train_crop, recipe.flip, recipe.seed, epoch)
            yield from self._loader.batches(samples, view, recipe.train_crop.resolution)

    def copied(self) -> Generator[torch.Tensor, None, None]:
        """The same noise, copied from pinned memory each time."""
        while True:
            yield self._host.images.to(self._world.device, non_blocking=True)

    def synthetic(self) -> Generator[DeviceBatch, None, None]:
        """Noise that lies on the device, normalised there as training's images are."""
        recipe, device = self._recipe, self._world.device
        images, labels = self._host.images.to(device).permute(0, 3, 1, 2), self._host.labels.to(device)
        batches = (Batch(images, labels, self._host.samples) for _ in count())
        yield from device_batches(batches, device, recipe.mean, recipe.std, Augmenter(recipe, 0))

    def real(self) -> Generator[DeviceBatch, None, None]:
        """The loader's, as train.py gets them."""
        for epoch in count():
            yield from train_stream(self._recipe, self._loader, self._world, epoch=epoch, accumulation=1)
