"""Crops have the distributions of the references, and stay inside the image."""

import numpy as np
import pytest
import torch
from torchvision.transforms import RandomResizedCrop as TorchvisionCrop

from trainer.data.crop import center_boxes, padded_boxes, random_resized_boxes, train_view
from trainer.recipe import CenterCrop, PaddedCrop, RandomResizedCrop, ScaleJitterCrop, TrainCrop

COUNT = 20_000


def largest_correlation(*columns: np.ndarray) -> float:
    """Of any two of the columns: about 1 / sqrt(COUNT) where they were drawn independently."""
    return float(np.abs(np.corrcoef(np.stack(columns)) - np.eye(len(columns))).max())


def two_sample_statistic(first: np.ndarray, second: np.ndarray) -> float:
    """Kolmogorov and Smirnov's D: the largest distance between the two distribution functions."""
    both = np.sort(np.concatenate([first, second]))
    shares = [np.searchsorted(np.sort(sample), both, side="right") / len(sample) for sample in (first, second)]
    return float(np.abs(shares[0] - shares[1]).max())


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 333), (64, 64)])
def test_random_crops_are_distributed_as_torchvisions(height: int, width: int) -> None:
    crop = RandomResizedCrop(resolution=224)
    heights, widths = np.full(COUNT, height), np.full(COUNT, width)
    boxes = train_view(crop, False, 0, 0)(np.arange(COUNT), heights, widths).boxes
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    theirs = np.array([TorchvisionCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(COUNT)])
    for column, name in enumerate(("top", "left", "height", "width")):
        assert two_sample_statistic(boxes[:, column], theirs[:, column]) < 1.95 * np.sqrt(2 / COUNT), name  # p = 0.001


def test_random_crops_draw_area_ratio_and_place_independently() -> None:
    """Of areas that fit at every ratio: what does not fit is drawn again, which would make them depend."""
    side = np.full(COUNT, 4000)
    crop = RandomResizedCrop(resolution=224, scale=(0.08, 0.5))
    top, left, height, width = train_view(crop, False, 0, 0)(np.arange(COUNT), side, side).boxes.T
    places = top / (side - height), left / (side - width)
    assert largest_correlation(*places, height * width, np.log(height / width)) < 5 / np.sqrt(COUNT)


def test_random_crops_lie_inside_images_of_any_shape() -> None:
    rng = np.random.default_rng(0)
    heights, widths = rng.integers(1, 700, (2, COUNT))
    boxes = train_view(RandomResizedCrop(resolution=32), False, 1, 2)(np.arange(COUNT), heights, widths).boxes
    top, left, height, width = boxes.T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (height >= 1).all()
    assert (width >= 1).all()
    assert (top + height <= heights).all()
    assert (left + width <= widths).all()


def test_image_no_crop_fits_gives_its_centre_at_the_nearest_ratio() -> None:
    crop = RandomResizedCrop(resolution=8, scale=(1.0, 1.0))
    draws = np.random.default_rng(0).random((2, 4, 10))
    boxes = random_resized_boxes(crop, draws, np.array([100, 300]), np.array([300, 100]))
    assert boxes.tolist() == [[0, 83, 100, 133], [83, 0, 133, 100]]  # ratio 4/3 and 3/4


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 333), (32, 32)])
def test_scale_jitter_is_a_square_of_a_short_side_uniform_between_256_and_480(height: int, width: int) -> None:
    crop = ScaleJitterCrop(resolution=224, short_side=(256, 480))
    heights, widths = np.full(COUNT, height), np.full(COUNT, width)
    boxes = train_view(crop, False, 0, 0)(np.arange(COUNT), heights, widths).boxes
    top, left, box_height, box_width = boxes.T
    assert np.array_equal(box_height, box_width)
    expected = np.rint(min(height, width) * 224 / np.random.default_rng(0).integers(256, 481, COUNT))
    assert two_sample_statistic(box_height, expected) < 1.95 * np.sqrt(2 / COUNT)  # p = 0.001
    assert box_height.min() == np.rint(min(height, width) * 224 / 480)
    assert box_height.max() == np.rint(min(height, width) * 224 / 256)
    shares = []
    for start, size, length in ((top, box_height, height), (left, box_width, width)):
        assert (start >= 0).all()
        assert (start + size <= length).all()
        share = start / (length - size)  # 0 at one edge, 1 at the other
        assert (share.min(), share.max()) == (0, 1)
        assert abs(share.mean() - 0.5) < 0.01
        shares.append(share)
    assert largest_correlation(*shares, box_height) < 5 / np.sqrt(COUNT)


