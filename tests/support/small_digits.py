"""The data set of the small recipes."""

from dataclasses import replace
from pathlib import Path

from trainer.data.beton.prepare import SMALL_IMAGES, prepare_digits


def prepare_small_digits(folder: Path) -> None:
    """scikit-learn's digits as train.beton (1,437 images) and val.beton (360), at 16 px.

    At 32 px, as `prepare digits` writes them, the small recipe's steps take four times as long.
    """
    prepare_digits(folder, replace(SMALL_IMAGES, max_resolution=16))
