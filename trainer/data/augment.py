"""What is done to the pixels of each image, and in which order: pure functions of (seed, epoch, sample).

    uint8       color jitter, then an augmentation policy (policies.py, augmix.py)
    normalised  PCA lighting, then random erasing

All draws are made on the host. The device gets only the operations of the images and their arguments.
"""

from itertools import permutations

import numpy as np
import torch

from trainer.data.augmix import augmix
from trainer.data.operations import Operation, apply, upload
from trainer.data.policies import Round, policy_rounds
from trainer.data.random import RandomStream, normal, uniform
from trainer.recipe import AugMix, ColorJitter, PcaLighting, RandomErasing, Recipe


class Augmenter:
    """The augmentation of one epoch's images. Draws depend on an image's number, never on its batch."""

    def __init__(self, recipe: Recipe, epoch: int) -> None:
        self.recipe = recipe
        self.epoch = epoch

    def pixels(self, images: torch.Tensor, samples: np.ndarray) -> torch.Tensor:
        """Applies colour jitter and policy to `images`: uint8, shape (n, 3, h, w), on any device; not in place.

        samples: int64, shape (n,), on the host. Returns a channels-last tensor, or `images` if the recipe has neither.
        """
        if isinstance(self.recipe.color, ColorJitter):
            for operations, arguments in jitter_rounds(
                self.recipe.color, self._uniform(samples, RandomStream.COLOR, 4)
            ):
                images = apply(images, operations, arguments)
        policy = self.recipe.augmentation
        if isinstance(policy, AugMix):
            return augmix(images, policy, lambda count: self._uniform(samples, RandomStream.POLICY, count))
        if policy:
            fill = _mean_colour(self.recipe) if policy.fill == "mean" else (0, 0, 0)
            height, width = images.shape[2:]
            for operations, arguments in policy_rounds(
                policy, lambda count: self._uniform(samples, RandomStream.POLICY, count), height, width
            ):
                images = apply(images, operations, arguments, fill=fill, bilinear=policy.interpolation == "bilinear")
        return images

    def normalised(self, images: torch.Tensor, samples: np.ndarray) -> torch.Tensor:
        """Applies PCA lighting and random erasing in place.

        images: float32, shape (n, 3, h, w), ([0, 1] - mean) / std of the recipe. samples: int64, shape (n,), on the
        host.
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

    def _uniform(self, samples: np.ndarray, draw: RandomStream, count: int) -> np.ndarray:
        return uniform(self.recipe.seed, self.epoch, samples, draw, count)


def _mean_colour(recipe: Recipe) -> tuple[int, int, int]:
    red, green, blue = (min(255, round(255 * value)) for value in recipe.mean)
    return red, green, blue


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


# ---------------------------------------------------------------------------------------------------- lighting, erasing

# Principal components of the RGB values, in [0, 1], of ImageNet's training images, one component a column; the numbers
# in common use, from facebook/fb.resnet.torch, datasets/imagenet.lua.
_DEVIATIONS = np.array([0.2175, 0.0188, 0.0045])
_COMPONENTS = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
_TRIES = 10


def lighting_offsets(lighting: PcaLighting, draws: np.ndarray) -> np.ndarray:
    """Computes what is added to RGB values in [0, 1]: float64, shape (n, 3) (Krizhevsky et al. 2012, section 4.1).

    `draws`: uniform, shape (n, 3), one for each component.
    """
    amounts = lighting.std * normal(draws) * _DEVIATIONS
    first, second, third = (amounts[:, [component]] * _COMPONENTS[:, component] for component in range(3))
    offsets: np.ndarray = first + second + third  # a matrix product may round by the number of images
    return offsets


def erased_boxes(erasing: RandomErasing, draws: np.ndarray, height: int, width: int) -> np.ndarray:
    """Chooses the first of ten random boxes that are smaller than the image in both directions.

    Zhong et al. 2017, Algorithm 1; ten tries and a ratio, height / width, uniform in its logarithm, as torchvision and
    timm.

    `draws`: uniform, shape (n, 41): whether, then area, ratio, top and left of each try. Returns (top, left, height,
    width): int64, shape (n, 4), in pixels; all 0 if nothing is erased.
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
