"""What is done to the pixels of each image, and in which order: pure functions of (seed, epoch, sample).

    uint8       color jitter, then TrivialAugment or RandAugment
    normalised  PCA lighting, then random erasing

All draws are made on the host; the device gets only which images belong together and with which arguments.
"""

from collections.abc import Iterator
from itertools import permutations

import numpy as np
import torch

from trainer.data.operations import Operation, apply, upload
from trainer.data.random import RandomStream, uniform
from trainer.recipe import ColorJitter, PcaLighting, RandAugment, RandomErasing, Recipe, TrivialAugmentWide

Round = tuple[np.ndarray, np.ndarray]
"""For each image the Operation (int64) and its argument (float64), both of shape (n,)"""


class Augmenter:
    """The augmentation of one epoch's images. Draws depend on an image's number, never on its batch."""

    def __init__(self, recipe: Recipe, epoch: int) -> None:
        self.recipe = recipe
        self.epoch = epoch

    def pixels(self, images: torch.Tensor, samples: np.ndarray) -> torch.Tensor:
        """Colour jitter and policy on `images`: uint8, shape (n, 3, h, w), on any device; never changed themselves.

        samples: int64, shape (n,), on the host. The result is channels-last, or `images` where nothing is asked.
        """
        rand_augment = isinstance(self.recipe.augmentation, RandAugment)
        fill = _mean_colour(self.recipe) if rand_augment else (0, 0, 0)
        for operations, arguments in self._rounds(samples, *images.shape[2:]):
            images = apply(images, operations, arguments, fill=fill, bilinear=rand_augment)
        return images

    def normalised(self, images: torch.Tensor, samples: np.ndarray) -> torch.Tensor:
        """PCA lighting and random erasing, in place: float32, shape (n, 3, h, w), ([0, 1] - mean) / std of the recipe.

        samples: int64, shape (n,), on the host.
        """
        if isinstance(self.recipe.color, PcaLighting):
            offsets = lighting_offsets(self.recipe.color, self._uniform(samples, RandomStream.COLOR, 3))
            offsets = (offsets / np.array(self.recipe.std)).astype(np.float32)
            images.add_(upload(offsets, images.device).view(-1, 3, 1, 1))
        if self.recipe.erasing is not None:
            draws = self._uniform(samples, RandomStream.ERASING, 1 + 4 * _TRIES)
            for image, box in zip(images, erased_boxes(self.recipe.erasing, draws, *images.shape[2:]), strict=True):
                top, left, height, width = box.tolist()
                if height and width:
                    image[:, top : top + height, left : left + width].zero_()
        return images

    def _rounds(self, samples: np.ndarray, height: int, width: int) -> Iterator[Round]:
        match self.recipe.color:
            case ColorJitter() as jitter:
                yield from jitter_rounds(jitter, self._uniform(samples, RandomStream.COLOR, 4))
        match self.recipe.augmentation:
            case TrivialAugmentWide():
                yield trivial_round(self._uniform(samples, RandomStream.POLICY, 3))
            case RandAugment() as policy:
                draws = self._uniform(samples, RandomStream.POLICY, 4 * policy.operations)
                for part in np.split(draws, policy.operations, axis=1):
                    yield rand_round(policy, part, height, width)

    def _uniform(self, samples: np.ndarray, draw: RandomStream, count: int) -> np.ndarray:
        return uniform(self.recipe.seed, self.epoch, samples, draw, count)


def _mean_colour(recipe: Recipe) -> tuple[int, int, int]:
    red, green, blue = (min(255, round(255 * value)) for value in recipe.mean)
    return red, green, blue


def _normal(draws: np.ndarray) -> np.ndarray:
    """Normally distributed numbers of uniform ones, by the inverse of the distribution function: one of one."""
    above_zero = np.maximum(draws, 2.0**-54)
    normal: np.ndarray = torch.special.ndtri(torch.from_numpy(above_zero)).numpy()
    return normal


# ------------------------------------------------------------------------------------------------------- colour jitter

_JITTERED = (Operation.BRIGHTNESS, Operation.CONTRAST, Operation.COLOR)
_ORDERS = np.array(list(permutations(range(3))))


