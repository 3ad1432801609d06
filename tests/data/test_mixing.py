"""Mixed images and targets agree with each other, with timm and with the distributions of the papers."""

import math

import numpy as np
import pytest
import torch
from timm.data.mixup import mixup_target

from trainer.data.mixing import cutmix_box, mix
from trainer.recipe import Mixing

SIZE = 40
LABELS = torch.tensor([0, 1, 2, 3, 4, 5])
COLOURS = torch.tensor([0.0, 10.0, 20.0, 31.0, 43.0, 57.0])  # no two pairs of mirror positions have one difference
MIXUP = Mixing(mixup_alpha=0.2)
CUTMIX = Mixing(cutmix_alpha=1.0)
BOTH = Mixing(mixup_alpha=0.2, cutmix_alpha=1.0)


def plain(height: int = SIZE, width: int = SIZE, n: int = 6) -> torch.Tensor:
    """Each image of one colour, its own."""
    return COLOURS[:n, None, None, None].expand(n, 3, height, width).clone()


def mixed(spec: Mixing, step: int = 0, micro_batch: int = 0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    return mix(spec, plain(), LABELS, num_classes=7, seed=seed, step=step, micro_batch=micro_batch)


def kept(targets: torch.Tensor) -> float:
    """The share of its own that each image has, from the targets."""
    (share,) = {float(row[label]) for row, label in zip(targets, LABELS, strict=True)}
    return share


def small(spec: Mixing, count: int, size: int = 4) -> list[tuple[float, bool]]:
    """(kept share, whether two colours are side by side) of so many micro-batches of two gray images."""
    images, labels = plain(size, size, 2)[:, :1], LABELS[:2]
    found = []
    for step in range(count):
        pixels, targets = mix(spec, images, labels, num_classes=2, seed=3, step=step, micro_batch=0)
        found.append((float(targets[0, 0]), bool((pixels[0] != pixels[0, 0, 0, 0]).any())))
    return found


@pytest.mark.parametrize("spec", [MIXUP, CUTMIX, BOTH], ids=["mixup", "cutmix", "both"])
def test_targets_are_the_shares_of_the_pixels(spec: Mixing) -> None:
    shares = set()
    for step in range(40):
        pixels, targets = mixed(spec, step)
        assert (pixels.dtype, targets.dtype, targets.shape) == (torch.float32, torch.float32, (6, 7))
        torch.testing.assert_close(targets.sum(dim=1), torch.ones(6))
        own, partner = COLOURS, COLOURS.flip(0)
        share = (pixels.mean(dim=(1, 2, 3)) - partner) / (own - partner)
        torch.testing.assert_close(share, torch.full((6,), kept(targets)), rtol=0, atol=1e-5)
        torch.testing.assert_close(targets, mixup_target(LABELS, 7, kept(targets)))
        shares.add(round(kept(targets), 4))
    assert len(shares) > 20


def test_mixup_is_the_weighted_mean_of_both_everywhere() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(6, 3, 5, 7, generator=generator)
    before = images.clone()
    pixels, targets = mix(MIXUP, images, LABELS, num_classes=6, seed=0, step=1, micro_batch=0)
    share = kept(targets)
    assert 0 < share < 1
    torch.testing.assert_close(pixels, share * images + (1 - share) * images.flip(0))
    assert torch.equal(images, before)


def test_cutmix_keeps_every_pixel_of_one_image_or_of_its_partner_and_they_form_one_box() -> None:
    images = torch.arange(6 * 3 * 8 * 10, dtype=torch.float32).reshape(6, 3, 8, 10)
    before, areas = images.clone(), set()
    for step in range(30):
        pixels, targets = mix(CUTMIX, images, LABELS, num_classes=6, seed=0, step=step, micro_batch=0)
        assert torch.equal(images, before)
        is_partner = pixels == images.flip(0)
        assert torch.equal(is_partner, pixels != images)
        assert (is_partner == is_partner[:1, :1]).all()  # one box for all
        rows, columns = is_partner[0, 0].any(dim=1).sum(), is_partner[0, 0].any(dim=0).sum()
        assert is_partner[0, 0].sum() == rows * columns
        assert 1 - kept(targets) == pytest.approx(int(rows * columns) / 80, abs=1e-6)
        areas.add(int(rows * columns))
    assert len(areas) > 10


@pytest.mark.parametrize(
    ("area", "centre", "box"),
    [
        (0.25, (0.5, 0.5), (20, 60, 10, 30)),
        (0.25, (0.0, 0.5), (0, 20, 10, 30)),  # over the top edge
        (0.25, (0.999, 0.5), (59, 80, 10, 30)),  # bottom
        (0.25, (0.5, 0.0), (20, 60, 0, 10)),  # left
        (0.25, (0.5, 0.999), (20, 60, 29, 40)),  # right
        (0.25, (0.0, 0.999), (0, 20, 29, 40)),  # a corner
        (1.0, (0.5, 0.5), (0, 80, 0, 40)),
        (0.0, (0.5, 0.5), (40, 40, 20, 20)),
        (0.4, (0.5, 0.5), (15, 65, 8, 33)),  # odd: 50.6 and 25.3 px
    ],
)
def test_box_has_its_area_and_the_images_shape_and_is_clipped_at_each_edge(
    area: float, centre: tuple[float, float], box: tuple[int, int, int, int]
) -> None:
    assert cutmix_box(80, 40, area, centre) == box


def test_box_is_timms_for_the_same_centre(monkeypatch: pytest.MonkeyPatch) -> None:
    from timm.data import mixup as timms

    rng = np.random.default_rng(0)
    for area, y, x in rng.random((50, 3)):
        centres = iter([int(y * 80), int(x * 41)])
        monkeypatch.setattr(timms.np.random, "randint", lambda *_, _centres=centres, **__: next(_centres))
        assert cutmix_box(80, 41, area, (y, x)) == timms.rand_bbox((6, 3, 80, 41), 1 - area)


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.8, 1.0, 4.0])
def test_shares_of_mixup_have_the_moments_of_beta(alpha: float) -> None:
    """Mean 1/2, variance 1 / (4 (2 alpha + 1)), and the mean of |x - 1/2|: within four standard errors."""
    count = 1000
    shares = np.array([share for share, _ in small(Mixing(mixup_alpha=alpha), count)])
    variance = 1 / (4 * (2 * alpha + 1))
    assert abs(shares.mean() - 0.5) < 4 * math.sqrt(variance / count)
    fourth = 3 * (2 * alpha + 1) / (2 * alpha + 3) * variance**2  # Beta's kurtosis is 3 - 6 / (2 alpha + 3)
    assert abs(((shares - 0.5) ** 2).mean() - variance) < 4 * math.sqrt((fourth - variance**2) / count)
    log_beta = 2 * math.lgamma(alpha) - math.lgamma(2 * alpha)
    deviation = math.exp(-2 * alpha * math.log(2) - math.log(alpha) - log_beta)
    assert abs(np.abs(shares - 0.5).mean() - deviation) < 4 * math.sqrt((variance - deviation**2) / count)


