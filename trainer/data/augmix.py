"""AugMix: an image is mixed with several chains of operations on it, as pure functions of uniform random numbers."""

from collections.abc import Callable

import numpy as np
import torch

from trainer.data.operations import Operation, apply, upload
from trainer.data.policies import FACTORS, Round
from trainer.recipe import AugMix

_BINS = 10
_LONGEST = 3  # operations of a chain of random length (Hendrycks et al. 2020, algorithm 1)


def augmix(images: torch.Tensor, policy: AugMix, draw: Callable[[int], np.ndarray]) -> torch.Tensor:
    """Mixes each of `images` (uint8, shape (n, 3, h, w)) with its chains; returns a new channels-last tensor.

    `draw(count)`: uniform in [0, 1), float64, shape (n, count) on the host, always the same numbers for an image. The
    sum is float32 and cut off to uint8, as torchvision's.
    """
    per_operation, length = 3, policy.depth or _LONGEST
    per_chain = 1 + per_operation * length
    draws = draw(2 + policy.width * (1 + per_chain))
    weights = upload(mixing_weights(draws[:, : 2 + policy.width]), images.device)
    mixed = weights[:, 0].view(-1, 1, 1, 1) * images
    # all chains together: on a GPU the number of kernels counts, and not how many images each changes
    chains = np.concatenate(np.split(draws[:, 2 + policy.width :], policy.width, axis=1))
    changed = torch.cat([images] * policy.width)
    for operations, arguments in chain_rounds(policy, chains, *images.shape[2:]):
        changed = apply(changed, operations, arguments, bilinear=policy.interpolation == "bilinear")
    for number, of_chain in enumerate(changed.split(len(images)), 1):
        mixed += weights[:, number].view(-1, 1, 1, 1) * of_chain
    return mixed.to(torch.uint8).contiguous(memory_format=torch.channels_last)


def mixing_weights(draws: np.ndarray) -> np.ndarray:
    """Computes the share of the image and of each chain: float32, shape (n, 1 + width); they add up to 1.

    The image's share is uniform, which is Beta(1, 1), and the chains' shares of the rest are Dirichlet(1, ..., 1).
    `draws`: uniform, shape (n, 2 + width). Exponential variates divided by their sum have a Dirichlet distribution.
    """
    exponential = -np.log1p(-draws)
    own = exponential[:, :1] / exponential[:, :2].sum(axis=1, keepdims=True)
    chains = exponential[:, 2:] / exponential[:, 2:].sum(axis=1, keepdims=True)
    weights: np.ndarray = np.concatenate([own, (1 - own) * chains], axis=1).astype(np.float32)
    return weights


def chain_rounds(policy: AugMix, draws: np.ndarray, height: int, width: int) -> list[Round]:
    """Returns the operations of chains, in order, for images of height x width pixels.

    `draws`: uniform, shape (n, 1 + 3 * length): the length, then each operation with its magnitude and sign.
    """
    table = _table(height, width)
    kinds = np.array([kind for kind in table if policy.all_operations or kind not in FACTORS])
    magnitudes = np.stack([table[kind][0] for kind in kinds])
    signed = np.array([table[kind][1] for kind in kinds])
    lengths = np.full(len(draws), policy.depth) if policy.depth else 1 + (draws[:, 0] * _LONGEST).astype(np.int64)
    rounds = []
    for place, (which, bins, signs) in enumerate(draws[:, 1:].reshape(len(draws), -1, 3).transpose(1, 2, 0)):
        chosen = (which * len(kinds)).astype(np.int64)
        arguments = magnitudes[chosen, (bins * policy.severity).astype(np.int64)]
        arguments = np.where(signed[chosen] & (signs < 0.5), -arguments, arguments)
        operations = np.where(place < lengths, kinds[chosen], Operation.IDENTITY)
        rounds.append((operations, arguments + np.isin(kinds[chosen], FACTORS)))
    return rounds


def _table(height: int, width: int) -> dict[Operation, tuple[np.ndarray, bool]]:
    """For each operation its magnitudes (float64, shape (10,)) and whether they get a random sign; the numbers of
    torchvision's AugMix, float32 included."""

    def bins(first: float, last: float) -> np.ndarray:
        return torch.linspace(first, last, _BINS).numpy().astype(np.float64)

    nothing = np.zeros(_BINS)
    return {
        Operation.SHEAR_X: (bins(0.0, 0.3), True),
        Operation.SHEAR_Y: (bins(0.0, 0.3), True),
        Operation.TRANSLATE_X: (np.floor(bins(0.0, width / 3.0)), True),
        Operation.TRANSLATE_Y: (np.floor(bins(0.0, height / 3.0)), True),
        Operation.ROTATE: (bins(0.0, 30.0), True),
        Operation.POSTERIZE: (4 - np.rint(np.arange(_BINS) / ((_BINS - 1) / 4)), False),
        Operation.SOLARIZE: (np.ceil((255 * bins(1.0, 0.0)).astype(np.float32)).astype(np.float64), False),
        Operation.AUTOCONTRAST: (nothing, False),
        Operation.EQUALIZE: (nothing, False),
        **{factor: (bins(0.0, 0.9), True) for factor in FACTORS},
    }
