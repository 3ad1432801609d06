"""Colours, augmentation policies, erased boxes, mixtures of two images.

Random choices are functions of (seed, epoch, sample), those of mixtures of (seed, step, micro-batch). A sample is an
image, or one of its repetitions within an epoch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from trainer.recipe.check import check_area, check_not_negative, check_positive_int, check_share

__all__ = [
    "AugMix",
    "Augmentation",
    "AutoAugment",
    "Color",
    "ColorJitter",
    "Mixing",
    "PcaLighting",
    "RandAugment",
    "RandomErasing",
    "TrivialAugmentWide",
]


@dataclass(frozen=True, kw_only=True)
class ColorJitter:
    """Random brightness, contrast and saturation, in random order, as torchvision's transform of this name."""

    brightness: float = 0.0
    """the image is blended with black, by a factor uniform in 1 +- this"""
    contrast: float = 0.0
    """blended with its mean gray"""
    saturation: float = 0.0
    """blended with its grayscale version"""

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation"):
            check_share(f"color.{name}", getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class PcaLighting:
    """Random amounts of the principal components of ImageNet's colours (Krizhevsky et al. 2012, section 4.1)."""

    std: float = 0.1
    """standard deviation of the amounts, in units of the components' own deviations"""

    def __post_init__(self) -> None:
        check_not_negative("color.std", self.std)


@dataclass(frozen=True, kw_only=True)
class TrivialAugmentWide:
    """One random operation of 14 with a random strength of 31 (Müller and Hutter 2021, arXiv:2103.10158, Table 5)."""

    fill: ClassVar[Literal["black", "mean"]] = "black"
    """colour that shears, shifts and rotations bring in from outside the image"""
    interpolation: Literal["nearest", "bilinear"] = "nearest"
    """interpolation of shears, shifts and rotations"""


@dataclass(frozen=True, kw_only=True)
class RandAugment:
    """A few random operations of one strength (Cubuk et al. 2019, arXiv:1909.13719), as timm's "rand-m7-mstd0.5-inc1":
    operations whose strength grows with the magnitude, each of them applied with a probability of its own."""

    operations: int = 2
    """operations drawn for each image"""
    magnitude: float = 9.0
    """strength, of at most 10"""
    magnitude_std: float = 0.5
    """standard deviation of the strength, drawn for each operation"""
    probability: float = 0.5
    """that a drawn operation is applied"""
    fill: ClassVar[Literal["black", "mean"]] = "mean"
    interpolation: ClassVar[Literal["nearest", "bilinear"]] = "bilinear"

    def __post_init__(self) -> None:
        check_positive_int("augmentation.operations", self.operations)
        check_not_negative("augmentation.magnitude_std", self.magnitude_std)
        check_share("augmentation.probability", self.probability)
        if not 0 <= self.magnitude <= 10:
            raise ValueError(f"augmentation.magnitude={self.magnitude} is not within [0, 10]")


@dataclass(frozen=True, kw_only=True)
class AutoAugment:
    """Two operations, in one of 25 combinations that a search found for a data set (Cubuk et al. 2018,
    arXiv:1805.09501); probabilities and strengths are part of the combination, as in torchvision."""

    policy: Literal["imagenet", "cifar10"] = "imagenet"
    """the data set whose combinations are used"""
    fill: ClassVar[Literal["black", "mean"]] = "black"
    interpolation: Literal["nearest", "bilinear"] = "nearest"
    """of shears, shifts and rotations"""


@dataclass(frozen=True, kw_only=True)
class AugMix:
    """The image mixed with several chains of operations on it, by random shares (Hendrycks et al. 2020,
    arXiv:1912.02781, algorithm 1, with alpha = 1), as torchvision's; without the paper's consistency loss."""

    severity: int = 3
    """strength of the operations, 1 to 10: the number of magnitudes, from the weakest on, that each can draw"""
    width: int = 3
    """chains that are mixed"""
    depth: int | None = None
    """operations of a chain; None: 1 to 3, drawn for each chain"""
    all_operations: bool = True
    """also brightness, colour, contrast and sharpness, which ImageNet-C's corruptions resemble; the paper left them out
    to be tested on that data set"""
    fill: ClassVar[Literal["black", "mean"]] = "black"
    interpolation: ClassVar[Literal["nearest", "bilinear"]] = "bilinear"

    def __post_init__(self) -> None:
        if not 1 <= self.severity <= 10:
            raise ValueError(f"augmentation.severity={self.severity} is not within 1 and 10")
        check_positive_int("augmentation.width", self.width)
        if self.depth is not None:
            check_positive_int("augmentation.depth", self.depth)


@dataclass(frozen=True, kw_only=True)
class RandomErasing:
    """A random box of the normalised image set to zero, the mean colour (Zhong et al. 2017, arXiv:1708.04896)."""

    probability: float
    """share of the images that lose a box"""
    scale: tuple[float, float] = (0.02, 0.33)
    """range of the box's area, as a fraction of the image's"""
    ratio: tuple[float, float] = (0.3, 3.3)
    """range of the box's height / width"""

    def __post_init__(self) -> None:
        check_share("erasing.probability", self.probability)
        check_area("erasing", self.scale, self.ratio)


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """Mixes each image of a micro-batch, and its label, with another one; one kind and one lambda per micro-batch.

    mixup: the weighted mean of both (Zhang et al. 2017, arXiv:1710.09412); cutmix: a box of one pasted into the other
    (Yun et al. 2019, arXiv:1905.04899).
    """

    mixup_alpha: float | None = None
    """lambda is drawn from Beta(alpha, alpha); None: no mixup"""
    cutmix_alpha: float | None = None
    """the same of the kept area; None: no cutmix"""
    cutmix_probability: float = 0.5
    """fraction of the mixed micro-batches that get cutmix if both are on"""
    probability: float = 1.0
    """fraction of the micro-batches that are mixed at all"""

    def __post_init__(self) -> None:
        for name in ("mixup_alpha", "cutmix_alpha"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"mixing.{name}={value} is not positive; mixing.probability=0 mixes nothing")
        if self.mixup_alpha is None and self.cutmix_alpha is None:
            raise ValueError("mixing needs mixup_alpha or cutmix_alpha; mixing.probability=0 mixes nothing")
        check_share("mixing.cutmix_probability", self.cutmix_probability)
        check_share("mixing.probability", self.probability)


Color = ColorJitter | PcaLighting
Augmentation = TrivialAugmentWide | RandAugment | AutoAugment | AugMix
