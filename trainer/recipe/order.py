"""The order of the training images, where it is not one permutation of all of them."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.recipe.check import check_positive_int

__all__ = ["QuasiRandom"]


@dataclass(frozen=True, kw_only=True)
class QuasiRandom:
    """An order for a file that is larger than memory: stretches of it are read in sequence, then shuffled.

    An epoch takes the stretches in random order and shuffles the images of as many stretches as fill a window. Each
    byte is then read from the disk once, in long reads. The idea is that of FFCV's OrderOption.QUASI_RANDOM (Leclerc et
    al. 2023, arXiv:2306.12517, section 4). In a file that is sorted by class, a window lacks classes: write it
    with `prepare --shuffle`, or use short stretches.
    """

    stretch: int = 64
    """consecutive images in the file that are read together"""
    window: int = 16_384
    """images that are shuffled with each other; the page cache should hold two windows"""

    def __post_init__(self) -> None:
        check_positive_int("order.stretch", self.stretch)
        check_positive_int("order.window", self.window)
        if self.window % self.stretch:
            raise ValueError(f"order.window={self.window} is not a multiple of order.stretch={self.stretch}")
