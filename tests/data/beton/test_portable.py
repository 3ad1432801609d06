"""Without FFCV's library, Numba and llvmlite: .beton files are written and read, with the same pixels."""

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.data.beton.test_decode import SAMPLINGS, SHAPE, crops, jpeg, markers, photo, read, thorough
from tests.data.test_scaled_decoding import Box, large_boxes
from tests.support.processes import ROOT, TIMEOUT
from trainer.data.beton import decode as compiled
from trainer.data.beton import portable
from trainer.data.beton.index import BAD_JPEG, JPEG, RAW
from trainer.data.beton.source import scratch


def read_portably(
    folder: Path, stored: bytes, shape: tuple[int, int], box: Box, out: int, flip: bool = False, mode: int = JPEG,
    scaled: bool = False,
) -> tuple[np.ndarray, int]:  # fmt: skip
    """test_decode.read by portable.decode."""
    path = folder / "one"
    path.write_bytes(stored)
    file = os.open(path, os.O_RDONLY)
    size, heights, widths = np.array([len(stored)]), np.array([shape[0]], np.int32), np.array([shape[1]], np.int32)
    pixels = np.empty((1, out, out, 3), np.uint8)
    _, code = portable.decode(
        file, np.array([0]), (np.array([0]), size, np.array([mode], np.uint8), heights, widths),
        np.array([box], np.int32), np.array([flip]), np.array([9, 8, 7], np.uint8), scaled,
        scratch(size, heights, widths), pixels,
    )  # fmt: skip
    os.close(file)
    return pixels[0], code


@pytest.mark.slow
@pytest.mark.parametrize("sampling", SAMPLINGS)
@thorough
@given(crop=crops(), flip=st.booleans())
def test_portable_crop_from_tiles_is_the_compiled_ones_bit_for_bit(
    sampling: str, tmp_path: Path, crop: tuple[tuple[int, int], Box, int], flip: bool
) -> None:
    shape, box, interval = crop
    stored = jpeg(photo(*shape), sampling, interval)
    expected, _ = read(tmp_path, stored, shape, box, box[2], flip)
    found, code = read_portably(tmp_path, stored, shape, box, box[2], flip)
    assert code == 0
    assert np.array_equal(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("sampling", SAMPLINGS)
@thorough
@given(given_box=large_boxes(), flip=st.booleans())
def test_portable_scaled_crop_is_the_compiled_ones_bit_for_bit(
    sampling: str, tmp_path: Path, given_box: tuple[tuple[int, int], Box, int, int], flip: bool
) -> None:
    shape, box, out, interval = given_box
    stored = jpeg(photo(*shape), sampling, interval)
    expected, _ = read(tmp_path, stored, shape, box, out, flip, scaled=True)
    found, code = read_portably(tmp_path, stored, shape, box, out, flip, scaled=True)
    assert code == 0
    assert np.array_equal(found, expected)


@pytest.mark.slow
@thorough
@given(data=st.data(), out=st.integers(1, 60), flip=st.booleans())
def test_portable_resizing_is_the_compiled_ones_bit_for_bit(
    tmp_path: Path, data: st.DataObject, out: int, flip: bool
) -> None:
    height, width = data.draw(st.integers(1, 150)), data.draw(st.integers(1, 150))
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    box = top, left, data.draw(st.integers(1, height - top)), data.draw(st.integers(1, width - left))
    stored = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8).tobytes()
    expected, _ = read(tmp_path, stored, (height, width), box, out, flip, RAW)
    found, code = read_portably(tmp_path, stored, (height, width), box, out, flip, RAW)
    assert code == 0
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("interval", [0, 1])
def test_portable_box_beyond_the_image_is_filled(tmp_path: Path, interval: int) -> None:
    stored = jpeg(photo(40, 40), interval=interval)
    for top, left in ((-4, 3), (4, -3), (-40, 0), (39, 39), (50, 50)):
        given_box = (40, 40), (top, left, 40, 40), 40, True
        assert np.array_equal(read_portably(tmp_path, stored, *given_box)[0], read(tmp_path, stored, *given_box)[0])


def test_portable_decoder_finds_the_damage_that_the_compiled_one_finds(tmp_path: Path) -> None:
    stored = jpeg(photo(*SHAPE), interval=2)
    start, places = stored.index(b"\xff\xda") + 14, markers(stored)
    broken = [stored[: start + 40], stored[:2] + bytes(50) + stored[52:], bytes(len(stored))]
    broken += [stored[: places[8]] + stored[places[8] + 2 :], stored[: places[8]] + stored[places[9] :]]
    for one in broken:
        for box in ((0, 0, 96, 96), (0, 0, 14, 14)):
            assert read(tmp_path, one, SHAPE, box, box[2])[1] == BAD_JPEG
            assert read_portably(tmp_path, one, SHAPE, box, box[2])[1] == BAD_JPEG


