"""Which part of an image the model sees: boxes and flips, as pure functions of (seed, epoch, sample).

A sample is an image, or one of its repetitions within an epoch (see order.py).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from trainer.data.random import RandomStream, uniform
from trainer.recipe import CenterCrop, PaddedCrop, RandomResizedCrop, ScaleJitterCrop, TrainCrop


class CropBoxes(NamedTuple):
    """The part of each of n images that is read, and how it is read."""

    boxes: np.ndarray
    """int32, shape (n, 4): top, left, height, width in pixels of the stored image. A box may reach over its edge (a
    padded crop). It then has the size of the output, and is copied instead of resized"""
    flips: np.ndarray
    """bool, shape (n,): whether the crop is mirrored, left to right"""
    fill: tuple[int, int, int] = (0, 0, 0)
    """RGB, 0 to 255, of the pixels beyond the edge"""
    scaled: bool = False
    """Decode a JPEG at 1/2, 1/4 or 1/8 of its size where the box is at least 2, 4 or 8 times as large as the output"""
    reflect: bool = False
    """Whether reflect_edges() then replaces the pixels beyond the edge"""


CropFn = Callable[[np.ndarray, np.ndarray, np.ndarray], CropBoxes]
"""The crop of each sample: (samples, heights, widths), each of shape (n,) -> the boxes in their images"""

_TRIES = 10  # as torchvision and FFCV. If none fits: the centre of the image, at the nearest allowed ratio


def train_view(crop: TrainCrop, flip: bool, seed: int, epoch: int) -> CropFn:
    """Returns a function that draws the random crop and flip of each sample in one epoch."""
    fill = crop.fill if isinstance(crop, PaddedCrop) else (0, 0, 0)
    reflect = isinstance(crop, PaddedCrop) and crop.padding_mode == "reflect"

    def view(samples: np.ndarray, heights: np.ndarray, widths: np.ndarray) -> CropBoxes:
        match crop:
            case RandomResizedCrop():
                draws = uniform(seed, epoch, samples, RandomStream.CROP, 4 * _TRIES)
                boxes = random_resized_boxes(crop, draws.reshape(-1, 4, _TRIES), heights, widths)
            case ScaleJitterCrop():
                boxes = scale_jitter_boxes(crop, uniform(seed, epoch, samples, RandomStream.CROP, 3), heights, widths)
            case PaddedCrop():
                boxes = padded_boxes(crop, uniform(seed, epoch, samples, RandomStream.CROP, 2))
        flips = flip & (uniform(seed, epoch, samples, RandomStream.FLIP)[:, 0] < 0.5)
        return CropBoxes(boxes, flips, fill, crop.scaled_decoding, reflect)

    return view


def eval_view(crop: CenterCrop) -> CropFn:
    """Returns a function that gives the centre crop of each image, never flipped."""
    return lambda samples, heights, widths: CropBoxes(
        center_boxes(crop, heights, widths), np.zeros(len(samples), bool), scaled=crop.scaled_decoding
    )


def random_resized_boxes(
    crop: RandomResizedCrop, draws: np.ndarray, heights: np.ndarray, widths: np.ndarray
) -> np.ndarray:
    """Chooses the first of ten random boxes that fits into the image, distributed as torchvision's RandomResizedCrop.

    `draws`: uniform in [0, 1), shape (n, 4, 10): area, ratio, top and left of each try.
    """
    heights, widths = heights[:, None].astype(np.int64), widths[:, None].astype(np.int64)
    low, high = crop.scale
    area = heights * widths * (low + (high - low) * draws[:, 0])
    log_low, log_high = np.log(crop.ratio[0]), np.log(crop.ratio[1])
    ratio = np.exp(log_low + (log_high - log_low) * draws[:, 1])
    box_widths = np.rint(np.sqrt(area * ratio)).astype(np.int64)
    box_heights = np.rint(np.sqrt(area / ratio)).astype(np.int64)
    fits = (box_widths > 0) & (box_widths <= widths) & (box_heights > 0) & (box_heights <= heights)
    tops = (draws[:, 2] * (heights - box_heights + 1)).astype(np.int64)
    lefts = (draws[:, 3] * (widths - box_widths + 1)).astype(np.int64)
    tries = np.stack([tops, lefts, box_heights, box_widths], axis=2)
    first = tries[np.arange(len(tries)), fits.argmax(axis=1)]
    return np.where(fits.any(axis=1)[:, None], first, _centered(crop, heights[:, 0], widths[:, 0])).astype(np.int32)


def _centered(crop: RandomResizedCrop, heights: np.ndarray, widths: np.ndarray) -> np.ndarray:
    box_widths = np.minimum(widths, np.rint(heights * crop.ratio[1])).astype(np.int64)
    box_heights = np.minimum(heights, np.rint(widths / crop.ratio[0])).astype(np.int64)
    box_widths, box_heights = np.maximum(box_widths, 1), np.maximum(box_heights, 1)
    return np.stack([(heights - box_heights) // 2, (widths - box_widths) // 2, box_heights, box_widths], axis=1)


def scale_jitter_boxes(crop: ScaleJitterCrop, draws: np.ndarray, heights: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Computes the squares that become crops of `resolution` px when the short side is resized to a random length.

    `draws`: uniform in [0, 1), shape (n, 3): length, top, left.
    """
    heights, widths = heights.astype(np.int64), widths.astype(np.int64)
    shortest, longest = crop.short_side
    short_sides = shortest + (draws[:, 0] * (longest - shortest + 1)).astype(np.int64)
    sides = np.rint(np.minimum(heights, widths) * crop.resolution / short_sides).astype(np.int64)
    sides = np.maximum(sides, 1)
    tops = (draws[:, 1] * (heights - sides + 1)).astype(np.int64)
    lefts = (draws[:, 2] * (widths - sides + 1)).astype(np.int64)
    return np.stack([tops, lefts, sides, sides], axis=1).astype(np.int32)


def padded_boxes(crop: PaddedCrop, draws: np.ndarray) -> np.ndarray:
    """Boxes of the image's own size, shifted by up to `padding` pixels. `draws`: shape (n, 2), top and left."""
    boxes = np.full((len(draws), 4), crop.resolution, np.int32)
    boxes[:, :2] = (draws * (2 * crop.padding + 1)).astype(np.int32) - crop.padding
    return boxes


def reflect_edges(crops: CropBoxes, images: np.ndarray) -> None:
    """Replaces pixels beyond an image's edge by the image, mirrored at the edge without repeating it.

    `images`: uint8, shape (n, side, side, 3), as padded_boxes() cuts them with a padding below half of the side.
    """
    for (top, left), flip, image in zip(crops.boxes[:, :2], crops.flips, images, strict=True):
        rows, columns = (_reflected(shift, len(image)) for shift in (top, left))
        if flip:
            columns = len(image) - 1 - columns[::-1]
        image[:] = image[rows][:, columns]


def _reflected(shift: int, side: int) -> np.ndarray:
    """Where in a crop that begins at `shift` each of its rows is read from."""
    positions = np.abs(np.arange(shift, shift + side))
    mirrored: np.ndarray = side - 1 - np.abs(side - 1 - positions) - shift
    return mirrored


def center_boxes(crop: CenterCrop, heights: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Returns the centre square with a side of `crop_ratio` x the short side, rounded down but at least 1 pixel."""
    heights, widths = heights.astype(np.int64), widths.astype(np.int64)
    side = np.maximum(1, (crop.crop_ratio * np.minimum(heights, widths)).astype(np.int64))
    return np.stack([(heights - side) // 2, (widths - side) // 2, side, side], axis=1).astype(np.int32)