def jitter_rounds(jitter: ColorJitter, draws: np.ndarray) -> list[Round]:
    """Factors and order as torchvision's ColorJitter. `draws`: uniform, shape (n, 4): three factors, the order."""
    strengths = np.array([jitter.brightness, jitter.contrast, jitter.saturation])
    if not strengths.any():
        return []
    operations = np.where(strengths > 0, _JITTERED, Operation.IDENTITY)
    factors = 1 + strengths * (2 * draws[:, :3] - 1)
    orders = _ORDERS[(draws[:, 3] * len(_ORDERS)).astype(np.int64)]
    images = np.arange(len(draws))
    return [(operations[which], factors[images, which]) for which in orders.T]


# ------------------------------------------------------------------------------------------------------- TrivialAugment


def _trivial_table() -> dict[Operation, tuple[np.ndarray, bool]]:
    """The wide space of Müller and Hutter 2021, Table 5: per operation the magnitudes of its bins (float64, shape
    (31,)) and whether they get a random sign. Numbers as in torchvision's TrivialAugmentWide, float32 included."""

    def bins(first: float, last: float) -> np.ndarray:
        return torch.linspace(first, last, _BINS).numpy().astype(np.float64)

    nothing = np.zeros(_BINS)
    solarized_from = np.ceil((255 * bins(1.0, 0.0)).astype(np.float32)).astype(np.float64)
    return {
        Operation.IDENTITY: (nothing, False),
        Operation.SHEAR_X: (bins(0.0, 0.99), True),
        Operation.SHEAR_Y: (bins(0.0, 0.99), True),
        Operation.TRANSLATE_X: (np.floor(bins(0.0, 32.0)), True),
        Operation.TRANSLATE_Y: (np.floor(bins(0.0, 32.0)), True),
        Operation.ROTATE: (bins(0.0, 135.0), True),
        Operation.BRIGHTNESS: (bins(0.0, 0.99), True),
        Operation.COLOR: (bins(0.0, 0.99), True),
        Operation.CONTRAST: (bins(0.0, 0.99), True),
        Operation.SHARPNESS: (bins(0.0, 0.99), True),
        Operation.POSTERIZE: (8 - np.rint(np.arange(_BINS) / 5), False),
        Operation.SOLARIZE: (solarized_from, False),
        Operation.AUTOCONTRAST: (nothing, False),
        Operation.EQUALIZE: (nothing, False),
    }


_BINS = 31
_FACTORS = (Operation.BRIGHTNESS, Operation.COLOR, Operation.CONTRAST, Operation.SHARPNESS)  # 1 changes nothing
_TRIVIAL_TABLE = _trivial_table()
_TRIVIAL_OPERATIONS = np.array(list(_TRIVIAL_TABLE))
_TRIVIAL_MAGNITUDES = np.stack([magnitudes for magnitudes, _ in _TRIVIAL_TABLE.values()])
_TRIVIAL_SIGNED = np.array([signed for _, signed in _TRIVIAL_TABLE.values()])


def trivial_round(draws: np.ndarray) -> Round:
    """One operation for each image, with one of 31 magnitudes. `draws`: uniform, shape (n, 3): operation, bin, sign."""
    which = (draws[:, 0] * len(_TRIVIAL_OPERATIONS)).astype(np.int64)
    magnitudes = _TRIVIAL_MAGNITUDES[which, (draws[:, 1] * _BINS).astype(np.int64)]
    magnitudes = np.where(_TRIVIAL_SIGNED[which] & (draws[:, 2] < 0.5), -magnitudes, magnitudes)
    operations = _TRIVIAL_OPERATIONS[which]
    return operations, magnitudes + np.isin(operations, _FACTORS)


# ---------------------------------------------------------------------------------------------------------- RandAugment

_RAND_OPERATIONS = np.array(
    [
        Operation.AUTOCONTRAST,
        Operation.EQUALIZE,
        Operation.INVERT,
        Operation.ROTATE,
        Operation.POSTERIZE,
        Operation.SOLARIZE,
        Operation.SOLARIZE_ADD,
        Operation.COLOR,
        Operation.CONTRAST,
        Operation.BRIGHTNESS,
        Operation.SHARPNESS,
        Operation.SHEAR_X,
        Operation.SHEAR_Y,
        Operation.TRANSLATE_X,
        Operation.TRANSLATE_Y,
    ]
)


