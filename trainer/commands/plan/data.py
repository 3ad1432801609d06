"""The data facts of a plan: the number of images and their sizes, found without decoding images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer.data import FOLDERS, Split, open_source
from trainer.data.beton.index import verify
from trainer.data.beton.manifest import read_manifest
from trainer.errors import UserError
from trainer.recipe import PaddedCrop, Recipe
from trainer.recipe.datasets import IMAGES

_SAMPLED = 256  # images of class folders whose size is read: each is a file to open


@dataclass(frozen=True, kw_only=True)
class SplitFacts:
    """One split's images."""

    count: int
    classes: int | None = None
    heights: np.ndarray | None = None  # px of all images, or of a sample
    widths: np.ndarray | None = None
    file_bytes: int | None = None  # length of the .beton


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """Both splits."""

    name: str
    train: SplitFacts
    val: SplitFacts


def data_facts(recipe: Recipe, data: str | None) -> DataFacts:
    """The facts about `data`; for None those of the recipe's own data set.

    Raises UserError if the data set is not known either, or if a file does not match its manifest.
    """
    if data is not None:
        return DataFacts(name=data, train=_split(recipe, data, "train"), val=_split(recipe, data, "val"))
    if recipe.dataset not in IMAGES:
        raise UserError(
            f"{recipe.name} is for {recipe.dataset!r}, and the number of its images is not known: add --data DIR"
        )
    train, val = IMAGES[recipe.dataset]
    return DataFacts(name=recipe.dataset, train=SplitFacts(count=train), val=SplitFacts(count=val))


def data_warnings(recipe: Recipe, facts: DataFacts) -> list[str]:
    """Where data and recipe do not match."""
    notes = []
    for split, found in (("train", facts.train), ("val", facts.val)):
        if found.classes is not None and found.classes != recipe.num_classes:
            notes.append(
                f"{split} in {facts.name} has {found.classes} classes, but num_classes={recipe.num_classes}: training "
                f"would refuse it, use --num-classes {found.classes}"
            )
    crop, evaluated = recipe.train_crop, recipe.eval_crop
    if isinstance(crop, PaddedCrop):
        wrong = _share(facts.train, lambda height, width: (height != crop.resolution) | (width != crop.resolution))
        if wrong:
            notes.append(
                f"{wrong} training images are not {crop.resolution} x {crop.resolution} px: training would refuse "
                f"them, prepare the data at this size"
            )
        return notes
    small = _share(facts.train, lambda height, width: np.minimum(height, width) < crop.resolution)
    if small:
        notes.append(
            f"{small} training images are smaller than the crop of {crop.resolution} px: even whole they are enlarged, "
            f"see --train-crop.resolution and prepare's --max-resolution"
        )
    ratio = evaluated.crop_ratio
    small = _share(facts.val, lambda height, width: ratio * np.minimum(height, width) < evaluated.resolution)
    if small:
        notes.append(f"{small} validation images are enlarged to {evaluated.resolution} px, see --eval-crop.resolution")
    return notes


def _split(recipe: Recipe, data: str, split: Split) -> SplitFacts:
    """Facts from the index of a .beton, or from the file names and a sample's headers in class folders.

    It prefers the format that training prefers.
    """
    beton = Path(data) / f"{split}.beton"
    if beton.exists():
        manifest = read_manifest(beton)
        index = verify(beton, manifest, check_content=False)
        return SplitFacts(
            count=manifest.count,
            classes=len(manifest.classes),
            heights=index.heights,
            widths=index.widths,
            file_bytes=manifest.sizes.bytes,
        )
    for name in FOLDERS[split]:
        if (Path(data) / name).is_dir():
            from trainer.data.image_folder import ImageFolderSource

            source = ImageFolderSource(Path(data) / name)
            count = len(source.labels)
            heights, widths = source.sizes(np.unique(np.linspace(0, count - 1, _SAMPLED).astype(np.int64)))
            return SplitFacts(count=count, classes=len(source.classes), heights=heights, widths=widths)
    # synthetic images, of the recipe's size; or an error that says what is missing
    other = open_source(data, split, num_classes=recipe.num_classes, resolution=recipe.train_crop.resolution)
    other.close()
    return SplitFacts(count=len(other.labels))


def _share(found: SplitFacts, wrong: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> str:
    """The number of wrong images, "12 of 196 (6 %)"; empty if there are none, or if sizes are not known."""
    if found.heights is None or found.widths is None:
        return ""
    hits, sampled = int(wrong(found.heights, found.widths).sum()), len(found.heights)
    if not hits:
        return ""
    sample = "" if sampled == found.count else " of a sample"
    return f"{hits:,} of {sampled:,} ({hits / sampled:.1%}){sample}"
