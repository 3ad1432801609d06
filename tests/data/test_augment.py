"""What happens to an image depends on seed, epoch and its number alone; draws are distributed as the references'."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from timm.data import auto_augment as timm_operations
from torchvision.transforms import AutoAugmentPolicy
from torchvision.transforms import RandomErasing as TorchvisionErasing
from torchvision.transforms.v2 import AutoAugment as TorchvisionAutoAugment
from torchvision.transforms.v2 import TrivialAugmentWide as TorchvisionTrivialAugment
from torchvision.transforms.v2 import functional

from tests.support.small_recipe import recipe as small
from trainer.data.augment import Augmenter, erased_boxes, jitter_rounds, lighting_offsets
from trainer.data.operations import Operation
from trainer.data.policies import auto_rounds, policy_rounds, rand_arguments, rand_round, trivial_round
from trainer.data.random import RandomStream, uniform
from trainer.recipe import (
    AugMix,
    AutoAugment,
    ColorJitter,
    PcaLighting,
    RandAugment,
    RandomErasing,
    Recipe,
    TrivialAugmentWide,
)

COUNT = 20_000
JITTER = ColorJitter(brightness=0.4, contrast=0.3, saturation=0.2)
RAND = RandAugment(magnitude=7, magnitude_std=0.5)
ERASING = RandomErasing(probability=0.4)
ASKED = {
    "jitter": replace(small, color=JITTER),
    "trivial": replace(small, augmentation=TrivialAugmentWide()),
    "rand": replace(small, augmentation=RAND),
    "auto": replace(small, augmentation=AutoAugment()),
    "auto for CIFAR-10": replace(small, augmentation=AutoAugment(policy="cifar10")),
    "augmix": replace(small, augmentation=AugMix()),
    "both": replace(small, color=JITTER, augmentation=RAND),
}
NAMES = {  # Operation: torchvision's name in TrivialAugmentWide, timm's of the increasing set
    Operation.IDENTITY: ("Identity", None),
    Operation.SHEAR_X: ("ShearX", "ShearX"),
    Operation.SHEAR_Y: ("ShearY", "ShearY"),
    Operation.TRANSLATE_X: ("TranslateX", "TranslateXRel"),
    Operation.TRANSLATE_Y: ("TranslateY", "TranslateYRel"),
    Operation.ROTATE: ("Rotate", "Rotate"),
    Operation.BRIGHTNESS: ("Brightness", "BrightnessIncreasing"),
    Operation.COLOR: ("Color", "ColorIncreasing"),
    Operation.CONTRAST: ("Contrast", "ContrastIncreasing"),
    Operation.SHARPNESS: ("Sharpness", "SharpnessIncreasing"),
    Operation.POSTERIZE: ("Posterize", "PosterizeIncreasing"),
    Operation.SOLARIZE: ("Solarize", "SolarizeIncreasing"),
    Operation.SOLARIZE_ADD: (None, "SolarizeAdd"),
    Operation.AUTOCONTRAST: ("AutoContrast", "AutoContrast"),
    Operation.EQUALIZE: ("Equalize", "Equalize"),
    Operation.INVERT: (None, "Invert"),
}
FACTORS = (Operation.BRIGHTNESS, Operation.COLOR, Operation.CONTRAST, Operation.SHARPNESS)


def noise(count: int, size: int = 24) -> torch.Tensor:
    values = np.random.default_rng(0).integers(0, 256, (count, size, size, 3)).astype(np.uint8)
    return torch.from_numpy(values).permute(0, 3, 1, 2)


def drawn(count: int, draw: RandomStream = RandomStream.POLICY) -> np.ndarray:
    return uniform(0, 0, np.arange(COUNT), draw, count)


def is_even(counts: np.ndarray) -> bool:
    """Chi-square within five standard deviations of what even chances give."""
    expected = counts.sum() / len(counts)
    freedom = len(counts) - 1
    return bool(((counts - expected) ** 2 / expected).sum() < freedom + 5 * math.sqrt(2 * freedom))


# ---------------------------------------------------------------------------------------- one image, whatever the batch


@pytest.mark.slow
@pytest.mark.parametrize("asked", ASKED)
def test_pixels_are_the_same_alone_in_a_batch_and_shuffled(asked: str) -> None:
    augmenter, images, samples = Augmenter(ASKED[asked], 3), noise(64), np.arange(64) * 977
    together = augmenter.pixels(images, samples)
    for image in range(64):
        alone = augmenter.pixels(images[image : image + 1], samples[image : image + 1])
        assert torch.equal(alone[0], together[image])
    order = np.random.default_rng(1).permutation(64)
    assert torch.equal(augmenter.pixels(images[order], samples[order]), together[order])
    assert torch.equal(Augmenter(ASKED[asked], 3).pixels(images, samples), together)
    assert together.is_contiguous(memory_format=torch.channels_last)
    assert together.dtype == torch.uint8
    assert torch.equal(images, noise(64))


def test_normalised_images_are_the_same_alone_in_a_batch_and_shuffled() -> None:
    augmenter = Augmenter(replace(small, color=PcaLighting(), erasing=ERASING), 3)
    images, samples = noise(64).float() / 100, np.arange(64) * 977
    together = augmenter.normalised(images.clone(), samples)
    for image in range(64):
        one = slice(image, image + 1)
        assert torch.equal(augmenter.normalised(images[one].clone(), samples[one]), together[one])
    order = np.random.default_rng(1).permutation(64)
    assert torch.equal(augmenter.normalised(images[order], samples[order]), together[order])
    assert together.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.slow
@pytest.mark.parametrize("asked", ASKED)
def test_augment_nothing_is_read_back_from_the_device(asked: str) -> None:
    """On tensors without values, which raise where one is asked for."""
    recipe, samples = replace(ASKED[asked], erasing=ERASING), np.arange(200)
    pixels = torch.empty(200, 3, 32, 32, dtype=torch.uint8, device="meta")
    result = Augmenter(recipe, 0).pixels(pixels, samples)
    assert result.device.type == "meta"
    assert result.is_contiguous(memory_format=torch.channels_last)
    for color in (recipe.color, PcaLighting()):
        Augmenter(replace(recipe, color=color), 0).normalised(pixels.float(), samples)


@pytest.mark.parametrize("asked", ASKED)
def test_samples_epochs_and_seeds_draw_differently(asked: str) -> None:
    recipe, images = ASKED[asked], noise(1).expand(64, -1, -1, -1)
    results = [
        Augmenter(recipe, 0).pixels(images, np.arange(64)),
        Augmenter(recipe, 0).pixels(images, np.arange(64) + 64),
        Augmenter(recipe, 1).pixels(images, np.arange(64)),
        Augmenter(replace(recipe, seed=1), 0).pixels(images, np.arange(64)),
    ]
    for first in range(4):
        for second in range(first):
            differ = (results[first] != results[second]).flatten(1).any(dim=1)
            assert differ.float().mean() > 0.5, (first, second)


def test_augment_images_are_returned_as_they_are_where_nothing_is_asked() -> None:
    images, samples = noise(2), np.arange(2)
    for recipe in (small, replace(small, color=ColorJitter()), replace(small, color=PcaLighting(), erasing=ERASING)):
        assert Augmenter(recipe, 0).pixels(images, samples) is images
    normalised = images.float()
    assert Augmenter(ASKED["both"], 0).normalised(normalised, samples) is normalised
    assert torch.equal(normalised, noise(2).float())


@pytest.mark.parametrize("policy", [TrivialAugmentWide(), AutoAugment()])
def test_interpolation_of_a_policy_is_that_of_its_shears_and_rotations(
    policy: TrivialAugmentWide | AutoAugment,
) -> None:
    images, samples = noise(64), np.arange(64)
    nearest, bilinear = (
        Augmenter(replace(small, augmentation=replace(policy, interpolation=interpolation)), 0).pixels(images, samples)
        for interpolation in ("nearest", "bilinear")
    )
    slanted = np.zeros(64, bool)
    for operations, arguments in policy_rounds(
        policy, lambda count: uniform(0, 0, samples, RandomStream.POLICY, count), *images.shape[2:]
    ):
        slanted |= np.isin(operations, (Operation.SHEAR_X, Operation.SHEAR_Y, Operation.ROTATE)) & (arguments != 0)
    assert 5 < slanted.sum() < 40
    assert torch.equal((nearest != bilinear).flatten(1).any(dim=1), torch.from_numpy(slanted))


# ------------------------------------------------------------------------------------------------------- TrivialAugment


def test_trivial_augment_has_torchvisions_table() -> None:
    """Every operation with every bin and both signs, to the last bit of the magnitude."""
    space = TorchvisionTrivialAugment._AUGMENTATION_SPACE
    assert [NAMES[operation][0] for operation in Operation if NAMES[operation][0]] == list(space)
    for which, (name, (bins, signed)) in enumerate(space.items()):
        magnitudes = bins(31, 224, 224)
        for step in range(31):
            for sign_draw, sign in ((0.75, 1), (0.25, -1)):
                draws = np.array([[(which + 0.5) / 14, (step + 0.5) / 31, sign_draw]])
                operations, arguments = trivial_round(draws)
                operation, argument = Operation(operations[0]), arguments[0]
                assert NAMES[operation][0] == name
                magnitude = 0.0 if magnitudes is None else float(magnitudes[step]) * (sign if signed else 1)
                if operation in FACTORS:
                    assert argument == 1 + magnitude
                elif operation in (Operation.TRANSLATE_X, Operation.TRANSLATE_Y):
                    assert argument == int(magnitude)
                elif operation == Operation.SOLARIZE:
                    values = torch.arange(256, dtype=torch.uint8)
                    assert torch.equal(values >= argument, values >= 255.0 * magnitude)
                else:
                    assert argument == magnitude


def test_trivial_augment_draws_operations_bins_and_signs_evenly() -> None:
    operations, arguments = trivial_round(drawn(3))
    assert set(operations) == {operation for operation in Operation if NAMES[operation][0]}
    assert is_even(np.unique(operations, return_counts=True)[1])
    angles = arguments[operations == Operation.ROTATE]
    assert is_even(np.bincount(np.rint(np.abs(angles) / 4.5).astype(int), minlength=31))
    assert abs((angles < 0).sum() / (angles != 0).sum() - 0.5) < 5 * 0.5 / math.sqrt(len(angles))


# ---------------------------------------------------------------------------------------------------------- RandAugment


def test_rand_augment_has_the_operations_of_timms_increasing_set() -> None:
    operations, _ = rand_round(RandAugment(probability=1.0), drawn(4), 224, 224)
    found, counts = np.unique(operations, return_counts=True)
    assert {NAMES[Operation(kind)][1] for kind in found} == set(timm_operations._RAND_INCREASING_TRANSFORMS)
    assert len(found) == len(timm_operations._RAND_INCREASING_TRANSFORMS) == 15
    assert is_even(counts)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_rand_augment_has_timms_arguments_at_any_magnitude(monkeypatch: pytest.MonkeyPatch, sign: float) -> None:
    monkeypatch.setattr(timm_operations, "_randomly_negate", lambda value: sign * value)
    height, width, compared = 160, 224, 0
    for magnitude in [*np.linspace(0, 10, 41), *np.random.default_rng(0).uniform(0, 10, 50)]:
        for operation, (_, name) in NAMES.items():
            level_to_argument: Callable | None = name and timm_operations.LEVEL_TO_ARG[name]
            if level_to_argument is None:
                continue
            ours = rand_arguments(np.array([operation]), np.array([magnitude]), np.array([sign]), height, width)[0]
            (theirs,) = level_to_argument(magnitude, {})
            pixels = {Operation.TRANSLATE_X: width, Operation.TRANSLATE_Y: height}.get(operation, 1)
            assert ours == theirs * pixels, (operation, magnitude)
            compared += 1
    assert compared == 91 * 12


def test_rand_augment_draws_magnitudes_signs_and_whether_as_timm() -> None:
    operations, arguments = rand_round(RandAugment(magnitude=5, magnitude_std=0.5), drawn(4), 224, 224)
    assert abs((operations != Operation.IDENTITY).mean() - 0.5) < 5 * 0.5 / math.sqrt(COUNT)
    angles = arguments[operations == Operation.ROTATE]
    magnitudes = np.abs(angles) / 3
    assert abs(magnitudes.mean() - 5) < 5 * 0.5 / math.sqrt(len(angles))
    assert abs(magnitudes.std() / 0.5 - 1) < 5 / math.sqrt(2 * len(angles))
    assert abs((angles < 0).mean() - 0.5) < 5 * 0.5 / math.sqrt(len(angles))


def test_rand_augments_magnitudes_stay_within_0_and_10() -> None:
    for magnitude in (0.0, 10.0):
        policy = RandAugment(magnitude=magnitude, magnitude_std=3.0, probability=1.0)
        operations, arguments = rand_round(policy, drawn(4), 224, 224)
        angles = np.abs(arguments[operations == Operation.ROTATE])
        assert angles.max() <= 30
        assert abs((angles == 3 * magnitude).mean() - 0.5) < 0.1  # half of a normal distribution is beyond the limit


def test_rand_augment_fills_with_the_mean_colour() -> None:
    black = torch.zeros(256, 3, 32, 32, dtype=torch.uint8)
    recipe = replace(ASKED["rand"], mean=(0.2, 0.4, 0.6), augmentation=RandAugment(operations=1, probability=1.0))
    result = Augmenter(recipe, 0).pixels(black, np.arange(256))
    operations, _ = rand_round(recipe.augmentation, uniform(0, 0, np.arange(256), RandomStream.POLICY, 4), 32, 32)
    rotated = result[operations == Operation.ROTATE]
    assert len(rotated) > 5
    assert (rotated[:, :, 0, 0] == torch.tensor([51, 102, 153])).all()


# ---------------------------------------------------------------------------------------------------------- AutoAugment

SUB_POLICIES = {"imagenet": AutoAugmentPolicy.IMAGENET, "cifar10": AutoAugmentPolicy.CIFAR10}
GEOMETRIC = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")


class DrawnAutoAugment(TorchvisionAutoAugment):
    """torchvision's AutoAugment with given random numbers; records the operations that it applies."""

    def __init__(self, policy: AutoAugmentPolicy) -> None:
        super().__init__(policy)
        self.applied: list[tuple[str, float]] = []

    def _apply_image_or_video_transform(
        self, image: torch.Tensor, name: str, magnitude: float, **how: object
    ) -> object:
        self.applied.append((name, magnitude))
        return super()._apply_image_or_video_transform(image, name, magnitude, **how)

    def run(self, image: torch.Tensor, draws: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
        """`draws`: shape (5,), as auto_rounds. A sign is asked for only where there is one."""
        which = int(draws[0] * len(self._policies))
        asked: list[float] = []
        for place, (name, probability, _) in enumerate(self._policies[which]):
            asked.append(draws[1 + 2 * place])
            if asked[-1] <= probability and self._AUGMENTATION_SPACE[name][1]:
                asked.append(draws[2 + 2 * place])
        with monkeypatch.context() as patched:
            patched.setattr(torch, "randint", lambda *_: torch.tensor(which))
            patched.setattr(torch, "rand", lambda _: torch.tensor(asked.pop(0), dtype=torch.float64))
            self.applied = []
            result = self(image)
        assert not asked
        return result


@pytest.mark.parametrize("policy", SUB_POLICIES)
def test_auto_augment_is_torchvisions_with_the_drawn_sub_policies(
    policy: Literal["imagenet", "cifar10"], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Operations and arguments exactly; pixels exactly, except that float32 may decide ties of shears and rotations."""
    count, (height, width) = 400, (48, 56)
    recipe = replace(small, augmentation=AutoAugment(policy=policy))
    images = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (count, height, width, 3), np.uint8))
    images, samples = images.permute(0, 3, 1, 2), np.arange(count)
    draws = uniform(recipe.seed, 4, samples, RandomStream.POLICY, 5)
    rounds = list(auto_rounds(recipe.augmentation, draws, height, width))
    result, theirs = Augmenter(recipe, 4).pixels(images, samples), DrawnAutoAugment(SUB_POLICIES[policy])
    exact, used = 0, set()
    for image in samples:
        expected = theirs.run(images[image].contiguous(), draws[image], monkeypatch)
        ours = [(Operation(kinds[image]), arguments[image]) for kinds, arguments in rounds]
        ours = [(kind, argument) for kind, argument in ours if kind != Operation.IDENTITY]
        assert [NAMES[kind][0] or "Invert" for kind, _ in ours] == [name for name, _ in theirs.applied]
        for (kind, argument), (name, magnitude) in zip(ours, theirs.applied, strict=True):
            used.add(name)
            if kind == Operation.SOLARIZE:
                assert argument == math.ceil(np.float32(255 * magnitude))
            else:
                given = int(magnitude) if name.startswith("Translate") else magnitude
                assert argument == (1 + given if kind in FACTORS else given)
        if not any(name in GEOMETRIC for name, _ in theirs.applied):
            assert torch.equal(result[image], expected), theirs.applied
            exact += 1
        elif theirs.applied[-1][0] in GEOMETRIC:  # an equalisation after it would spread one pixel over all
            assert (result[image] != expected).float().mean() < 0.02, theirs.applied
    assert exact > count / 4
    assert used == {name for pair in theirs._policies for name, probability, _ in pair if probability}


@pytest.mark.parametrize("policy", SUB_POLICIES)
def test_auto_augment_draws_sub_policies_signs_and_whether_evenly(policy: Literal["imagenet", "cifar10"]) -> None:
    (first, arguments), (second, _) = auto_rounds(AutoAugment(policy=policy), drawn(5), 32, 32)
    pairs = TorchvisionAutoAugment(SUB_POLICIES[policy])._policies
    for place, operations in enumerate((first, second)):
        share = sum(pair[place][1] for pair in pairs) / len(pairs)
        assert abs((operations != Operation.IDENTITY).mean() - share) < 5 * 0.5 / math.sqrt(COUNT)
    angles = arguments[first == Operation.ROTATE]
    assert len(angles) > 300
    assert abs((angles < 0).mean() - 0.5) < 5 * 0.5 / math.sqrt(len(angles))


# -------------------------------------------------------------------------------------------------------- colour jitter


def test_color_jitter_is_torchvisions_operations_in_the_drawn_order() -> None:
    samples, images = np.arange(40), noise(40)
    result = Augmenter(ASKED["jitter"], 2).pixels(images, samples)
    rounds = jitter_rounds(JITTER, uniform(small.seed, 2, samples, RandomStream.COLOR, 4))
    adjust = {
        Operation.BRIGHTNESS: functional.adjust_brightness,
        Operation.CONTRAST: functional.adjust_contrast,
        Operation.COLOR: functional.adjust_saturation,
    }
    for image in samples:
        expected = images[image].contiguous()
        for operations, factors in rounds:
            expected = adjust[operations[image]](expected, factors[image])
        assert torch.equal(result[image], expected)


def test_color_jitter_draws_factors_and_orders_evenly() -> None:
    rounds = jitter_rounds(JITTER, drawn(4, RandomStream.COLOR))
    orders = np.stack([operations for operations, _ in rounds], axis=1)
    counts = np.unique(orders, axis=0, return_counts=True)[1]
    assert len(counts) == 6
    assert is_even(counts)
    strengths = {Operation.BRIGHTNESS: 0.4, Operation.CONTRAST: 0.3, Operation.COLOR: 0.2}
    for operation, strength in strengths.items():
        factors = np.concatenate([given[operations == operation] for operations, given in rounds])
        assert len(factors) == COUNT
        assert is_even(np.histogram(factors, bins=20, range=(1 - strength, 1 + strength))[0])


def test_strength_of_0_leaves_its_operation_out() -> None:
    rounds = jitter_rounds(ColorJitter(contrast=0.5), drawn(4, RandomStream.COLOR))
    operations = np.stack([operations for operations, _ in rounds])
    assert set(operations.flat) == {Operation.IDENTITY, Operation.CONTRAST}
    assert ((operations == Operation.CONTRAST).sum(axis=0) == 1).all()


# ---------------------------------------------------------------------------------------------------- lighting, erasing


def test_lighting_adds_the_components_in_units_of_the_unnormalised_image() -> None:
    recipe = replace(small, color=PcaLighting(std=0.1), std=(0.2, 0.25, 0.5))
    images, samples = torch.zeros(8, 3, 5, 5), np.arange(8)
    result = Augmenter(recipe, 1).normalised(images, samples)
    components = [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
    for image, draws in enumerate(uniform(recipe.seed, 1, samples, RandomStream.COLOR, 3)):
        amounts = 0.1 * torch.special.ndtri(torch.tensor(draws)).numpy()
        offset = np.array(components) @ (amounts * [0.2175, 0.0188, 0.0045]) / recipe.std
        assert torch.equal(result[image], result[image, :, :1, :1].expand(3, 5, 5))
        assert np.allclose(result[image, :, 0, 0].numpy(), offset, rtol=1e-6, atol=0)


def test_amounts_of_lighting_are_normally_distributed() -> None:
    offsets = lighting_offsets(PcaLighting(std=0.1), drawn(3, RandomStream.COLOR))
    components = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
    amounts = np.linalg.solve(components, offsets.T).T / [0.2175, 0.0188, 0.0045]
    assert np.abs(amounts.mean(axis=0)).max() < 5 * 0.1 / math.sqrt(COUNT)
    assert np.abs(amounts.std(axis=0) / 0.1 - 1).max() < 5 / math.sqrt(2 * COUNT)
    assert np.abs(np.corrcoef(amounts.T) - np.eye(3)).max() < 5 / math.sqrt(COUNT)
    within = np.mean(np.abs(amounts) < 0.1)
    assert abs(within - math.erf(math.sqrt(0.5))) < 5 * 0.5 / math.sqrt(COUNT)


def test_erased_boxes_are_distributed_as_torchvisions() -> None:
    boxes = erased_boxes(RandomErasing(probability=1.0), drawn(41, RandomStream.ERASING), 64, 96)
    torch.manual_seed(0)
    image, count = torch.empty(3, 64, 96), 4000
    theirs = np.array([TorchvisionErasing.get_params(image, (0.02, 0.33), (0.3, 3.3), [0.0])[:4] for _ in range(count)])
    for column, name in enumerate(("top", "left", "height", "width")):
        both = np.sort(np.concatenate([boxes[:, column], theirs[:, column]]))
        shares = [np.searchsorted(np.sort(sample[:, column]), both, side="right") for sample in (boxes, theirs)]
        distance = np.abs(shares[0] / COUNT - shares[1] / count).max()  # Kolmogorov and Smirnov; p = 0.001
        assert distance < 1.95 * math.sqrt(1 / COUNT + 1 / count), name


def test_boxes_have_the_area_asked_for_and_lie_inside() -> None:
    top, left, height, width = erased_boxes(ERASING, drawn(41, RandomStream.ERASING), 64, 96).T
    erased = height > 0
    assert abs(erased.mean() - 0.4) < 5 * 0.5 / math.sqrt(COUNT)
    assert (np.stack([top, left, height, width])[:, ~erased] == 0).all()
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 64).all()
    assert (left + width <= 96).all()
    areas = (height * width / (64 * 96))[erased]
    assert 0.015 < areas.min() < 0.025
    assert 0.32 < areas.max() < 0.345


def test_erased_boxes_draw_area_ratio_and_place_independently() -> None:
    """Of areas that fit at every ratio: what does not fit is drawn again, which would make them depend."""
    erasing = RandomErasing(probability=1.0, scale=(0.02, 0.1))
    top, left, height, width = erased_boxes(erasing, drawn(41, RandomStream.ERASING), 640, 960).T
    columns = top / (640 - height), left / (960 - width), height * width, np.log(height / width)
    assert np.abs(np.corrcoef(np.stack(columns)) - np.eye(4)).max() < 5 / math.sqrt(COUNT)


def test_image_that_no_box_fits_stays() -> None:
    whole = RandomErasing(probability=1.0, scale=(1.0, 1.0))
    assert (erased_boxes(whole, drawn(41, RandomStream.ERASING)[:50], 8, 8) == 0).all()


def test_augment_only_the_box_becomes_0() -> None:
    recipe: Recipe = replace(small, erasing=ERASING)
    images, samples = noise(64).float() + 1, np.arange(64)
    result = Augmenter(recipe, 0).normalised(images.clone(), samples)
    boxes = erased_boxes(ERASING, uniform(recipe.seed, 0, samples, RandomStream.ERASING, 41), 24, 24)
    expected = images.clone()
    for image, (top, left, height, width) in zip(expected, boxes, strict=True):
        image[:, top : top + height, left : left + width] = 0
    assert torch.equal(result, expected)
    assert 15 < (boxes[:, 2] > 0).sum() < 40