def test_crop_half_of_the_images_are_flipped_and_none_without_flip() -> None:
    sizes = np.full(COUNT, 32)
    flips = train_view(PaddedCrop(resolution=32), True, 0, 0)(np.arange(COUNT), sizes, sizes).flips
    assert abs(flips.mean() - 0.5) < 5 * 0.5 / np.sqrt(COUNT)
    never = train_view(PaddedCrop(resolution=32), False, 0, 0)(np.arange(COUNT), sizes, sizes).flips
    assert not never.any()


@pytest.mark.parametrize(
    ("crop", "drawn"),
    [
        (RandomResizedCrop(resolution=224), (0, 1, 2, 3)),
        (ScaleJitterCrop(resolution=224), (0, 1, 2)),  # a square
        (PaddedCrop(resolution=500), (0, 1)),
    ],
)
def test_crop_flips_whatever_the_box(crop: TrainCrop, drawn: tuple[int, ...]) -> None:
    sizes = np.full(COUNT, 500)
    found = train_view(crop, True, 0, 0)(np.arange(COUNT), sizes, sizes)
    for column in drawn:
        assert largest_correlation(found.flips, found.boxes[:, column]) < 5 / np.sqrt(COUNT)


def test_crop_of_a_sample_stays_what_it_was() -> None:
    """A run that was stopped continues with newer code. These numbers have no other source than this code."""
    samples = np.array([0, 1, 2, 3, 4, 5, 1_281_166, 5_000_000])
    found = train_view(RandomResizedCrop(resolution=224), True, 3, 2)(samples, np.full(8, 375), np.full(8, 500))
    assert found.boxes.tolist() == [
        [117, 78, 237, 300],
        [15, 40, 346, 435],
        [26, 90, 327, 257],
        [3, 150, 231, 241],
        [204, 228, 168, 220],
        [96, 176, 240, 244],
        [61, 171, 273, 227],
        [5, 106, 324, 283],
    ]
    assert found.flips.tolist() == [True, False, True, True, False, True, False, True]


def test_padded_crops_shift_evenly_by_up_to_the_padding() -> None:
    draws = np.random.default_rng(0).random((COUNT, 2))
    boxes = padded_boxes(PaddedCrop(resolution=32, padding=4), draws)
    assert (boxes[:, 2:] == 32).all()
    pairs, counts = np.unique(boxes[:, :2], axis=0, return_counts=True)
    assert len(pairs) == 81
    assert np.abs(counts - COUNT / 81).max() < 5 * np.sqrt(COUNT / 81)
    for column in (0, 1):
        shifts, counts = np.unique(boxes[:, column], return_counts=True)
        assert shifts.tolist() == list(range(-4, 5))
        assert np.abs(counts / COUNT - 1 / 9).max() < 0.01


@pytest.mark.parametrize(
    ("ratio", "height", "width", "box"),
    [
        (224 / 256, 256, 256, [16, 16, 224, 224]),
        (1.0, 375, 500, [0, 62, 375, 375]),
        (0.875, 375, 500, [23, 86, 328, 328]),
        (0.1, 3, 3, [1, 1, 1, 1]),
    ],
)
def test_centre_crop_is_a_square_of_the_short_side(ratio: float, height: int, width: int, box: list[int]) -> None:
    boxes = center_boxes(CenterCrop(resolution=224, crop_ratio=ratio), np.array([height]), np.array([width]))
    assert boxes.tolist() == [box]
