"""Crops of encoded images: no row below the crop is decoded, and no pixel shows it."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from trainer.data.beton.decoder import cut
from trainer.data.beton.encoded_image import decoded_rows, plain_jpeg
from trainer.data.crop import CropBoxes
from trainer.data.encoded import read_crop
from trainer.data.images import BadImageError, to_rgb

random = np.random.default_rng(0)
HEIGHT, WIDTH = 101, 157
COARSE = Image.fromarray(random.integers(0, 256, (9, 11, 3), np.uint8)).resize(
    (WIDTH, HEIGHT), Image.Resampling.BICUBIC
)
KINDS = {
    "4:4:4": {"subsampling": 0},
    "4:2:2": {"subsampling": 1},
    "4:2:0": {"subsampling": 2},
    "gray": {"gray": True},
    "restart markers": {"restart_marker_blocks": 3},
    "progressive": {"progressive": True},
}


def saved(*, gray: bool = False, **options: object) -> bytes:
    file = io.BytesIO()
    (COARSE.convert("L") if gray else COARSE).save(file, "JPEG", quality=95, **options)
    return file.getvalue()


STORED = {kind: saved(**options) for kind, options in KINDS.items()}  # type: ignore[arg-type]


def of_pil(encoded: bytes) -> np.ndarray:
    return to_rgb(Image.open(io.BytesIO(encoded)))


def crop_of(encoded: bytes, box: tuple[int, ...], side: int, *, flip: bool = False, scaled: bool = False) -> np.ndarray:
    out = np.empty((side, side, 3), np.uint8)
    crops = CropBoxes(np.array([box], np.int32), np.array([flip]), fill=(9, 8, 7), scaled=scaled)
    read_crop(encoded, (HEIGHT, WIDTH), crops, 0, out)
    return out


def crop_of_whole(pixels: np.ndarray, box: tuple[int, ...], side: int, flip: bool, shrunk: int = 1) -> np.ndarray:
    out = np.empty((side, side, 3), np.uint8)
    cut(pixels.reshape(-1), HEIGHT, WIDTH, *box, shrunk, np.array([9, 8, 7], np.uint8), flip, out)
    return out


@st.composite
def boxes(draw: st.DrawFn) -> tuple[int, int, int, int]:
    rows, columns = draw(st.integers(1, HEIGHT)), draw(st.integers(1, WIDTH))
    return draw(st.integers(0, HEIGHT - rows)), draw(st.integers(0, WIDTH - columns)), rows, columns


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=40, derandomize=True)
@given(box=boxes(), side=st.integers(1, 80), flip=st.booleans())
def test_encoded_crop_is_that_of_pils_whole_image_bit_for_bit(
    kind: str, box: tuple[int, int, int, int], side: int, flip: bool
) -> None:
    expected = crop_of_whole(of_pil(STORED[kind]), box, side, flip)
    assert np.array_equal(crop_of(STORED[kind], box, side, flip=flip), expected)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=40, derandomize=True)
@given(box=boxes(), shrunk=st.sampled_from([2, 4, 8]))
def test_encoded_scaled_crop_is_that_of_the_whole_image_bit_for_bit(
    kind: str, box: tuple[int, int, int, int], shrunk: int
) -> None:
    side = max(1, min(box[2:]) // shrunk)
    shrunk = next((part for part in (8, 4, 2) if min(box[2:]) >= part * side), 1)
    whole = decoded_rows(STORED[kind], plain_jpeg(STORED[kind]), shrunk=shrunk)
    expected = crop_of_whole(whole, box, side, False, shrunk)
    assert np.array_equal(crop_of(STORED[kind], box, side, scaled=True), expected)


@pytest.mark.parametrize("shrunk", [2, 4, 8])
def test_encoded_jpeg_of_which_libjpeg_warns_is_shrunk_to_the_same_pixels(shrunk: int) -> None:
    stored = STORED["4:2:0"]
    warned = stored[:-2] + bytes(9) + stored[-2:]  # bytes between the last scan and the end
    layout = plain_jpeg(warned)
    assert layout
    pixels = decoded_rows(warned, layout, shrunk=shrunk)
    assert np.array_equal(pixels, decoded_rows(stored, plain_jpeg(stored), shrunk=shrunk))


@settings(deadline=None, max_examples=60, derandomize=True)
@given(top=st.integers(-90, 110), left=st.integers(-90, 160))
def test_encoded_box_beyond_the_image_is_filled(top: int, left: int) -> None:
    box = top, left, 64, 64
    assert np.array_equal(crop_of(STORED["4:2:0"], box, 64), crop_of_whole(of_pil(STORED["4:2:0"]), box, 64, False))


@pytest.mark.parametrize("kind", KINDS)
def test_encoded_rows_below_the_crop_are_not_decoded(kind: str) -> None:
    layout = plain_jpeg(STORED[kind])
    assert layout
    rows = len(decoded_rows(STORED[kind], layout, rows=40))
    assert rows == (HEIGHT if kind == "progressive" else 48 if layout.mcu_height == 16 else 40)


@settings(deadline=None, max_examples=300, derandomize=True)
@given(kind=st.sampled_from(list(KINDS)), place=st.floats(0, 1), changed=st.binary(min_size=1, max_size=4))
def test_encoded_crop_of_a_damaged_jpeg_is_that_of_pil(kind: str, place: float, changed: bytes) -> None:
    """Damage of which libjpeg only warns changes pixels, and the same ones."""
    stored, box = bytearray(STORED[kind]), (3, 5, 60, 90)
    start = stored.index(b"\xff\xda") + 14
    at = start + int(place * (len(stored) - 6 - start))
    stored[at : at + len(changed)] = changed
    try:
        expected = crop_of_whole(of_pil(bytes(stored)), box, 50, False)
    except Exception:
        return  # the damage may lie below the crop
    assert np.array_equal(crop_of(bytes(stored), box, 50), expected)


def test_encoded_image_of_a_different_size_than_before_is_refused() -> None:
    crops = CropBoxes(np.array([(0, 0, 20, 20)], np.int32), np.array([False]))
    with pytest.raises(BadImageError, match=f"it has {HEIGHT} x {WIDTH} px instead of {HEIGHT + 40} x {WIDTH}"):
        read_crop(STORED["4:2:0"], (HEIGHT + 40, WIDTH), crops, 0, np.empty((20, 20, 3), np.uint8))
