"""Which part of an image the model sees, and at which resolution.

Random choices are functions of (seed, epoch, sample). A sample is an image, or one of its repetitions within an epoch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from trainer.recipe.check import check_area, check_not_negative, check_positive_int, check_resolution

__all__ = ["CenterCrop", "PaddedCrop", "ProgressiveResizing", "RandomResizedCrop", "ScaleJitterCrop", "TrainCrop"]


@dataclass(frozen=True, kw_only=True)
class RandomResizedCrop:
    """A crop of random area and aspect ratio, resized (Szegedy et al. 2014, arXiv:1409.4842, section 6)."""

    resolution: int
    """height and width of the crop as the model sees it, in pixels"""
    scale: tuple[float, float] = (0.08, 1.0)
    """range of the crop's area, as a fraction of the image's"""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """range of the crop's width / height"""
    scaled_decoding: bool = False
    """decode a JPEG at 1/2, 1/4 or 1/8 of its size if the source box is at least twice as high and wide as the crop, by
    libjpeg's scaled inverse transform: faster, with different pixels (docs/performance.md). Raw images do not change"""

    def __post_init__(self) -> None:
        check_resolution("train_crop.resolution", self.resolution)
        check_area("train_crop", self.scale, self.ratio)


@dataclass(frozen=True, kw_only=True)
class ScaleJitterCrop:
    """A square crop of the image after its short side was resized to a random length (Simonyan and Zisserman 2014,
    arXiv:1409.1556, section 3.1; He et al. 2015, section 3.4)."""

    resolution: int
    """height and width of the crop as the model sees it, in pixels"""
    short_side: tuple[int, int] = (256, 480)
    """range of the resized short side, in pixels, ends included"""
    scaled_decoding: bool = False
    """as in RandomResizedCrop"""

    def __post_init__(self) -> None:
        check_resolution("train_crop.resolution", self.resolution)
        if not self.resolution <= self.short_side[0] <= self.short_side[1]:
            raise ValueError(
                f"train_crop.short_side={self.short_side} is not a range from resolution={self.resolution}"
            )


@dataclass(frozen=True, kw_only=True)
class PaddedCrop:
    """A random crop of the image padded on all sides (He et al. 2015, section 4.2). Images must be of this size."""

    resolution: int
    """height and width of image and crop, in pixels"""
    padding: int = 4
    """pixels added on each side"""
    fill: tuple[int, int, int] = (0, 0, 0)
    """RGB of the padding, 0 to 255; He pads with zero after subtracting the mean, which is the mean's own colour"""
    padding_mode: Literal["constant", "reflect"] = "constant"
    """reflect: the padding is the image mirrored at its edge, in place of one colour (Zagoruyko and Komodakis 2016)"""
    scaled_decoding: ClassVar[bool] = False
    """no choice here: what is copied is not made smaller"""

    def __post_init__(self) -> None:
        check_resolution("train_crop.resolution", self.resolution)
        if not 0 <= self.padding < self.resolution:
            raise ValueError(f"train_crop.padding={self.padding} is not within 0 and resolution={self.resolution}")
        if not all(0 <= value <= 255 for value in self.fill):
            raise ValueError(f"train_crop.fill={self.fill} is not an RGB value of 0 to 255")
        if self.padding_mode == "reflect" and 2 * self.padding >= self.resolution:
            raise ValueError(
                f"train_crop.padding={self.padding} with padding_mode='reflect' is not below half of "
                f"resolution={self.resolution}"
            )


@dataclass(frozen=True, kw_only=True)
class CenterCrop:
    """The centre square of an image, resized: `crop_ratio` x short side -> resolution. 224/256 is the common test."""

    resolution: int
    """height and width of the crop as the model sees it, in pixels"""
    crop_ratio: float
    """side of the centre square as a fraction of the image's short side"""
    flip_tta: bool = False
    """test-time augmentation: average the logits of the crop and of its mirror image"""
    scaled_decoding: bool = False
    """as in RandomResizedCrop, for the evaluation alone; the protocol of every result then says so"""

    def __post_init__(self) -> None:
        check_resolution("eval_crop.resolution", self.resolution)
        if not 0 < self.crop_ratio <= 1:
            raise ValueError(f"eval_crop.crop_ratio={self.crop_ratio} is not within (0, 1]")


@dataclass(frozen=True, kw_only=True)
class ProgressiveResizing:
    """Smaller training crops in the first epochs, growing to the crop's own resolution; constant within an epoch."""

    start_resolution: int
    """height and width of the crops until `start_epoch`, in pixels"""
    start_epoch: float
    """the resolution grows linearly from here"""
    end_epoch: float
    """and is the crop's own from here"""
    multiple: int = 32
    """resolutions are rounded to the nearest multiple of this many pixels"""

    def __post_init__(self) -> None:
        check_resolution("progressive.start_resolution", self.start_resolution)
        check_positive_int("progressive.multiple", self.multiple)
        check_not_negative("progressive.start_epoch", self.start_epoch)
        if not self.start_epoch <= self.end_epoch:
            raise ValueError(
                f"progressive.end_epoch={self.end_epoch} comes before progressive.start_epoch={self.start_epoch}"
            )


TrainCrop = RandomResizedCrop | ScaleJitterCrop | PaddedCrop
