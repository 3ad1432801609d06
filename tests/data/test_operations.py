"""Each operation gives the pixels of torchvision's, and of Pillow's through timm, for any batch the image is in."""

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import auto_augment as timm_operations
from torchvision.transforms.v2 import TrivialAugmentWide as TorchvisionTrivialAugment
from torchvision.transforms.v2 import functional

from trainer.data import operations
from trainer.data.operations import Operation, apply

FACTORS = (0.01, 0.1, 0.34, 0.67, 0.934, 1.0, 1.033, 1.5, 1.99)
POINTWISE = {
    Operation.BRIGHTNESS: (functional.adjust_brightness, FACTORS),
    Operation.COLOR: (functional.adjust_saturation, FACTORS),
    Operation.CONTRAST: (functional.adjust_contrast, FACTORS),
    Operation.SHARPNESS: (functional.adjust_sharpness, FACTORS),
    Operation.POSTERIZE: (lambda image, bits: functional.posterize(image, int(bits)), range(9)),
    Operation.SOLARIZE: (functional.solarize, (0, 1, 77, 128, 254, 255)),
    Operation.AUTOCONTRAST: (lambda image, _: functional.autocontrast(image), (0,)),
    Operation.EQUALIZE: (lambda image, _: functional.equalize(image), (0,)),
    Operation.INVERT: (lambda image, _: functional.invert(image), (0,)),
    Operation.IDENTITY: (lambda image, _: image, (0,)),
}
GEOMETRIC = {  # as TrivialAugment calls them in torchvision, and a sample of its magnitudes
    Operation.SHEAR_X: ("ShearX", (-0.99, -0.264, 0.033, 0.495, 0.792)),
    Operation.SHEAR_Y: ("ShearY", (-0.99, -0.264, 0.033, 0.495, 0.792)),
    Operation.TRANSLATE_X: ("TranslateX", (-32, -7, 1, 16, 32)),
    Operation.TRANSLATE_Y: ("TranslateY", (-32, -7, 1, 16, 32)),
    Operation.ROTATE: ("Rotate", (-135, -90, -49.5, 4.5, 30, 90)),
}


def pictures(height: int = 61, width: int = 67) -> torch.Tensor:
    """Noise, noise of few values, smooth colours, grays, one colour, dark, two values: uint8, channels-last."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (height, width, 3))
    rows, columns = np.mgrid[:height, :width]
    smooth = np.stack([rows * 255 / height, columns * 255 / width, 127 + 100 * np.sin((rows + columns) / 9)], axis=2)
    gray = np.repeat(noise[:, :, :1], 3, axis=2)
    one = np.full_like(noise, (37, 0, 255))
    two = np.where(noise < 30, 60, 200)
    images = np.stack([noise, noise // 50 * 50, smooth.astype(np.int64), gray, one, noise // 6, two]).astype(np.uint8)
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def applied(images: torch.Tensor, operation: Operation, argument: float, **how: object) -> torch.Tensor:
    return apply(images, np.full(len(images), operation), np.full(len(images), argument, float), **how)  # type: ignore


def source(operation: Operation, argument: float, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the pixels come from, x and y: the definition of each operation, in float64."""
    y, x = np.mgrid[:height, :width] + 0.5
    match operation:
        case Operation.SHEAR_X:
            return x + argument * y, y
        case Operation.SHEAR_Y:
            return x, y + argument * x
        case Operation.TRANSLATE_X:
            return x - argument, y
        case Operation.TRANSLATE_Y:
            return x, y - argument
    cos, sin = np.cos(np.radians(argument)), np.sin(np.radians(argument))
    x, y = x - width / 2, y - height / 2
    return cos * x - sin * y + width / 2, sin * x + cos * y + height / 2


def test_operations_every_operation_is_compared() -> None:
    assert set(POINTWISE) | set(GEOMETRIC) | {Operation.SOLARIZE_ADD} == set(Operation)


@pytest.mark.parametrize("operation", POINTWISE)
def test_colours_equal_torchvisions(operation: Operation) -> None:
    """Every pixel, of images of any kind: those with equal channels show how each product is rounded."""
    theirs, arguments = POINTWISE[operation]
    for argument in arguments:
        result = applied(pictures(), operation, argument)
        for image, ours in zip(pictures(), result, strict=True):
            assert torch.equal(ours, theirs(image.contiguous(), argument)), argument


def test_solarize_add_brightens_values_below_128() -> None:
    images = pictures()
    for added in (0, 33, 110, 128):
        expected = torch.where(images < 128, images.int() + added, images.int()).clamp(max=255)
        assert torch.equal(applied(images, Operation.SOLARIZE_ADD, added).int(), expected)


def test_solarizing_from_256_changes_nothing() -> None:
    assert torch.equal(applied(pictures(), Operation.SOLARIZE, 256), pictures())


@pytest.mark.parametrize("operation", GEOMETRIC)
@pytest.mark.parametrize("size", [(224, 224), (61, 67)])
def test_shears_shifts_and_turns_equal_torchvisions(operation: Operation, size: tuple[int, int]) -> None:
    """Every pixel, but those that come from within 1/1000 of a pixel of the border between two: there torchvision's
    float32 decides. Fewer than 0.5 % of all differ."""
    images = pictures(*size)
    name, arguments = GEOMETRIC[operation]
    differing = []
    for argument in arguments:
        theirs = TorchvisionTrivialAugment()._apply_image_or_video_transform(
            images, name, argument, interpolation=functional.InterpolationMode.NEAREST, fill={torch.Tensor: None}
        )
        differs = (applied(images, operation, argument) != theirs).any(dim=1).any(dim=0).numpy()
        x, y = source(operation, argument, *size)
        tie = np.minimum(np.abs(x - np.rint(x)), np.abs(y - np.rint(y))) < 1e-3
        assert not (differs & ~tie).any(), argument
        differing.append(differs.mean())
    assert np.mean(differing) < 0.005


