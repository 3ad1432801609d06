"""Mixup and cutmix of a micro-batch on the device: one kind and one lambda for all its images.

The partner of an image is its mirror position in the micro-batch, as in timm: images come in random order anyway.
"""

import math

import numpy as np
import torch
from torch.nn import functional

from trainer.data.random import RandomStream, bits
from trainer.recipe import Mixing

Box = tuple[int, int, int, int]  # top, bottom, left, right: pixels, the second of each pair not included


def mix(
    spec: Mixing,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    num_classes: int,
    seed: int,
    step: int,
    micro_batch: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mixes images, float32 [n, 3, H, W], and labels, int64 (n,), with those of the reversed micro-batch.

    Returns the mixed images, of the same shape and memory format, and the probability of each class, float32
    (n, num_classes); where nothing is mixed, `images` itself and one-hot targets. What is drawn is a function of
    `seed`, `step` and `micro_batch`, counted over all processes. Nothing is changed in place, nor read from the device.
    """
    targets = functional.one_hot(labels, num_classes).float()
    random = _generator(seed, step, micro_batch)
    is_mixed, is_cutmix, centre_y, centre_x = random.uniform(size=4)
    if is_mixed >= spec.probability:
        return images, targets
    if spec.cutmix_alpha is not None and (spec.mixup_alpha is None or is_cutmix < spec.cutmix_probability):
        height, width = images.shape[-2:]
        kept = float(random.beta(spec.cutmix_alpha, spec.cutmix_alpha))
        top, bottom, left, right = cutmix_box(height, width, 1 - kept, (centre_y, centre_x))
        kept = 1 - (bottom - top) * (right - left) / (height * width)  # what was clipped is kept
        mixed = images.clone()
        mixed[:, :, top:bottom, left:right] = images[:, :, top:bottom, left:right].flip(0)
    else:
        assert spec.mixup_alpha is not None  # Mixing has one of the two
        kept = float(random.beta(spec.mixup_alpha, spec.mixup_alpha))
        mixed = images.flip(0).lerp_(images, kept)
    return mixed, targets.flip(0).lerp_(targets, kept)


def cutmix_box(height: int, width: int, area: float, centre: tuple[float, float]) -> Box:
    """Returns a box of the image's shape and of `area`, a fraction of the image's, clipped at its edges.

    `centre` is (y, x) in [0, 1), uniform in the paper (Yun et al. 2019, arXiv:1905.04899, section 3.1, equation 2).
    """
    top, bottom = _side(height, math.sqrt(area), centre[0])
    left, right = _side(width, math.sqrt(area), centre[1])
    return top, bottom, left, right


def _side(length: int, share: float, centre: float) -> tuple[int, int]:
    size = int(length * share)
    first = int(length * centre) - size // 2
    return max(first, 0), min(first + size, length)


def _generator(seed: int, step: int, micro_batch: int) -> np.random.RandomState:
    """The generator of one micro-batch: whatever it gives is a pure function of the arguments.

    NumPy's legacy generator, because a beta variate takes an unknown number of uniform ones and because its stream is
    frozen (NEP 19), where that of default_rng().beta may change with any release. It is seeded with 128 bits, so that
    no two micro-batches of a run share a stream.
    """
    words = bits(seed, step, np.array([micro_batch]), RandomStream.MIXING, count=4)[0]
    return np.random.RandomState((words >> np.uint64(32)).astype(np.int64))
