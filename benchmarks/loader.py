"""How fast images are read: ours, FFCV's own Loader, and PIL, side by side on the same photographs.

    python benchmarks/loader.py DIR [--workers 2] [--rounds 5]

DIR/train.beton is written by `prepare folder`; the class folders it was made from are SRC/train for --folder SRC.
Random 224 px crops with a scale of (0.08, 1) and flips; page-cached; the readers alternate, and the best round of each
counts, as the machine may be shared. Prints images per second and the ratio to FFCV.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import tyro
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from trainer.data import open_source
from trainer.data.crop import train_view
from trainer.data.loader import Loader
from trainer.data.manifest import read_manifest
from trainer.data.order import epoch_order
from trainer.recipe import RandomResizedCrop

BATCH = 64
RESOLUTION = 224
FFCV = "FFCV's own Loader"


def ours(data: Path, workers: int, num_classes: int) -> Callable[[int], Iterator[int]]:
    loader = Loader(open_source(str(data), "train", num_classes=num_classes, resolution=RESOLUTION), workers=workers)

    def epoch(number: int) -> Iterator[int]:
        order = np.array_split(epoch_order(0, number, len(loader)), max(1, len(loader) // BATCH))
        view = train_view(RandomResizedCrop(resolution=RESOLUTION), True, 0, number)
        return (len(batch.labels) for batch in loader.batches(order, view, RESOLUTION))

    return epoch


def ffcv_own(data: Path, workers: int) -> Callable[[int], Iterator[int]]:
    from ffcv.fields.basics import IntDecoder
    from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader as FFCVLoader
    from ffcv.loader import OrderOption
    from ffcv.transforms import RandomHorizontalFlip, ToTensor, ToTorchImage

    loader = FFCVLoader(
        str(data / "train.beton"),
        batch_size=BATCH,
        num_workers=workers,
        order=OrderOption.RANDOM,
        drop_last=False,
        pipelines={
            "image": [
                RandomResizedCropRGBImageDecoder((RESOLUTION, RESOLUTION)),
                RandomHorizontalFlip(),
                ToTensor(),
                ToTorchImage(),
            ],
            "label": [IntDecoder(), ToTensor()],
        },
    )
    return lambda number: (len(labels) for _, labels in loader)


def reference(folder: Path, workers: int) -> Callable[[int], Iterator[int]]:
    """torchvision's reference pipeline: PIL, RandomResizedCrop, flip, ToTensor, Normalize, in worker processes."""
    augment = transforms.Compose(
        [
            transforms.RandomResizedCrop(RESOLUTION),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    loader = DataLoader(
        datasets.ImageFolder(str(folder), augment),
        BATCH,
        shuffle=True,
        num_workers=workers,
        persistent_workers=True,
        multiprocessing_context="fork",
    )
    return lambda number: (len(labels) for _, labels in loader)


def main(data: Path, folder: Path | None = None, workers: int = 2, rounds: int = 5, epochs: int = 6) -> None:
    """Reads `epochs` epochs per round from each reader in turn."""
    torch.set_num_threads(1)
    num_classes = len(read_manifest(data / "train.beton").classes)
    readers = {"ours": ours(data, workers, num_classes), FFCV: ffcv_own(data, workers)}
    if folder:
        readers["torchvision's reference, original files"] = reference(folder / "train", workers)
    best = dict.fromkeys(readers, 0.0)
    for round_number in range(rounds + 1):  # the first one compiles and fills the page cache
        for name, epoch in readers.items():
            start = time.perf_counter()
            count = sum(sum(epoch(round_number * epochs + number)) for number in range(epochs))
            if round_number:
                best[name] = max(best[name], count / (time.perf_counter() - start))
    for name, rate in best.items():
        print(f"{name:<40} {rate:8.0f} images/s   {rate / best[FFCV]:.2f}")


if __name__ == "__main__":
    tyro.cli(main)
