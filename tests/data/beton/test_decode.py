"""Tiles of a JPEG give the pixels of the whole one, shrinking those of OpenCV, and damage is found."""

import io
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.support.processes import ROOT, TIMEOUT
from trainer.data.beton.decode import _layout, _splice, decode
from trainer.data.beton.index import BAD_JPEG, JPEG, RAW
from trainer.data.beton.jpeg import encode_jpeg, restart_interval
from trainer.data.beton.source import scratch

SAMPLINGS = {"4:4:4": "4:4:4", "4:2:2": "4:2:2", "4:2:0": "4:2:0", "gray": None}
thorough = settings(
    deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150
)


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth, with some noise: coefficients of all kinds."""
    rng = np.random.default_rng(seed)
    smooth = cv2.resize(rng.integers(0, 256, (6, 7, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth + rng.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)


def jpeg(pixels: np.ndarray, sampling: str = "4:2:0", interval: int = 0) -> bytes:
    """As Pillow writes it, which takes any sampling; `interval` 0: without restart markers."""
    stored = io.BytesIO()
    image, subsampling = Image.fromarray(pixels), SAMPLINGS[sampling]
    if subsampling is None:
        image.convert("L").save(stored, "JPEG", quality=90, restart_marker_blocks=interval)
    else:
        image.save(stored, "JPEG", quality=90, subsampling=subsampling, restart_marker_blocks=interval)
    return stored.getvalue()


def read(
    folder: Path, stored: bytes, shape: tuple[int, int], box: tuple[int, int, int, int], out: int, flip: bool = False,
    mode: int = JPEG, scaled: bool = False,
) -> tuple[np.ndarray, int]:  # fmt: skip
    """What decode() makes of one image of `shape` (height, width) in a file of its own, and what it says of it."""
    path = folder / "one"
    path.write_bytes(stored)
    file = os.open(path, os.O_RDONLY)
    height, width = shape
    pixels = np.empty((1, out, out, 3), np.uint8)
    size, heights, widths = np.array([len(stored)]), np.array([height], np.int32), np.array([width], np.int32)
    _, code = decode(
        file, np.array([0]), (np.array([0]), size, np.array([mode], np.uint8), heights, widths),
        np.array([box], np.int32), np.array([flip]), np.array([9, 8, 7], np.uint8), scaled,
        scratch(size, heights, widths), pixels,
    )  # fmt: skip
    os.close(file)
    return pixels[0], code


def spliced_bytes(stored: bytes, shape: tuple[int, int], box: tuple[int, int, int, int], shrunk: int = 1) -> int:
    """How many bytes are decoded for this box: 0 for all of them, because there are no tiles."""
    content = np.frombuffer(stored, np.uint8)
    top, left, height, width = box
    ends = np.empty(-(-shape[0] // 8) * -(-shape[1] // 8), np.int64)
    edges = top, left, top + height, left + width
    return int(_splice(content, len(content), *shape, *edges, shrunk, ends, content.copy())[0])


@st.composite
def crops(draw: st.DrawFn) -> tuple[tuple[int, int], tuple[int, int, int, int], int]:
    """An image's height and width, a square box in it, often at an edge, and a restart interval."""
    height, width = draw(st.integers(1, 150)), draw(st.integers(1, 150))
    side = draw(st.integers(1, min(height, width)))
    top = draw(st.sampled_from([0, height - side]) | st.integers(0, height - side))
    left = draw(st.sampled_from([0, width - side]) | st.integers(0, width - side))
    return (height, width), (top, left, side, side), draw(st.integers(1, 12))


@pytest.mark.slow
@pytest.mark.parametrize("sampling", SAMPLINGS)
@thorough
@given(crop=crops())
def test_crop_from_tiles_is_that_of_the_whole_image_bit_for_bit(
    sampling: str, tmp_path: Path, crop: tuple[tuple[int, int], tuple[int, int, int, int], int]
) -> None:
    shape, box, interval = crop
    pixels = photo(*shape)
    expected, code = read(tmp_path, jpeg(pixels, sampling), shape, box, box[2])
    assert code == 0
    found, code = read(tmp_path, jpeg(pixels, sampling, interval), shape, box, box[2])
    assert code == 0
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("sampling", ["4:2:0", "4:2:2"])
def test_decode_last_pixels_of_a_row_have_the_chroma_of_the_whole_image(sampling: str, tmp_path: Path) -> None:
    """A last tile of 4 px or less, alone, would have 2 samples of chroma a row: then libjpeg interpolates none."""
    for width in range(33, 42):
        pixels = photo(24, width)
        for side in (1, 2, 3):
            box = 8, width - side, side, side
            expected, _ = read(tmp_path, jpeg(pixels, sampling), (24, width), box, side)
            found, code = read(tmp_path, jpeg(pixels, sampling, interval=1), (24, width), box, side)
            assert code == 0
            assert np.array_equal(found, expected), (width, side)


