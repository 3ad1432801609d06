"""The resolution of the training crops as a pure function of the epoch."""

import math
from itertools import groupby

from trainer.recipe import Recipe


def resolution_at(recipe: Recipe, epoch: int) -> int:
    """Returns height and width of all training crops of `epoch`, in pixels: as FFCV's ImageNet trainer grows them.

    Between the two epochs the straight line's value is rounded to the nearest multiple, halves to the even one, but
    never beyond the two resolutions it lies between. Where both epochs are the same, that epoch has the crop's own.
    """
    own, progressive = recipe.train_crop.resolution, recipe.progressive
    if progressive is None or epoch >= progressive.end_epoch:
        return own
    start = progressive.start_resolution
    if epoch <= progressive.start_epoch:
        return start
    progress = (epoch - progressive.start_epoch) / (progressive.end_epoch - progressive.start_epoch)
    rounded = round((start + (own - start) * progress) / progressive.multiple) * progressive.multiple
    return min(max(rounded, min(start, own)), max(start, own))


def resolution_changes(recipe: Recipe) -> dict[int, int]:
    """Returns the resolution from each epoch on in which it changes, the first one included: {0: 160, 12: 192}."""
    end = recipe.progressive.end_epoch if recipe.progressive else 0
    growing = range(min(recipe.epochs, math.ceil(end) + 1))
    return {next(epochs): size for size, epochs in groupby(growing, lambda epoch: resolution_at(recipe, epoch))}


def resolutions(recipe: Recipe) -> set[int]:
    """Returns all resolutions that training has, in pixels."""
    return {*resolution_changes(recipe).values()}
