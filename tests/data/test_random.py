"""Draws are uniform, independent of one another, and the same for ever."""

import numpy as np
import pytest

from trainer.data.random import RandomStream, bits, torch_seed, uniform

IMAGES = np.arange(200_000)


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    return abs(float(np.corrcoef(first, second)[0, 1]))


def test_draws_are_uniform() -> None:
    draws = np.sort(uniform(0, 0, IMAGES, RandomStream.CROP)[:, 0])
    kolmogorov_smirnov = np.abs(draws - (IMAGES + 0.5) / len(IMAGES)).max()
    assert kolmogorov_smirnov < 1.95 / np.sqrt(len(IMAGES))  # p = 0.001
    assert 0 <= draws[0] < draws[-1] < 1


def test_random_neighbouring_images_epochs_seeds_and_kinds_are_uncorrelated() -> None:
    base = uniform(7, 3, IMAGES, RandomStream.CROP, 2)
    others = {
        "the next image": np.roll(base[:, 0], 1),
        "the next number": base[:, 1],
        "the next epoch": uniform(7, 4, IMAGES, RandomStream.CROP)[:, 0],
        "the next seed": uniform(8, 3, IMAGES, RandomStream.CROP)[:, 0],
        "another kind": uniform(7, 3, IMAGES, RandomStream.FLIP)[:, 0],
    }
    for name, other in others.items():
        assert correlation(base[:, 0], other) < 5 / np.sqrt(len(IMAGES)), name


def test_draw_depends_on_the_image_alone_not_on_its_company() -> None:
    together = bits(1, 2, np.array([5, 9, 70_000]), RandomStream.FLIP, 3)
    assert np.array_equal(bits(1, 2, np.array([9]), RandomStream.FLIP, 3)[0], together[1])
    assert np.array_equal(bits(1, 2, np.array([9]), RandomStream.FLIP)[0], together[1, :1])


def test_stream_never_changes() -> None:
    """SplitMix64's finaliser in plain Python integers: another implementation, and so an oracle."""
    mask = 2**64 - 1

    def mix(word: int) -> int:
        word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 & mask
        word = (word ^ (word >> 27)) * 0x94D049BB133111EB & mask
        return word ^ (word >> 31)

    golden = 0x9E3779B97F4A7C15
    seed, epoch, image = 12345, 6, 789
    key = mix(mix(mix(seed) + (epoch + 1) * golden & mask) + (int(RandomStream.CROP) + 1) * golden & mask)
    expected = [mix(mix(key + image * golden & mask) + count * golden & mask) for count in (1, 2)]
    assert bits(seed, epoch, np.array([image]), RandomStream.CROP, 2).tolist() == [expected]
    assert [int(draw) for draw in RandomStream] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]


def test_random_every_step_and_micro_batch_has_its_own_torch_seed() -> None:
    seeds = {torch_seed(0, step, micro_batch) for step in range(100) for micro_batch in range(8)}
    assert len(seeds) == 800
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize("seed", [0, 2**63 - 1])
def test_largest_seed_works(seed: int) -> None:
    assert uniform(seed, 2**31, np.array([2**40]), RandomStream.ORDER).shape == (1, 1)
