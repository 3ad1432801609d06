"""Augmentation policies: which operations each image gets, as pure functions of uniform random numbers.

A new policy is a class in trainer/recipe/augmentation.py, with its fill and interpolation, and a `case` here.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch

from trainer.data.operations import Operation
from trainer.data.random import normal
from trainer.recipe import Augmentation, AugMix, AutoAugment, RandAugment, TrivialAugmentWide

Round = tuple[np.ndarray, np.ndarray]
"""For each image the Operation (int64) and its argument (float64), both of shape (n,)"""


def policy_rounds(policy: Augmentation, draw: Callable[[int], np.ndarray], height: int, width: int) -> Iterator[Round]:
    """Yields the rounds of operations on images of height x width pixels, in order.

    `draw(count)`: uniform in [0, 1), shape (n, count), always the same numbers for an image.
    """
    match policy:
        case TrivialAugmentWide():
            yield trivial_round(draw(3))
        case RandAugment():
            for part in np.split(draw(4 * policy.operations), policy.operations, axis=1):
                yield rand_round(policy, part, height, width)
        case AutoAugment():
            yield from auto_rounds(policy, draw(5), height, width)
        case AugMix():
            raise TypeError("AugMix is more than rounds of operations: see augmix.py")


_BINS = 31  # of TrivialAugment
FACTORS = (Operation.BRIGHTNESS, Operation.COLOR, Operation.CONTRAST, Operation.SHARPNESS)  # 1 changes nothing


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


_TRIVIAL_TABLE = _trivial_table()
_TRIVIAL_OPERATIONS = np.array(list(_TRIVIAL_TABLE))
_TRIVIAL_MAGNITUDES = np.stack([magnitudes for magnitudes, _ in _TRIVIAL_TABLE.values()])
_TRIVIAL_SIGNED = np.array([signed for _, signed in _TRIVIAL_TABLE.values()])


def trivial_round(draws: np.ndarray) -> Round:
    """Chooses one operation for each image, with one of 31 magnitudes.

    `draws`: uniform, shape (n, 3): operation, bin, sign.
    """
    which = (draws[:, 0] * len(_TRIVIAL_OPERATIONS)).astype(np.int64)
    magnitudes = _TRIVIAL_MAGNITUDES[which, (draws[:, 1] * _BINS).astype(np.int64)]
    magnitudes = np.where(_TRIVIAL_SIGNED[which] & (draws[:, 2] < 0.5), -magnitudes, magnitudes)
    operations = _TRIVIAL_OPERATIONS[which]
    return operations, magnitudes + np.isin(operations, FACTORS)


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
    """Chooses one of RandAugment's operations for each image, or with 1 - `probability` none.

    `draws`: uniform, shape (n, 4): operation, whether it is applied, magnitude, sign. Operations, probability and
    magnitudes are those of timm's "rand-m..-mstd..-inc1"; what differs from timm, which works on Pillow images:
    shears, shifts and turns interpolate bilinearly, where timm draws bilinear or bicubic, and round to the nearest
    value; colours round as torchvision's tensors, up to two values from Pillow's.
    """
    operations = _RAND_OPERATIONS[(draws[:, 0] * len(_RAND_OPERATIONS)).astype(np.int64)]
    magnitudes = np.clip(policy.magnitude + policy.magnitude_std * normal(draws[:, 2]), 0, 10)
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
        **{factor: np.maximum(0.1, 1 + shares * 0.9 * signs) for factor in FACTORS},
    }
    return np.select([operations == kind for kind in by_operation], list(by_operation.values()), 0.0)


# ---------------------------------------------------------------------------------------------------------- AutoAugment

_AUTO_BINS = 10
_SubPolicy = tuple[tuple[Operation, float, int], tuple[Operation, float, int]]
# Cubuk et al. 2018, appendix, with torchvision's numbers: operation, probability, magnitude (0 if there is none)
_AUTO_POLICIES: dict[str, list[_SubPolicy]] = {
    "imagenet": [
        ((Operation.POSTERIZE, 0.4, 8), (Operation.ROTATE, 0.6, 9)),
        ((Operation.SOLARIZE, 0.6, 5), (Operation.AUTOCONTRAST, 0.6, 0)),
        ((Operation.EQUALIZE, 0.8, 0), (Operation.EQUALIZE, 0.6, 0)),
        ((Operation.POSTERIZE, 0.6, 7), (Operation.POSTERIZE, 0.6, 6)),
        ((Operation.EQUALIZE, 0.4, 0), (Operation.SOLARIZE, 0.2, 4)),
        ((Operation.EQUALIZE, 0.4, 0), (Operation.ROTATE, 0.8, 8)),
        ((Operation.SOLARIZE, 0.6, 3), (Operation.EQUALIZE, 0.6, 0)),
        ((Operation.POSTERIZE, 0.8, 5), (Operation.EQUALIZE, 1.0, 0)),
        ((Operation.ROTATE, 0.2, 3), (Operation.SOLARIZE, 0.6, 8)),
        ((Operation.EQUALIZE, 0.6, 0), (Operation.POSTERIZE, 0.4, 6)),
        ((Operation.ROTATE, 0.8, 8), (Operation.COLOR, 0.4, 0)),
        ((Operation.ROTATE, 0.4, 9), (Operation.EQUALIZE, 0.6, 0)),
        ((Operation.EQUALIZE, 0.0, 0), (Operation.EQUALIZE, 0.8, 0)),
        ((Operation.INVERT, 0.6, 0), (Operation.EQUALIZE, 1.0, 0)),
        ((Operation.COLOR, 0.6, 4), (Operation.CONTRAST, 1.0, 8)),
        ((Operation.ROTATE, 0.8, 8), (Operation.COLOR, 1.0, 2)),
        ((Operation.COLOR, 0.8, 8), (Operation.SOLARIZE, 0.8, 7)),
        ((Operation.SHARPNESS, 0.4, 7), (Operation.INVERT, 0.6, 0)),
        ((Operation.SHEAR_X, 0.6, 5), (Operation.EQUALIZE, 1.0, 0)),
        ((Operation.COLOR, 0.4, 0), (Operation.EQUALIZE, 0.6, 0)),
        ((Operation.EQUALIZE, 0.4, 0), (Operation.SOLARIZE, 0.2, 4)),
        ((Operation.SOLARIZE, 0.6, 5), (Operation.AUTOCONTRAST, 0.6, 0)),
        ((Operation.INVERT, 0.6, 0), (Operation.EQUALIZE, 1.0, 0)),
        ((Operation.COLOR, 0.6, 4), (Operation.CONTRAST, 1.0, 8)),
        ((Operation.EQUALIZE, 0.8, 0), (Operation.EQUALIZE, 0.6, 0)),
    ],
    "cifar10": [
        ((Operation.INVERT, 0.1, 0), (Operation.CONTRAST, 0.2, 6)),
        ((Operation.ROTATE, 0.7, 2), (Operation.TRANSLATE_X, 0.3, 9)),
        ((Operation.SHARPNESS, 0.8, 1), (Operation.SHARPNESS, 0.9, 3)),
        ((Operation.SHEAR_Y, 0.5, 8), (Operation.TRANSLATE_Y, 0.7, 9)),
        ((Operation.AUTOCONTRAST, 0.5, 0), (Operation.EQUALIZE, 0.9, 0)),
        ((Operation.SHEAR_Y, 0.2, 7), (Operation.POSTERIZE, 0.3, 7)),
        ((Operation.COLOR, 0.4, 3), (Operation.BRIGHTNESS, 0.6, 7)),
        ((Operation.SHARPNESS, 0.3, 9), (Operation.BRIGHTNESS, 0.7, 9)),
        ((Operation.EQUALIZE, 0.6, 0), (Operation.EQUALIZE, 0.5, 0)),
        ((Operation.CONTRAST, 0.6, 7), (Operation.SHARPNESS, 0.6, 5)),
        ((Operation.COLOR, 0.7, 7), (Operation.TRANSLATE_X, 0.5, 8)),
        ((Operation.EQUALIZE, 0.3, 0), (Operation.AUTOCONTRAST, 0.4, 0)),
        ((Operation.TRANSLATE_Y, 0.4, 3), (Operation.SHARPNESS, 0.2, 6)),
        ((Operation.BRIGHTNESS, 0.9, 6), (Operation.COLOR, 0.2, 8)),
        ((Operation.SOLARIZE, 0.5, 2), (Operation.INVERT, 0.0, 0)),
        ((Operation.EQUALIZE, 0.2, 0), (Operation.AUTOCONTRAST, 0.6, 0)),
        ((Operation.EQUALIZE, 0.2, 0), (Operation.EQUALIZE, 0.6, 0)),
        ((Operation.COLOR, 0.9, 9), (Operation.EQUALIZE, 0.6, 0)),
        ((Operation.AUTOCONTRAST, 0.8, 0), (Operation.SOLARIZE, 0.2, 8)),
        ((Operation.BRIGHTNESS, 0.1, 3), (Operation.COLOR, 0.7, 0)),
        ((Operation.SOLARIZE, 0.4, 5), (Operation.AUTOCONTRAST, 0.9, 0)),
        ((Operation.TRANSLATE_Y, 0.9, 9), (Operation.TRANSLATE_Y, 0.7, 9)),
        ((Operation.AUTOCONTRAST, 0.9, 0), (Operation.SOLARIZE, 0.8, 3)),
        ((Operation.EQUALIZE, 0.8, 0), (Operation.INVERT, 0.1, 0)),
        ((Operation.TRANSLATE_Y, 0.7, 9), (Operation.AUTOCONTRAST, 0.9, 0)),
    ],
}
_AUTO_SIGNED = [
    Operation.SHEAR_X,
    Operation.SHEAR_Y,
    Operation.TRANSLATE_X,
    Operation.TRANSLATE_Y,
    Operation.ROTATE,
    *FACTORS,
]


def auto_rounds(policy: AutoAugment, draws: np.ndarray, height: int, width: int) -> Iterator[Round]:
    """Yields the two operations of one of 25 sub-policies for each image, each applied with a probability of its own.

    `draws`: uniform, shape (n, 5): sub-policy, then for each operation whether it is applied and its sign.
    """
    table = np.array(_AUTO_POLICIES[policy.policy])  # shape (25, 2, 3)
    magnitudes = _auto_magnitudes(height, width)
    chosen = table[(draws[:, 0] * len(table)).astype(np.int64)]
    for place in range(2):
        operations, levels = (chosen[:, place, column].astype(np.int64) for column in (0, 2))
        arguments = magnitudes[operations, levels]
        negative = np.isin(operations, _AUTO_SIGNED) & (draws[:, 2 + 2 * place] < 0.5)
        arguments = np.where(negative, -arguments, arguments) + np.isin(operations, FACTORS)
        applied = draws[:, 1 + 2 * place] < chosen[:, place, 1]
        yield np.where(applied, operations, Operation.IDENTITY), arguments


def _auto_magnitudes(height: int, width: int) -> np.ndarray:
    """float64, shape (operations, 10), by Operation and level; as torchvision's AutoAugment, float32 included."""

    def bins(first: float, last: float) -> np.ndarray:
        return torch.linspace(first, last, _AUTO_BINS).numpy().astype(np.float64)

    magnitudes = np.zeros((len(Operation), _AUTO_BINS))
    magnitudes[[Operation.SHEAR_X, Operation.SHEAR_Y]] = bins(0.0, 0.3)
    magnitudes[Operation.TRANSLATE_X] = np.floor(bins(0.0, 150.0 / 331.0 * width))
    magnitudes[Operation.TRANSLATE_Y] = np.floor(bins(0.0, 150.0 / 331.0 * height))
    magnitudes[Operation.ROTATE] = bins(0.0, 30.0)
    magnitudes[list(FACTORS)] = bins(0.0, 0.9)
    magnitudes[Operation.POSTERIZE] = 8 - np.rint(np.arange(_AUTO_BINS) / ((_AUTO_BINS - 1) / 4))
    magnitudes[Operation.SOLARIZE] = np.ceil((255 * bins(1.0, 0.0)).astype(np.float32))
    return magnitudes