@pytest.mark.parametrize(("sampling", "mcu"), [("4:4:4", 8), ("4:2:2", 16), ("4:2:0", 16), ("gray", 8)])
def test_decode_only_the_tiles_under_a_crop_are_decoded(sampling: str, mcu: int) -> None:
    """Else the test above would compare a whole image with itself."""
    shape = 160, 160
    stored = jpeg(photo(*shape), sampling, interval=2)
    whole = spliced_bytes(stored, shape, (0, 0, *shape))
    assert whole == len(stored)
    header = stored.index(b"\xff\xda")
    for box in ((0, 0, 20, 20), (140, 140, 20, 20), (70, 70, 20, 20), (0, 140, 20, 20), (140, 0, 20, 20)):
        share = (spliced_bytes(stored, shape, box) - header) / (whole - header)
        assert 0.01 < share < 0.25 if mcu == 16 else share < 0.15, box
    assert spliced_bytes(jpeg(photo(*shape), sampling), shape, (0, 0, 20, 20)) == 0, "no markers"
    assert spliced_bytes(jpeg(photo(*shape), sampling, interval=7), shape, (0, 0, 20, 20)) == 0, "7 does not divide"


@pytest.mark.slow
@thorough
@given(data=st.data(), out=st.integers(1, 60), flip=st.booleans())
def test_shrinking_is_opencvs_area_averaging_bit_for_bit(
    tmp_path: Path, data: st.DataObject, out: int, flip: bool
) -> None:
    """Enlarging too: that is OpenCV's own, mirrored afterwards."""
    height, width = data.draw(st.integers(1, 200)), data.draw(st.integers(1, 200))
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    box = top, left, data.draw(st.integers(1, height - top)), data.draw(st.integers(1, width - left))
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
    found, code = read(tmp_path, pixels.tobytes(), (height, width), box, out, flip, RAW)
    assert code == 0
    cut = pixels[top : top + box[2], left : left + box[3]]
    expected = cv2.resize(cut, (out, out), interpolation=cv2.INTER_AREA)
    assert np.array_equal(found, expected[:, ::-1] if flip else expected)


@pytest.mark.parametrize("interval", [0, 1])
def test_box_beyond_the_image_is_filled(tmp_path: Path, interval: int) -> None:
    pixels = photo(40, 40)
    whole, _ = read(tmp_path, jpeg(pixels), (40, 40), (0, 0, 40, 40), 40)
    for top, left in ((-4, 3), (4, -3), (-40, 0), (39, 39), (50, 50)):
        found, code = read(tmp_path, jpeg(pixels, interval=interval), (40, 40), (top, left, 40, 40), 40, flip=True)
        expected = np.full((40, 40, 3), [9, 8, 7], np.uint8)
        inside = whole[max(top, 0) : top + 40, max(left, 0) : left + 40]
        expected[max(-top, 0) :, max(-left, 0) :][: len(inside), : inside.shape[1]] = inside
        assert code == 0
        assert np.array_equal(found, expected[:, ::-1])


SHAPE = 96, 96  # 6 x 6 MCUs of 16 px, 3 tiles in each of 6 rows
CORNER = 0, 0, 14, 14  # within the first tile


def markers(stored: bytes) -> list[int]:
    """Where the restart markers are."""
    start = stored.index(b"\xff\xda")
    return [
        place for place in range(start, len(stored) - 2) if stored[place] == 0xFF and stored[place + 1] & 0xF8 == 0xD0
    ]


@pytest.mark.parametrize("tile", [0, 1, 8, 16])
@pytest.mark.parametrize("damage", ["renumbered", "lost", "repeated", "swapped for an end", "tile lost", "tile again"])
def test_markers_out_of_order_anywhere_are_damage(tmp_path: Path, tile: int, damage: str) -> None:
    """Each would move tiles to another place of the image, for a crop that does not see the damage too."""
    stored = jpeg(photo(*SHAPE), interval=2)
    places = markers(stored)
    assert len(places) == 17
    place = places[tile]
    next_place = [*places, len(stored) - 2][tile + 1]
    broken = {
        "renumbered": stored[: place + 1] + bytes([0xD0 + (tile + 3) % 8]) + stored[place + 2 :],
        "lost": stored[:place] + stored[place + 2 :],
        "repeated": stored[:place] + stored[place : place + 2] + stored[place:],
        "swapped for an end": stored[: place + 1] + b"\xd9" + stored[place + 2 :],
        "tile lost": stored[:place] + stored[next_place:],
        "tile again": stored[:next_place] + stored[place:next_place] + stored[next_place:],
    }[damage]
    assert read(tmp_path, stored, SHAPE, CORNER, 14)[1] == 0
    assert read(tmp_path, broken, SHAPE, CORNER, 14)[1] == BAD_JPEG


