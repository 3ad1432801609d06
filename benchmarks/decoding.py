"""Scaled decoding beside full: time and pixels of random crops of photographs, as a Markdown table.

    python -m benchmarks.decoding PHOTOS [--rounds 10]

PHOTOS: a folder of class folders of photographs, only read. Each is stored as JPEG with tiles, at most 500 px and at
its own size. One thread reads one image at a time, full and scaled in turn; of an image the fastest of `rounds`
results counts, which other programs disturb least, and of these the mean over the images.
"""

import contextlib
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import tyro

from trainer.data.beton.prepare import PrepareOptions, prepare_folder
from trainer.data.beton.source import BetonSource
from trainer.data.crop import CropBoxes, train_view
from trainer.recipe import RandomResizedCrop

STORED = {
    "at most 500 px": PrepareOptions(write_mode="jpg"),
    "own size": PrepareOptions(write_mode="jpg", max_resolution=None),
}
RESOLUTIONS = (64, 128, 224)


def main(photos: tyro.conf.Positional[Path], rounds: int = 10) -> None:
    print("| stored | crop, px | full, us | scaled, us | times as fast | crops decoded smaller | mean difference |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        for stored, options in STORED.items():
            folder = Path(name) / stored.replace(" ", "_")
            for split in ("train", "val"):
                (folder / "original").mkdir(parents=True, exist_ok=True)
                (folder / "original" / split).symlink_to(photos.absolute())
            with contextlib.redirect_stdout(sys.stderr):
                prepare_folder(folder / "original", folder, options)
            source = BetonSource(folder / "train.beton", check_content=False)
            for resolution in RESOLUTIONS:
                print(f"| {stored} | {resolution} | {row(source, resolution, rounds)} |", flush=True)
            source.close()


def row(source: BetonSource, resolution: int, rounds: int) -> str:
    images = np.arange(len(source.labels))
    view = train_view(RandomResizedCrop(resolution=resolution), True, 0, 0)
    boxes, flips, *_ = view(images, *source.sizes(images))
    pixels = np.empty((2, len(images), resolution, resolution, 3), np.uint8)
    seconds: Any = np.full((2, len(images)), np.inf)
    for image in images:
        for _ in range(rounds):
            for scaled in (0, 1):
                one = slice(image, image + 1)
                crops = CropBoxes(boxes[one], flips[one], scaled=bool(scaled))
                begin = perf_counter()
                source.read(images[one], crops, pixels[scaled, one])
                seconds[scaled, image] = min(seconds[scaled, image], perf_counter() - begin)
    full, smaller = 1e6 * seconds.mean(axis=1)
    share = (boxes[:, 2:].min(axis=1) >= 2 * resolution).mean()
    difference = abs(pixels[0].astype(int) - pixels[1]).mean()
    return f"{full:.0f} | {smaller:.0f} | {full / smaller:.2f} | {share:.0%} | {difference:.2f} of 255"


if __name__ == "__main__":
    tyro.cli(main)
