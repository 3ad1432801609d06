"""The same global batches, cut into the same micro-batches, on any number of processes, from any step."""

from dataclasses import replace

import numpy as np
import pytest

from tests.support.small_recipe import recipe as small
from trainer.data.order import classes_in_window, epoch_order, eval_batches, train_batches
from trainer.recipe import QuasiRandom
from trainer.setup.checks import order_mistakes

COUNT, MICRO, MICRO_BATCHES = 1000, 8, 12  # a global batch of 96 in 12 micro-batches
STEPS = COUNT // (MICRO * MICRO_BATCHES)


def micro_batches(world_size: int, first_step: int = 0) -> list[list[np.ndarray]]:
    """All micro-batches of each step in the order of (rank, micro-step)."""
    order = epoch_order(3, 5, COUNT)
    accumulation = MICRO_BATCHES // world_size
    ranks = [
        list(
            train_batches(
                order,
                first_step=first_step,
                micro_batch_size=MICRO,
                accumulation=accumulation,
                rank=rank,
                world_size=world_size,
            )
        )
        for rank in range(world_size)
    ]
    steps = STEPS - first_step
    return [
        [ranks[rank][step * accumulation + micro] for rank in range(world_size) for micro in range(accumulation)]
        for step in range(steps)
    ]


def test_epoch_is_a_permutation_that_seed_and_epoch_alone_decide() -> None:
    order = epoch_order(0, 0, COUNT)
    assert np.array_equal(np.sort(order), np.arange(COUNT))
    assert np.array_equal(order, epoch_order(0, 0, COUNT))
    for other in (epoch_order(0, 1, COUNT), epoch_order(1, 0, COUNT)):
        assert (other == order).mean() < 0.01


@pytest.mark.parametrize("world_size", [2, 3, 4, 6, 12])
def test_order_every_world_size_sees_the_same_micro_batches(world_size: int) -> None:
    alone, shared = micro_batches(1), micro_batches(world_size)
    assert len(alone) == len(shared) == STEPS
    for step in range(STEPS):
        assert np.array_equal(np.stack(alone[step]), np.stack(shared[step]))


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_order_starting_at_a_step_gives_the_rest_of_the_stream(world_size: int) -> None:
    whole = micro_batches(world_size)
    for first_step in range(STEPS + 1):
        rest = micro_batches(world_size, first_step)
        assert np.array_equal(np.array(rest).ravel(), np.array(whole[first_step:]).ravel())


def test_order_no_image_comes_twice_in_an_epoch() -> None:
    images = np.array(micro_batches(1)).ravel()
    assert len(images) == len(set(images.tolist())) == STEPS * MICRO * MICRO_BATCHES


def test_quasi_random_epoch_is_a_permutation_that_seed_and_epoch_alone_decide() -> None:
    quasi = QuasiRandom(stretch=8, window=128)
    order = epoch_order(0, 0, COUNT, quasi_random=quasi)
    assert np.array_equal(np.sort(order), np.arange(COUNT))
    assert np.array_equal(order, epoch_order(0, 0, COUNT, quasi_random=quasi))
    for other in (epoch_order(0, 1, COUNT, quasi_random=quasi), epoch_order(1, 0, COUNT, quasi_random=quasi)):
        assert (other == order).mean() < 0.03