def rand_round(policy: RandAugment, draws: np.ndarray, height: int, width: int) -> Round:
    """One of RandAugment's operations for each image, or with 1 - `probability` none.

    `draws`: uniform, shape (n, 4): operation, whether it is applied, magnitude, sign. Operations, probability and
    magnitudes are those of timm's "rand-m..-mstd..-inc1"; what differs from timm, which works on Pillow images:
    shears, shifts and turns interpolate bilinearly, where timm draws bilinear or bicubic, and round to the nearest
    value; colours round as torchvision's tensors, up to two values from Pillow's.
    """
    operations = _RAND_OPERATIONS[(draws[:, 0] * len(_RAND_OPERATIONS)).astype(np.int64)]
    magnitudes = np.clip(policy.magnitude + policy.magnitude_std * _normal(draws[:, 2]), 0, 10)
    signs = np.where(draws[:, 3] < 0.5, -1.0, 1.0)
    arguments = rand_arguments(operations, magnitudes, signs, height, width)
    return np.where(draws[:, 1] < policy.probability, operations, Operation.IDENTITY), arguments


def rand_arguments(
    operations: np.ndarray, magnitudes: np.ndarray, signs: np.ndarray, height: int, width: int
) -> np.ndarray:
    """Arguments of `operations` at `magnitudes` of 0 to 10 and `signs` of 1 or -1, each of shape (n,), for images of
    height x width pixels: the "increasing" set of timm's data/auto_augment.py. A factor is at least 0.1."""
    shares = magnitudes / 10
    by_operation = {
        Operation.ROTATE: shares * 30 * signs,
        Operation.POSTERIZE: 4 - np.floor(shares * 4),
        Operation.SOLARIZE: 256 - np.floor(shares * 256),
        Operation.SOLARIZE_ADD: np.floor(shares * 110),
        Operation.SHEAR_X: shares * 0.3 * signs,
        Operation.SHEAR_Y: shares * 0.3 * signs,
        Operation.TRANSLATE_X: shares * 0.45 * signs * width,
        Operation.TRANSLATE_Y: shares * 0.45 * signs * height,
        **{factor: np.maximum(0.1, 1 + shares * 0.9 * signs) for factor in _FACTORS},
    }
    return np.select([operations == kind for kind in by_operation], list(by_operation.values()), 0.0)


# ---------------------------------------------------------------------------------------------------- lighting, erasing

# Principal components of the RGB values, in [0, 1], of ImageNet's training images, one component a column; the numbers
# in common use, from facebook/fb.resnet.torch, datasets/imagenet.lua.
_DEVIATIONS = np.array([0.2175, 0.0188, 0.0045])
_COMPONENTS = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
_TRIES = 10


def lighting_offsets(lighting: PcaLighting, draws: np.ndarray) -> np.ndarray:
    """What is added to the RGB values, in [0, 1]: float64, shape (n, 3) (Krizhevsky et al. 2012, section 4.1).

    `draws`: uniform, shape (n, 3), one for each component.
    """
    amounts = lighting.std * _normal(draws) * _DEVIATIONS
    first, second, third = (amounts[:, [component]] * _COMPONENTS[:, component] for component in range(3))
    offsets: np.ndarray = first + second + third  # a matrix product may round by the number of images
    return offsets


def erased_boxes(erasing: RandomErasing, draws: np.ndarray, height: int, width: int) -> np.ndarray:
    """The first of ten random boxes smaller than the image in both directions (Zhong et al. 2017, Algorithm 1; ten
    tries and a ratio, height / width, uniform in its logarithm, as torchvision and timm).

    `draws`: uniform, shape (n, 41): whether, then area, ratio, top and left of each try. Returns (top, left, height,
    width): int64, shape (n, 4), in pixels; all 0 where nothing is erased.
    """
    area, ratio, top, left = draws[:, 1:].reshape(-1, 4, _TRIES).transpose(1, 0, 2)
    low, high = erasing.scale
    areas = height * width * (low + (high - low) * area)
    log_low, log_high = np.log(erasing.ratio)
    ratios = np.exp(log_low + (log_high - log_low) * ratio)
    heights, widths = (np.rint(np.sqrt(product)).astype(np.int64) for product in (areas * ratios, areas / ratios))
    fits = (heights < height) & (widths < width)
    tops, lefts = ((top * (height - heights + 1)).astype(np.int64), (left * (width - widths + 1)).astype(np.int64))
    tries = np.stack([tops, lefts, heights, widths], axis=2)
    boxes = tries[np.arange(len(tries)), fits.argmax(axis=1)]
    erased = fits.any(axis=1) & (draws[:, 0] < erasing.probability)
    return np.where(erased[:, None], boxes, 0)