@pytest.mark.slow
def test_kept_areas_of_cutmix_are_uniform_for_alpha_one_but_for_what_the_edges_clip() -> None:
    """A box of relative side s, centred uniformly, covers s - s^2 / 4 of each side on average, and s^2 is uniform."""
    shares = np.array([share for share, _ in small(CUTMIX, 1000, size=64)])
    area = (np.arange(100_000) + 0.5) / 100_000
    covered = float(np.mean((np.sqrt(area) - area / 4) ** 2))
    assert shares.mean() == pytest.approx(1 - covered, abs=0.03)
    assert 0 <= shares.min() < 0.2
    assert shares.max() > 0.98


@pytest.mark.slow
def test_mixing_half_of_the_micro_batches_get_cutmix_and_half_mixup() -> None:
    count = 800
    is_cutmix = np.array([two_colours or share == 1.0 for share, two_colours in small(BOTH, count, 64)])
    assert abs(is_cutmix.mean() - 0.5) < 4 * 0.5 / math.sqrt(count)
    spec = Mixing(mixup_alpha=0.2, cutmix_alpha=1.0, cutmix_probability=0.0)
    assert not any(two_colours for _, two_colours in small(spec, 50))
    spec = Mixing(mixup_alpha=0.2, cutmix_alpha=1.0, cutmix_probability=1.0)
    assert all(two_colours or share == 1.0 for share, two_colours in small(spec, 50))


