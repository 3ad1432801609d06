"""AugMix beside torchvision's: its table, its operations with the drawn numbers, its mixture."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import AugMix as TorchvisionAugMix

from tests.data.test_augment import FACTORS, GEOMETRIC, NAMES, drawn, is_even, noise
from tests.support.small_recipe import recipe as small
from trainer.data.augment import Augmenter
from trainer.data.augmix import chain_rounds, mixing_weights
from trainer.data.operations import Operation
from trainer.data.random import RandomStream, uniform
from trainer.recipe import AugMix

ASKED = [AugMix(), AugMix(severity=10, width=1, depth=2), AugMix(severity=5, width=2, depth=1, all_operations=False)]


class DrawnAugMix(TorchvisionAugMix):
    """torchvision's AugMix with given random numbers; records the operations that it applies."""

    def __init__(self, policy: AugMix) -> None:
        super().__init__(policy.severity, policy.width, policy.depth or -1, all_ops=policy.all_operations)
        self.names = list(self._AUGMENTATION_SPACE if policy.all_operations else self._PARTIAL_AUGMENTATION_SPACE)
        self.applied: list[str] = []
        self.asked: list[float] = []

    def _get_random_item(self, space: dict[str, Any]) -> tuple[str, Any]:
        self.applied.append(self.names[int(self.asked.pop(0))])
        return self.applied[-1], space[self.applied[-1]]

    def run(self, image: torch.Tensor, draws: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
        """`draws`: of one image, as augmix() splits them. Magnitude and sign are asked for where there are any."""
        weights, chains = np.split(draws, [2 + self.mixture_width])
        for chain in np.split(chains, self.mixture_width):
            depth = self.chain_depth if self.chain_depth > 0 else 1 + int(3 * chain[0])
            self.asked += [depth] if self.chain_depth < 0 else []
            for which, level, sign in chain[1:].reshape(-1, 3)[:depth]:
                magnitudes, signed = self._AUGMENTATION_SPACE[self.names[int(which * len(self.names))]]
                self.asked.append(int(which * len(self.names)))
                self.asked += [int(level * self.severity)] if magnitudes(10, 1, 1) is not None else []
                self.asked += [sign] if signed else []
        shares = mixing_weights(weights[None])
        sampled = [np.array([[shares[0, 0], 1.0]]), shares[:, 1:]]  # the second is multiplied by the rest, here 1
        with monkeypatch.context() as patched:
            patched.setattr(torch, "randint", lambda *_, **__: torch.tensor(int(self.asked.pop(0))))
            patched.setattr(torch, "rand", lambda _: torch.tensor(self.asked.pop(0)))
            patched.setattr(self, "_sample_dirichlet", lambda _: torch.from_numpy(sampled.pop(0)).float())
            self.applied = []
            result: torch.Tensor = self(image)
        assert not self.asked
        return result


@pytest.mark.slow
@pytest.mark.parametrize("policy", ASKED, ids=str)
def test_augmix_is_torchvisions_with_the_drawn_operations(policy: AugMix, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels exactly where no shear, shift or rotation is drawn: torchvision interpolates those in float32."""
    count, length = 200, policy.depth or 3
    recipe, images, samples = replace(small, augmentation=policy), noise(count), np.arange(count)
    draws = uniform(recipe.seed, 4, samples, RandomStream.POLICY, 2 + policy.width * (2 + 3 * length))
    result, theirs, exact, used = Augmenter(recipe, 4).pixels(images, samples), DrawnAugMix(policy), 0, set()
    for image in samples:
        expected = theirs.run(images[image].contiguous(), draws[image], monkeypatch)
        used |= set(theirs.applied)
        assert policy.width <= len(theirs.applied) <= policy.width * length
        if not set(theirs.applied) & set(GEOMETRIC):
            assert torch.equal(result[image], expected), theirs.applied
            exact += 1
    assert exact >= 5
    assert used == set(theirs.names)


@pytest.mark.parametrize("severity", [1, 3, 10])
def test_augmix_has_torchvisions_magnitudes(severity: int) -> None:
    """Of all operations, also of shears, shifts and rotations."""
    policy, height, width = AugMix(severity=severity, depth=1), 48, 60
    ((operations, arguments),) = chain_rounds(policy, drawn(4), height, width)
    for operation in np.unique(operations):
        name = str(NAMES[Operation(operation)][0])
        magnitudes, signed = TorchvisionAugMix._AUGMENTATION_SPACE[name]
        known = magnitudes(10, height, width)
        expected = {0.0} if known is None else {float(each) for each in known[:severity].double()}
        if name.startswith("Translate"):
            expected = {float(int(each)) for each in expected}
        if name == "Solarize":
            expected = {float(math.ceil(np.float32(255 * each))) for each in expected}
        found = arguments[operations == operation] - (operation in FACTORS)
        expected |= {-each for each in expected} if signed else set()
        assert sorted(set(found.tolist())) == pytest.approx(sorted(expected), abs=1e-12)


def test_augmix_draws_lengths_operations_and_signs_evenly() -> None:
    rounds = chain_rounds(AugMix(), drawn(10), 32, 32)
    lengths = sum((operations != Operation.IDENTITY).astype(int) for operations, _ in rounds)
    assert is_even(np.bincount(lengths)[1:])
    operations, arguments = rounds[0]
    assert is_even(np.unique(operations, return_counts=True)[1])
    angles = arguments[(operations == Operation.ROTATE) & (arguments != 0)]
    assert is_even(np.array([(angles < 0).sum(), (angles > 0).sum()]))


def test_mixing_weights_are_distributed_as_torchvisions() -> None:
    """Mean and standard deviation of a uniform share, and of Dirichlet(1, 1, 1) shares of the rest."""
    weights = mixing_weights(drawn(5)).astype(np.float64)
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-6)
    own, rest = weights[:, 0], weights[:, 1:] / (1 - weights[:, :1])
    assert own.mean() == pytest.approx(1 / 2, abs=0.01)
    assert own.std() == pytest.approx(12**-0.5, abs=0.01)
    assert rest.mean(axis=0) == pytest.approx([1 / 3] * 3, abs=0.01)
    assert rest.std(axis=0) == pytest.approx([(1 / 18) ** 0.5] * 3, abs=0.01)
    theirs: Any = TorchvisionAugMix()._sample_dirichlet(torch.ones(20_000, 3))
    assert rest.std(axis=0) == pytest.approx(theirs.std(dim=0).tolist(), abs=0.01)
