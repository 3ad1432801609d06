"""The data facts of a plan: the number of images and their sizes, found without decoding images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from trainer.data.contents import Contents
from trainer.data.formats import Split, find_split, read_contents
from trainer.errors import UserError
from trainer.recipe import PaddedCrop, Recipe
from trainer.recipe.datasets import IMAGES

_SAMPLED = 256  # images of class folders whose size is read: each is a file to open


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """Both splits."""

    name: str
    train: Contents
    val: Contents


def data_facts(recipe: Recipe, data: str | None) -> DataFacts:
    """The facts about `data`; for None those of the recipe's own data set.

    Raises UserError if the data set is not known either, or if a file does not match its manifest.
    """
    if data is not None:
        return DataFacts(name=data, train=_split(data, "train"), val=_split(data, "val"))
    if recipe.dataset not in IMAGES:
        raise UserError(
            f"{recipe.name} is for {recipe.dataset!r}, and the number of its images is not known: add --data DIR"
        )
    train, val = IMAGES[recipe.dataset]
    return DataFacts(name=recipe.dataset, train=Contents(count=train), val=Contents(count=val))


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


def _split(data: str, split: Split) -> Contents:
    return read_contents(find_split(data, split), most_opened=_SAMPLED)


def _share(found: Contents, wrong: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> str:
    """The number of wrong images, "12 of 196 (6 %)"; empty if there are none, or if sizes are not known."""
    if found.heights is None or found.widths is None:
        return ""
    hits, sampled = int(wrong(found.heights, found.widths).sum()), len(found.heights)
    if not hits:
        return ""
    sample = "" if sampled == found.count else " of a sample"
    return f"{hits:,} of {sampled:,} ({hits / sampled:.1%}){sample}"
