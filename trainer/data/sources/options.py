"""Options of the sources that may lack validation images."""

from dataclasses import dataclass
from typing import Annotated

from trainer.data.beton.prepare import PrepareOptions
from trainer.errors import UserError
from trainer.settings import NONE_BY_DEFAULT


@dataclass(frozen=True, kw_only=True)
class SplitOptions(PrepareOptions):
    """How to store the images, and where validation images come from."""

    val_fraction: float | None = None
    """fraction of each class of training images to validate on, such as 0.1; None: the source has validation images"""
    seed: int = 0
    """with --val-fraction: which images are drawn"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.val_fraction is not None and not 0 < self.val_fraction < 1:
            raise UserError(f"val_fraction={self.val_fraction} is not between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class FilesOptions(SplitOptions):
    """As SplitOptions, for sources that are files."""

    val: Annotated[tuple[str, ...], NONE_BY_DEFAULT] = ()
    """files of the validation images, as the training files are given; none: they are found by their names"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.val and self.val_fraction is not None:
            raise UserError("--val and --val-fraction both say what to validate on: give one of them")