@pytest.mark.parametrize("bilinear", [False, True])
@pytest.mark.parametrize("operation", GEOMETRIC)
def test_shears_shifts_and_turns_equal_pillows(operation: Operation, bilinear: bool) -> None:
    """With fill and fractions of pixels; interpolated values differ by one, as Pillow's are rounded down."""
    fill, argument = (124, 116, 104), {Operation.ROTATE: 17.3}.get(operation, 0.1234)
    names = {
        Operation.SHEAR_X: ("ShearX", 1.0),
        Operation.SHEAR_Y: ("ShearY", 1.0),
        Operation.TRANSLATE_X: ("TranslateXRel", -1.0),  # timm's sign is of the place that pixels come from
        Operation.TRANSLATE_Y: ("TranslateYRel", -1.0),
        Operation.ROTATE: ("Rotate", 1.0),
    }
    name, sign = names[operation]
    shift = {Operation.TRANSLATE_X: 67, Operation.TRANSLATE_Y: 61}.get(operation, 1)
    method = Image.Resampling.BILINEAR if bilinear else Image.Resampling.NEAREST
    for image in pictures():
        pillow = timm_operations.NAME_TO_OP[name](
            Image.fromarray(image.permute(1, 2, 0).numpy()), sign * argument, fillcolor=fill, resample=method
        )
        ours = applied(image[None], operation, argument * shift, fill=fill, bilinear=bilinear)[0]
        difference = np.abs(ours.permute(1, 2, 0).numpy().astype(int) - np.asarray(pillow).astype(int))
        assert (difference.max(axis=2) > bilinear).mean() < 0.001


@pytest.mark.parametrize(
    ("operation", "name", "argument"),
    [
        (Operation.BRIGHTNESS, "Brightness", 0.46),
        (Operation.COLOR, "Color", 1.72),
        (Operation.CONTRAST, "Contrast", 1.63),
        (Operation.SHARPNESS, "Sharpness", 0.19),
        (Operation.POSTERIZE, "Posterize", 2),
        (Operation.SOLARIZE, "Solarize", 77),
        (Operation.SOLARIZE_ADD, "SolarizeAdd", 77),
        (Operation.AUTOCONTRAST, "AutoContrast", None),
        (Operation.EQUALIZE, "Equalize", None),
        (Operation.INVERT, "Invert", None),
    ],
)
def test_colours_are_within_two_values_of_pillows(operation: Operation, name: str, argument: float | None) -> None:
    arguments = () if argument is None else (argument,)
    for image in pictures():
        pillow = timm_operations.NAME_TO_OP[name](Image.fromarray(image.permute(1, 2, 0).numpy()), *arguments)
        ours = applied(image[None], operation, argument or 0.0)[0].permute(1, 2, 0).numpy()
        assert np.abs(ours.astype(int) - np.asarray(pillow).astype(int)).max() <= 2


@pytest.mark.parametrize("bilinear", [False, True])
def test_image_comes_out_the_same_in_any_batch(bilinear: bool) -> None:
    """Bit by bit, for every operation: alone, among others, shuffled, and in either memory format."""
    rng = np.random.default_rng(1)
    count = 96
    images = torch.from_numpy(rng.integers(0, 256, (count, 31, 29, 3)).astype(np.uint8)).permute(0, 3, 1, 2)
    operations, arguments = np.arange(count) % len(Operation), rng.uniform(0.2, 1.8, count)
    together = apply(images, operations, arguments, bilinear=bilinear)
    for image in range(count):
        one = slice(image, image + 1)
        alone = apply(images[one], operations[one], arguments[one], bilinear=bilinear)
        assert torch.equal(alone, together[one]), Operation(operations[image])
    order = rng.permutation(count)
    shuffled = apply(images[order], operations[order], arguments[order], bilinear=bilinear)
    assert torch.equal(shuffled, together[order])
    assert torch.equal(apply(images.contiguous(), operations, arguments, bilinear=bilinear), together)


def test_operations_bound_the_images_of_a_run_on_a_gpu_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """AugMix changes all its chains together, whatever the micro-batch: the intermediate results would take it all."""

    class OnGpu(torch.Tensor):
        is_cuda = True

    runs = []
    rotated = operations._affine
    monkeypatch.setattr(operations, "_GPU_RUN", 3 * 31 * 29)
    monkeypatch.setattr(operations, "_affine", lambda pixels, *rest: runs.append(len(pixels)) or rotated(pixels, *rest))
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (8, 3, 31, 29), np.uint8))
    found = applied(images.as_subclass(OnGpu), Operation.ROTATE, 30.0)
    assert runs == [3, 3, 2]
    assert torch.equal(found.as_subclass(torch.Tensor), applied(images, Operation.ROTATE, 30.0))


def test_result_is_new_and_channels_last() -> None:
    images = pictures()
    before = images.clone()
    for operation in Operation:
        result = applied(images, operation, 0.5)
        assert result.is_contiguous(memory_format=torch.channels_last)
        assert result.data_ptr() != images.data_ptr()
    assert torch.equal(images, before)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 5), (3, 3), (1, 300)])
def test_operations_images_of_any_size_keep_it(height: int, width: int) -> None:
    for operation in Operation:
        for bilinear in (False, True):
            result = applied(pictures(height, width), operation, 0.5, bilinear=bilinear)
            assert result.shape == (7, 3, height, width)
