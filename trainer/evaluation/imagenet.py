"""What is known of ImageNet-1k: its classes by WordNet id, and their names. timm ships both tables."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from trainer.recipe import Recipe

if TYPE_CHECKING:
    from timm.data.imagenet_info import ImageNetInfo

_WNID = re.compile(r"n\d{8}")


@cache
def _info() -> ImageNetInfo:
    from timm.data.imagenet_info import ImageNetInfo  # here: timm imports torch's compiler, which takes seconds

    return ImageNetInfo()


def imagenet_classes(recipe: Recipe) -> list[str] | None:
    """Returns the classes of a network with ImageNet's 1,000 outputs, by WordNet id, as every library sorts them.

    None for a recipe of other data: then a weights file without names says nothing of its classes.
    """
    if not recipe.dataset.startswith("ImageNet-1k") or recipe.num_classes != 1000:
        return None
    return [_info().index_to_label_name(index) for index in range(recipe.num_classes)]


def is_wordnet_id(name: str) -> bool:
    """Whether it has the form of ImageNet's class names: "n01440764"."""
    return _WNID.fullmatch(name) is not None


def real_labels_json() -> bytes:
    """Returns all correct labels of each validation image (Beyer et al. 2020, arXiv:2006.07159), as a list in JSON."""
    return files("timm.data").joinpath("_info/imagenet_real_labels.json").read_bytes()


def class_name(name: str) -> str:
    """Returns `name`, or for the WordNet id of an ImageNet class its first lemma: "n01440764" -> "tench"."""
    if not is_wordnet_id(name):
        return name
    try:
        lemmas: str = _info().label_name_to_description(name)
    except KeyError:
        return name
    return lemmas.partition(",")[0]