@pytest.mark.parametrize("count", [64, 128, 1000, 1024])
def test_quasi_random_window_holds_whole_stretches_in_random_order(count: int) -> None:
    stretch, window = 8, 128
    order = epoch_order(3, 5, count, quasi_random=QuasiRandom(stretch=stretch, window=window))
    for start in range(0, count, window):
        images = order[start : start + window]
        assert len(np.unique(images // stretch)) == len(images) // stretch
        assert not np.array_equal(images, np.sort(images)), "shuffled within the window"
    if count > window:
        first = np.unique(order[:window] // stretch)
        assert len(first) == window // stretch and np.ptp(first) > 2 * len(first), "stretches of the whole file"


@pytest.mark.parametrize("count", [1, 7, 9, 1001])
def test_quasi_random_short_last_stretch_comes_once(count: int) -> None:
    order = epoch_order(3, 5, count, quasi_random=QuasiRandom(stretch=8, window=16))
    assert np.array_equal(np.sort(order), np.arange(count))


def test_quasi_random_window_of_the_whole_file_is_the_random_order() -> None:
    whole = QuasiRandom(stretch=8, window=1024)
    assert np.array_equal(epoch_order(3, 5, COUNT, quasi_random=whole), epoch_order(3, 5, COUNT))


@pytest.mark.parametrize("values", [{"stretch": 0}, {"window": 0}, {"stretch": 64, "window": 100}])
def test_quasi_random_rejects_a_window_that_is_not_made_of_stretches(values: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"order\.(stretch|window)="):
        QuasiRandom(**values)


def test_classes_in_a_window_are_those_of_the_order_itself() -> None:
    quasi = QuasiRandom(stretch=8, window=64)
    labels = np.repeat(np.arange(10), 96)

    def share(order: np.ndarray) -> float:
        return float(np.mean([len(np.unique(labels[window])) / 10 for window in order.reshape(-1, 64)]))

    found, random = classes_in_window(labels, quasi)
    epochs = range(40)
    assert found == pytest.approx(
        np.mean([share(epoch_order(0, e, 960, quasi_random=quasi)) for e in epochs]), abs=0.02
    )
    assert random == pytest.approx(np.mean([share(epoch_order(0, epoch, 960)) for epoch in epochs]), abs=0.02)
    assert found < 0.65 and random > 0.98
    assert classes_in_window(labels, QuasiRandom(stretch=8, window=960)) == (1, 1)


def test_quasi_random_order_of_a_sorted_file_is_noted_with_a_stretch_that_mixes_the_classes() -> None:
    labels = np.repeat(np.arange(10), 960)
    recipe = replace(small, order=QuasiRandom(stretch=64, window=512))
    (note,) = order_mistakes(recipe, labels)
    assert note.startswith("a window of 512 images holds 57% of the classes, because the file is sorted by class")
    assert "--order.stretch 8," in note and "prepare --shuffle" in note
    assert order_mistakes(replace(recipe, order=QuasiRandom(stretch=8, window=512)), labels) == []
    assert order_mistakes(recipe, np.random.default_rng(0).permutation(labels)) == []
    assert order_mistakes(small, labels) == []


@pytest.mark.parametrize("repeats", [2, 3, 4])
def test_repeated_augmentation_shows_one_in_n_images_as_often(repeats: int) -> None:
    """An epoch is as long as without; every image of it comes `repeats` times, but for the last that is cut off."""
    order = epoch_order(3, 5, COUNT, repeats)
    assert len(order) == len(set(order.tolist())) == COUNT
    assert (order < repeats * COUNT).all()
    images, times = np.unique(order % COUNT, return_counts=True)
    assert len(images) == -(-COUNT // repeats)
    assert np.array_equal(np.sort(epoch_order(3, 5, COUNT)[: len(images)]), images)
    assert (times == repeats).sum() >= len(images) - 1


def test_repetitions_of_an_image_come_in_different_micro_batches_of_one_step() -> None:
    """As the samplers of timm and torchvision deal them to different devices."""
    micro_batch_size, micro_batches, repeats = 8, 12, 4
    order = epoch_order(3, 5, 10 * micro_batch_size * micro_batches, repeats)
    batches = list(
        train_batches(
            order, first_step=0, micro_batch_size=micro_batch_size, accumulation=micro_batches, rank=0, world_size=1
        )
    )
    for step in range(10):
        own = [batch % len(order) for batch in batches[step * micro_batches : (step + 1) * micro_batches]]
        assert all(len(set(images.tolist())) == micro_batch_size for images in own)
        _, times = np.unique(np.concatenate(own), return_counts=True)
        assert set(times.tolist()) == {repeats}


@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 64])
@pytest.mark.parametrize("count", [1, 7, 64, 103])
def test_evaluation_deals_every_image_once_in_the_same_batches(world_size: int, count: int) -> None:
    shares = [list(eval_batches(count, batch_size=16, rank=rank, world_size=world_size)) for rank in range(world_size)]
    batches = sorted((batch.tolist() for share in shares for batch in share), key=lambda batch: batch[0])
    assert [image for batch in batches for image in batch] == list(range(count))
    assert batches == [batch.tolist() for batch in eval_batches(count, batch_size=16, rank=0, world_size=1)]
