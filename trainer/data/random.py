"""Counter-based random numbers: a draw is a pure function of (seed, epoch, sample) and what it is drawn for.

No generator is ever advanced, so threads, processes, prefetching and resuming cannot change what is drawn. The mixing
function is the finaliser of SplitMix64 (Steele, Lea and Flood 2014, OOPSLA, "Fast splittable pseudorandom number
generators") with Stafford's variant 13 constants; its output passes BigCrush for consecutive counters.
"""

from enum import IntEnum

import numpy as np
import torch

UInt64Array = np.ndarray[tuple[int, ...], np.dtype[np.uint64]]


class RandomStream(IntEnum):
    """What a number is drawn for. The values are part of the stream's definition: never renumber, only append."""

    ORDER = 0
    FLIP = 1
    CROP = 2
    STEP = 3
    COLOR = 4
    POLICY = 5
    ERASING = 6
    MIXING = 7
    STRETCHES = 8
    STORED = 9


def bits(seed: int, epoch: int, images: np.ndarray, draw: RandomStream, count: int = 1) -> UInt64Array:
    """Draws random 64-bit words for each of `images` (integers, shape (n,)): shape (n, count)."""
    key = _mix(np.array([seed], np.uint64))
    for counter in np.array([[epoch], [draw]], np.uint64):
        key = _mix(key + (counter + np.uint64(1)) * _GOLDEN)
    per_image = _mix(key + images.astype(np.uint64) * _GOLDEN)
    return _mix(per_image[:, None] + np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN)


def uniform(seed: int, epoch: int, images: np.ndarray, draw: RandomStream, count: int = 1) -> np.ndarray:
    """Draws random numbers in [0, 1) for each of `images`: float64, shape (n, count)."""
    return (bits(seed, epoch, images, draw, count) >> np.uint64(11)) * 2.0**-53


def normal(draws: np.ndarray) -> np.ndarray:
    """Makes normally distributed numbers, one from each uniform one, by the inverse of the distribution function."""
    above_zero = np.maximum(draws, 2.0**-54)
    values: np.ndarray = torch.special.ndtri(torch.from_numpy(above_zero)).numpy()
    return values


def torch_seed(seed: int, step: int, micro_batch: int) -> int:
    """Returns a seed for torch's generators (drop path, dropout), for one micro-batch of a step on whichever rank."""
    return int(bits(seed, step, np.array([micro_batch]), RandomStream.STEP)[0, 0] >> np.uint64(1))


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio: consecutive counters land far apart


def _mix(words: UInt64Array) -> UInt64Array:
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
