"""Encoded images become PIL's pixels, and what PIL refuses is refused."""

import io

import numpy as np
import pytest
from PIL import Image

from trainer.data.beton import encoded_image
from trainer.data.beton.encoded_image import decoded
from trainer.data.images import to_rgb

random = np.random.default_rng(0)
COARSE = Image.fromarray(random.integers(0, 256, (9, 11, 3), np.uint8)).resize((157, 101), Image.Resampling.BICUBIC)


def saved(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def of_pil(encoded: bytes) -> np.ndarray:
    return to_rgb(Image.open(io.BytesIO(encoded)))


def with_orientation() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


@pytest.mark.parametrize(
    "encoded",
    [
        *(saved(COARSE, quality=quality, subsampling=sampling) for quality in (30, 95) for sampling in (0, 1, 2)),
        saved(COARSE, progressive=True),
        saved(COARSE, restart_marker_blocks=2),
        saved(COARSE, exif=with_orientation(), comment=b"x" * 300),
        saved(COARSE.convert("L")),
        saved(COARSE.resize((1, 1))),
        saved(COARSE.convert("CMYK")),
        saved(COARSE) + b"trailing",
        saved(COARSE, "PNG"),
        saved(COARSE, "WEBP"),
    ],
)
def test_decoded_pixels_are_pils(encoded: bytes) -> None:
    assert np.array_equal(decoded(encoded), of_pil(encoded))


def test_decoded_plain_jpegs_do_not_go_through_pil(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoded_image, "to_rgb", None)
    assert decoded(saved(COARSE)).shape == (101, 157, 3)


def test_decoded_damaged_files_are_refused_as_by_pil() -> None:
    whole = saved(COARSE)
    ended = b"\xff\xd9"
    refused = 0
    damaged = [whole[:length] for length in range(0, len(whole), 97)]
    damaged += [whole[:length] + ended for length in range(0, len(whole), 97)]
    damaged += [whole[:2] + b"\0" * 50 + ended, b"\xff\xd8\xff" + ended]
    for encoded in damaged:
        try:
            expected = of_pil(encoded)
        except Exception:
            refused += 1
            with pytest.raises(Exception):  # noqa: B017 (whatever PIL raised)
                decoded(encoded)
            continue
        assert np.array_equal(decoded(encoded), expected)
    assert refused > 20


def test_decoded_image_that_is_too_large_is_left_to_pil(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(Image.DecompressionBombError):
        decoded(saved(COARSE))