@pytest.mark.slow
@thorough
@given(data=st.data())
def test_decode_damage_in_a_tile_that_the_whole_decoder_finds_is_found(tmp_path: Path, data: st.DataObject) -> None:
    """And damage in a tile that is not looked at changes no pixel: it is found with a crop that sees it."""
    stored = jpeg(photo(*SHAPE), interval=2)
    edges = [stored.index(b"\xff\xda") + 14, *markers(stored), len(stored) - 2]
    tile = data.draw(st.integers(0, 17))
    place = data.draw(st.integers(edges[tile] + 2, edges[tile + 1] - 1))
    kind = data.draw(st.sampled_from(["byte", "zeros", "cut"]))
    end = edges[tile + 1]
    middle = {
        "byte": bytes([stored[place] ^ data.draw(st.integers(1, 255))]) + stored[place + 1 : end],
        "zeros": bytes(end - place),
        "cut": b"",
    }[kind]
    broken = stored[:place] + middle + stored[end:]
    _, of_all = read(tmp_path, broken, SHAPE, (0, 0, 96, 96), 96)
    row, column = divmod(tile, 3)
    _, of_tile = read(tmp_path, broken, SHAPE, (16 * row + 2, 32 * column + 2, 10, 10), 10)
    assert of_tile == of_all
    far = (0 if row >= 3 else 82, 82 if column == 0 else 0, 14, 14)
    expected, _ = read(tmp_path, stored, SHAPE, far, 14)
    found, code = read(tmp_path, broken, SHAPE, far, 14)
    assert code == BAD_JPEG or np.array_equal(found, expected)


@pytest.mark.slow
@thorough
@given(data=st.data())
def test_decode_no_header_however_damaged_ends_the_process_or_moves_a_pixel(
    tmp_path: Path, data: st.DataObject
) -> None:
    """Lengths, counts and sizes in it say where to read next."""
    stored = bytearray(jpeg(photo(*SHAPE), interval=2))
    end = stored.index(b"\xff\xda") + 14
    segments = [place for place in range(2, end) if stored[place] == 0xFF and stored[place + 1] >= 0xC0]
    place = data.draw(st.sampled_from(segments)) + data.draw(st.integers(0, 18))
    stored[place] = data.draw(st.sampled_from([0, 1, 2, 0xFF]) | st.integers(0, 255))
    cut = data.draw(st.sampled_from([len(stored), place + 1]))
    whole, of_all = read(tmp_path, bytes(stored[:cut]), SHAPE, (0, 0, 96, 96), 96)
    found, code = read(tmp_path, bytes(stored[:cut]), SHAPE, (40, 40, 14, 14), 14)
    if of_all == 0:  # the damage means nothing, or another image
        assert code == 0
        assert np.array_equal(found, whole[40:54, 40:54])


@pytest.mark.slow
@thorough
@given(data=st.data())
def test_decode_no_header_is_read_beyond_its_end(data: st.DataObject) -> None:
    """In Python, which looks at every index: compiled, it would read what the image before has left there."""
    stored = np.frombuffer(jpeg(photo(16, 16), interval=1), np.uint8).copy()
    segments, place = [], 2
    while place < len(stored) and stored[place + 1] != 0xDA:
        segments.append(place)
        place += 2 + (int(stored[place + 2]) << 8 | int(stored[place + 3]))
    segment = data.draw(st.sampled_from([*segments, place]))
    stored[segment + 1] = data.draw(st.sampled_from([stored[segment + 1], 0xC0, 0xDA, 0xDD]))
    stored[segment + 2 : segment + 4] = divmod(data.draw(st.integers(0, 30)), 256)
    cut = stored[: data.draw(st.integers(segment, segment + 30))]
    _layout.py_func(cut, len(cut))


@pytest.mark.slow
def test_jpeg_cut_short_anywhere_is_damage_and_ends_no_process(tmp_path: Path) -> None:
    """Where no marker is left to be found, where half of one is, and where the last one is not the end's."""
    code = """
        import sys
        from pathlib import Path
        from tests.data.beton.test_decode import CORNER, SHAPE, jpeg, photo, read
        whole = jpeg(photo(*SHAPE), interval=2)
        ends = range(whole.index(bytes([0xFF, 0xDA])), len(whole), 3)
        broken = [whole[:end] for end in ends] + [whole[:-1] + bytes([0xD1])]
        print({read(Path(sys.argv[1]), stored, SHAPE, CORNER, 14)[1] for stored in broken})
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT)
    assert (ended.returncode, ended.stdout) == (0, f"{{{BAD_JPEG}}}\n"), ended.stderr


@pytest.mark.parametrize("width", [1, 16, 333, 368, 375, 496, 500, 4000])
def test_tiles_divide_a_row_and_are_about_32_px_wide(width: int) -> None:
    interval, row = restart_interval(width), -(-width // 16)
    assert row % interval == 0
    assert interval <= 8
    pixels = photo(40, width)
    stored = encode_jpeg(pixels, 90, tiles=True).tobytes()
    assert spliced_bytes(stored, (40, width), (0, 0, 1, 1)) > 0
    assert np.array_equal(Image.open(io.BytesIO(stored)), Image.open(io.BytesIO(encode_jpeg(pixels, 90, tiles=False))))
    if width in (500, 375):
        assert interval == 2