@pytest.mark.slow
def test_mixing_what_is_not_mixed_is_untouched_and_its_targets_are_one_hot() -> None:
    never = Mixing(mixup_alpha=1.0, cutmix_alpha=1.0, probability=0.0)
    for step in range(10):
        pixels, targets = mixed(never, step)
        assert torch.equal(pixels, plain())
        assert torch.equal(targets, torch.eye(7)[LABELS])
    count = 800
    shares = [share for share, _ in small(Mixing(mixup_alpha=1.0, probability=0.3), count)]
    untouched = np.mean([share == 1.0 for share in shares])
    assert abs(untouched - 0.7) < 4 * math.sqrt(0.7 * 0.3 / count)


def test_mixture_is_a_pure_function_of_seed_step_and_micro_batch() -> None:
    np.random.seed(1)
    torch.manual_seed(1)
    first, first_targets = mixed(BOTH, step=5, micro_batch=2, seed=9)
    np.random.seed(2)
    torch.manual_seed(2)
    again, again_targets = mixed(BOTH, step=5, micro_batch=2, seed=9)
    assert torch.equal(first, again)
    assert torch.equal(first_targets, again_targets)
    others = [(5, 2, 10), (6, 2, 9), (5, 3, 9), (2, 5, 9), (5, 2, 9 + 2**40)]
    shares = {kept(mixed(BOTH, *position)[1]) for position in others}
    assert len(shares | {kept(first_targets)}) == len(others) + 1


def test_share_does_not_depend_on_the_resolution_nor_on_the_number_of_images() -> None:
    """So that a run with other micro-batches at hand, or growing crops, draws the same."""
    for step in range(10):
        _, targets = mixed(MIXUP, step)
        _, others = mix(MIXUP, plain(8, 8, 2), LABELS[:2], num_classes=7, seed=0, step=step, micro_batch=0)
        assert float(others[0, 0]) == kept(targets)


def test_image_in_the_middle_of_an_odd_batch_stays_itself() -> None:
    images, labels = plain()[:3], LABELS[:3]
    for spec in (MIXUP, CUTMIX):
        pixels, targets = mix(spec, images, labels, num_classes=7, seed=0, step=0, micro_batch=0)
        torch.testing.assert_close(pixels[1], images[1])
        torch.testing.assert_close(targets[1], torch.eye(7)[1])


@pytest.mark.parametrize("spec", [MIXUP, CUTMIX])
def test_channels_last_is_kept(spec: Mixing) -> None:
    images = plain().to(memory_format=torch.channels_last)
    pixels, _ = mix(spec, images, LABELS, num_classes=7, seed=0, step=0, micro_batch=0)
    assert pixels.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(pixels, mixed(spec)[0])


@pytest.mark.parametrize("spec", [MIXUP, CUTMIX, BOTH])
def test_mixing_reads_nothing_from_the_device(spec: Mixing) -> None:
    """A tensor on the meta device has no values to read: what tries raises."""
    images, labels = plain().to("meta"), LABELS.to("meta")
    for step in range(4):
        pixels, targets = mix(spec, images, labels, num_classes=7, seed=0, step=step, micro_batch=0)
        assert (pixels.shape, targets.shape) == (images.shape, (6, 7))