@pytest.mark.parametrize("kind", ["tiles", "no tiles", "progressive"])
@pytest.mark.parametrize("shape", [(96, 97), (97, 96), (95, 96), (96, 64), (128, 96)])
def test_portable_and_compiled_decoder_refuse_a_jpeg_of_another_size(
    tmp_path: Path, kind: str, shape: tuple[int, int]
) -> None:
    """libjpeg would fill a part of the image, and leave in the rest what the image before had there."""
    stored = jpeg(photo(*SHAPE), interval=2 if kind == "tiles" else 0)
    if kind == "progressive":
        saved = io.BytesIO()
        Image.open(io.BytesIO(stored)).save(saved, "JPEG", progressive=True)
        stored = saved.getvalue()
    box = 0, 0, 64, 64
    for reader in (read, read_portably):
        for scaled in (False, True):  # at an eighth, 95 px are as many as 96
            assert reader(tmp_path, stored, SHAPE, box, 8, scaled=scaled)[1] == 0
            assert reader(tmp_path, stored, shape, box, 8, scaled=scaled)[1] == BAD_JPEG


@pytest.mark.parametrize("flip", [False, True])
def test_portable_and_compiled_box_that_is_not_square_is_copied(flip: bool) -> None:
    pixels, (top, left, height, width) = photo(60, 90), (7, 11, 40, 70)
    expected = pixels[top : top + height, left : left + width]
    for cut in (compiled.cut, portable.cut):
        found = np.empty((height, width, 3), np.uint8)
        cut(pixels.reshape(-1), 60, 90, top, left, height, width, 1, np.zeros(3, np.uint8), flip, found)
        assert np.array_equal(found, expected[:, ::-1] if flip else expected)


GATED = """
class Gate:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"numba", "llvmlite", "ffcv"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Gate())
"""
READ_ALL = """
import sys

import numpy as np

def read_all(folder):
    from trainer.data.crop import eval_view, train_view
    from trainer.data.formats import open_source
    from trainer.data.loader import Loader
    from trainer.recipe import CenterCrop, RandomResizedCrop

    views = (
        (48, eval_view(CenterCrop(resolution=48, crop_ratio=0.875))),
        (48, train_view(RandomResizedCrop(resolution=48), True, 0, 3)),
        (16, eval_view(CenterCrop(resolution=16, crop_ratio=1.0, scaled_decoding=True))),
    )
    read = []
    for side, view in views:
        with Loader(open_source(str(folder), "train", num_classes=4, resolution=side), workers=2) as loader:
            read += [batch.images.numpy() for batch in loader.batches([np.arange(len(loader))], view, side)]
    return read
"""
PREPARE_AND_READ = """
from trainer.__main__ import main
from trainer.data.formats import open_source

photos, prepared, out, crops = sys.argv[1:]
assert main(["prepare", "folder", photos, "--out", out]) == 0
np.savez(crops, *read_all(prepared), *read_all(photos))
print(*open_source(prepared, "train", num_classes=4, resolution=8).notes)
"""


@pytest.mark.slow
def test_installation_without_ffcv_and_numba_writes_and_reads_the_same(
    photos: Path, photo_betons: Path, tmp_path: Path
) -> None:
    """A process of its own, in which they cannot be imported, whether or not they are installed."""
    arguments = [str(folder) for folder in (photos, photo_betons, tmp_path / "out", tmp_path / "crops.npz")]
    code = READ_ALL + GATED + PREPARE_AND_READ
    ended = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT
    )
    assert ended.returncode == 0, ended.stderr
    note = ended.stdout.splitlines()[-1]
    assert note.startswith("images are read without FFCV's library (No module named") and "the same pixels" in note
    for name in ("train.beton", "val.beton"):
        assert (tmp_path / "out" / name).read_bytes() == (photo_betons / name).read_bytes()
    here: dict[str, Any] = {}
    exec(READ_ALL, here)
    found = list(np.load(tmp_path / "crops.npz").values())
    expected = [*here["read_all"](photo_betons), *here["read_all"](photos)]
    assert len(found) == len(expected) == 6
    assert all(map(np.array_equal, found, expected))


def test_reader_without_ffcv_and_without_opencv_says_how_to_repair_it() -> None:
    code = (
        GATED.replace('"ffcv"', '"ffcv", "cv2"')
        + """
from trainer.errors import UserError
try:
    import trainer.data.beton.source
except UserError as error:
    print(error)
"""
    )
    ended = subprocess.run(
        [sys.executable, "-c", "import sys\n" + code], cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT
    )
    assert ended.returncode == 0, ended.stderr
    (line,) = ended.stdout.splitlines()
    assert line.startswith("reading without FFCV's library (No module named")
    assert line.endswith("pip install --force-reinstall --no-deps opencv-python-headless")


def test_reader_takes_a_bare_folder_called_ffcv_for_no_installation(tmp_path: Path) -> None:
    (tmp_path / "ffcv").mkdir()
    code = """
import importlib.util
import sys
from importlib.machinery import PathFinder

installed = importlib.util.find_spec
importlib.util.find_spec = lambda name: PathFinder.find_spec(name, sys.path[-1:]) if name == "ffcv" else installed(name)
sys.path.append(sys.argv[1])
from trainer.data.beton.decoder import WHY_PORTABLE
print(WHY_PORTABLE)
"""
    ended = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT
    )
    assert (ended.returncode, ended.stdout) == (0, "ffcv is not installed\n"), ended.stderr
