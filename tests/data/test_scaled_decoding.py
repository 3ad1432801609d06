"""Scaled decoding: the same box of a smaller image, only where it was asked for, and every result says so."""

import io
import re
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.data.beton.test_decode import CORNER, SAMPLINGS, SHAPE, jpeg, markers, photo, read, spliced_bytes, thorough
from tests.support.processes import SUPPORT, assert_same_run, metrics
from trainer.commands.plan.data import data_facts
from trainer.commands.plan.plan import _training_rows
from trainer.data.beton.index import BAD_JPEG, JPEG, RAW, read_index
from trainer.data.crop import CropBoxes, CropFn, eval_view, train_view
from trainer.data.formats import open_source
from trainer.data.image_folder import ImageFolderSource
from trainer.data.loader import Loader
from trainer.data.synthetic import SyntheticSource
from trainer.evaluation.protocol import WeightsFile
from trainer.evaluation.result import EvalResult, Evaluation, protocol
from trainer.recipe import CenterCrop, PaddedCrop, RandomResizedCrop, ScaleJitterCrop
from trainer.recipe_file import load_recipe, overrides_of, recipe_diff, recipe_source
from trainer.settings import TrainSettings
from trainer.train import train

SMALL = SUPPORT / "small_recipe.py"
Box = tuple[int, int, int, int]


def smooth(height: int, width: int) -> np.ndarray:
    """Without noise: smaller sizes look alike."""
    coarse = np.random.default_rng(3).integers(0, 256, (6, 7, 3), np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def opened_at(stored: bytes, shape: tuple[int, int], shrunk: int) -> np.ndarray:
    """What libjpeg-turbo, called by Pillow, makes of a JPEG at 1 / `shrunk` of its size."""
    image = Image.open(io.BytesIO(stored))
    image.draft(None, (shape[1] // shrunk, shape[0] // shrunk))  # type: ignore[arg-type]
    assert image.size == (-(-shape[1] // shrunk), -(-shape[0] // shrunk))
    return np.asarray(image.convert("RGB"))


@st.composite
def large_boxes(draw: st.DrawFn) -> tuple[tuple[int, int], Box, int, int]:
    """An image's height and width, a box in it, often at an edge, its target, of at most half the size; an interval."""
    height, width = draw(st.integers(16, 150)), draw(st.integers(16, 150))
    rows, columns = draw(st.integers(8, height)), draw(st.integers(8, width))
    top = draw(st.sampled_from([0, height - rows]) | st.integers(0, height - rows))
    left = draw(st.sampled_from([0, width - columns]) | st.integers(0, width - columns))
    out = draw(st.integers(1, min(rows, columns) // 2))
    return (height, width), (top, left, rows, columns), out, draw(st.integers(1, 12))


@pytest.mark.slow
@pytest.mark.parametrize("sampling", SAMPLINGS)
@thorough
@given(given_box=large_boxes(), flip=st.booleans())
def test_scaled_crop_from_tiles_is_that_of_the_whole_image_bit_for_bit(
    sampling: str, tmp_path: Path, given_box: tuple[tuple[int, int], Box, int, int], flip: bool
) -> None:
    shape, box, out, interval = given_box
    pixels = photo(*shape)
    expected, code = read(tmp_path, jpeg(pixels, sampling), shape, box, out, flip, scaled=True)
    assert code == 0
    found, code = read(tmp_path, jpeg(pixels, sampling, interval), shape, box, out, flip, scaled=True)
    assert code == 0
    assert np.array_equal(found, expected)


@pytest.mark.parametrize(("sampling", "shrunk"), [(name, part) for name in SAMPLINGS for part in (2, 4, 8)])
def test_scaled_decoding_whole_pixels_of_the_smaller_image_are_those_of_libjpeg(
    sampling: str, shrunk: int, tmp_path: Path
) -> None:
    """As Pillow has them from its own libjpeg-turbo, at every edge; chroma that keeps its 8 x 8 of 4:2:0 at 1/2 is
    transformed by FFCV's faster method, as it is at full size."""
    shape = 15 * 8 + 3, 13 * 8 + 5
    most = 4 if (sampling, shrunk) in (("4:2:0", 2), ("4:2:2", 2)) else 0
    for interval in (0, 1):
        stored = jpeg(photo(*shape), sampling, interval)
        expected = opened_at(stored, shape, shrunk)
        side = 3
        for top in (0, 4, shape[0] // shrunk - side):
            for left in (0, 5, shape[1] // shrunk - side):
                box = top * shrunk, left * shrunk, side * shrunk, side * shrunk
                found, code = read(tmp_path, stored, shape, box, side, scaled=True)
                assert code == 0
                part = expected[top : top + side, left : left + side].astype(int)
                assert abs(found - part).max() <= most, (top, left, interval)


@pytest.mark.slow
@pytest.mark.parametrize("sampling", SAMPLINGS)
@thorough
@given(given_box=large_boxes())
def test_scaled_crop_is_nearly_that_of_the_full_size(
    sampling: str, tmp_path: Path, given_box: tuple[tuple[int, int], Box, int, int]
) -> None:
    """Of a smooth image; a detail as small as a pixel of the crop may fall between two others."""
    shape, box, out, interval = given_box
    pixels = smooth(150, 150)[: shape[0], : shape[1]]
    stored = jpeg(np.ascontiguousarray(pixels), sampling, interval)
    full, _ = read(tmp_path, stored, shape, box, out)
    scaled, _ = read(tmp_path, stored, shape, box, out, scaled=True)
    assert abs(full.astype(int) - scaled).mean() < (25 if sampling == "4:2:2" else 12)  # at 1/8 it has colours of 1/16


@pytest.mark.parametrize("interval", [0, 2])
def test_box_of_a_scaled_crop_is_not_moved(interval: int, tmp_path: Path) -> None:
    """Boxes that begin and end within a pixel of the smaller image."""
    stored, shape = jpeg(smooth(192, 192), "4:4:4", interval), (192, 192)
    for top, left, rows, columns, out in ((33, 50, 99, 101, 41), (1, 3, 185, 186, 40), (7, 21, 170, 160, 20)):
        errors = {}
        for down in (-1, 0, 1):
            for right in (-1, 0, 1):
                full, _ = read(tmp_path, stored, shape, (top + down, left + right, rows, columns), out)
                scaled, _ = read(tmp_path, stored, shape, (top, left, rows, columns), out, scaled=True)
                errors[down, right] = abs(full.astype(int) - scaled).mean()
        assert errors[0, 0] < 0.75 * sorted(errors.values())[1], errors


@pytest.mark.slow
@thorough
@given(data=st.data(), out=st.integers(1, 60), flip=st.booleans(), mode=st.sampled_from([JPEG, RAW]))
def test_scaled_decoding_what_is_less_than_twice_its_target_or_raw_stays_bit_for_bit(
    tmp_path: Path, data: st.DataObject, out: int, flip: bool, mode: int
) -> None:
    height, width = data.draw(st.integers(1, 150)), data.draw(st.integers(1, 150))
    rows, columns = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
    box = data.draw(st.integers(0, height - rows)), data.draw(st.integers(0, width - columns)), rows, columns
    if mode == JPEG and min(rows, columns) >= 2 * out:
        out = min(rows, columns) // 2 + 1
    pixels = photo(height, width)
    stored = pixels.tobytes() if mode == RAW else jpeg(pixels, interval=data.draw(st.integers(0, 3)))
    full, _ = read(tmp_path, stored, (height, width), box, out, flip, mode)
    found, code = read(tmp_path, stored, (height, width), box, out, flip, mode, scaled=True)
    assert code == 0
    assert np.array_equal(found, full)


def test_scaled_decoding_only_the_tiles_under_a_scaled_crop_are_decoded() -> None:
    shape = 320, 320
    stored = jpeg(photo(*shape), interval=2)
    header = stored.index(b"\xff\xda")
    for box in ((0, 0, 80, 80), (240, 240, 80, 80), (128, 130, 60, 60)):
        for shrunk in (2, 4, 8):
            share = (spliced_bytes(stored, shape, box, shrunk) - header) / (len(stored) - header)
            assert 0.03 < share < 0.2, (box, shrunk)


@pytest.mark.parametrize("interval", [0, 2])
def test_scaled_decoding_damage_is_found_at_every_size(tmp_path: Path, interval: int) -> None:
    stored = jpeg(photo(*SHAPE), interval=interval)
    start = stored.index(b"\xff\xda") + 14
    broken = [stored[: start + 40], stored[: start + 20] + bytes(30) + stored[start + 50 :]]
    if interval:
        places = markers(stored)
        broken += [stored[: places[8]] + stored[places[9] :], stored[: places[8]] + stored[places[8] + 2 :]]
    for out in (48, 24, 12, 6):
        assert read(tmp_path, stored, SHAPE, (0, 0, 96, 96), out, scaled=True)[1] == 0
        for one in broken:
            assert read(tmp_path, one, SHAPE, (0, 0, 96, 96), out, scaled=True)[1] == BAD_JPEG
    for one in broken[2:]:
        assert read(tmp_path, one, SHAPE, CORNER, 7, scaled=True)[1] == BAD_JPEG


def test_class_folder_gives_nearly_the_pixels_of_the_file_written_from_it(tmp_path: Path) -> None:
    """Both decode at 1/4 and average the same box; FFCV takes libjpeg's fast inverse transform."""
    (tmp_path / "val" / "only").mkdir(parents=True)
    pixels = smooth(131, 150)
    stored = jpeg(pixels)
    (tmp_path / "val" / "only" / "0.jpg").write_bytes(stored)
    Image.fromarray(pixels).save(tmp_path / "val" / "only" / "1.png")
    box, out = (9, 18, 115, 121), 25
    found = np.empty((2, 2, out, out, 3), np.uint8)
    source = ImageFolderSource(tmp_path / "val")
    for number, scaled in enumerate((False, True)):
        crops = CropBoxes(np.array([box, box], np.int32), np.zeros(2, bool), scaled=scaled)
        source.read(np.arange(2), crops, found[number])
    ours, _ = read(tmp_path, stored, (131, 150), box, out, scaled=True)
    assert not np.array_equal(found[0, 0], found[1, 0])
    assert np.array_equal(found[0, 1], found[1, 1]), "a PNG has no smaller size"
    assert abs(found[1, 0].astype(int) - ours).mean() < 2


def test_view_says_what_its_crop_says() -> None:
    crops = RandomResizedCrop(resolution=8), ScaleJitterCrop(resolution=8, short_side=(9, 16))
    sizes = np.array([40]), np.array([50])

    def of(view: CropFn) -> CropBoxes:
        return view(np.array([0]), *sizes)

    assert not any(of(train_view(crop, True, 0, 0)).scaled for crop in (*crops, PaddedCrop(resolution=8)))
    assert all(of(train_view(replace(crop, scaled_decoding=True), True, 0, 0)).scaled for crop in crops)
    centre = CenterCrop(resolution=8, crop_ratio=1.0)
    assert not of(eval_view(centre)).scaled
    assert of(eval_view(replace(centre, scaled_decoding=True))).scaled
    assert of(train_view(PaddedCrop(resolution=8, fill=(1, 2, 3)), True, 0, 0)).fill == (1, 2, 3)


def test_batches_are_scaled_where_it_is_asked_for_and_the_same_on_any_number_of_threads(photo_betons: Path) -> None:
    def images(view: CropFn, workers: int) -> np.ndarray:
        with Loader(open_source(str(photo_betons), "train", num_classes=4, resolution=16), workers=workers) as loader:
            return np.concatenate([one.images.numpy() for one in loader.batches([np.arange(64)], view, 16)])

    for crop in (RandomResizedCrop(resolution=16), CenterCrop(resolution=16, crop_ratio=0.875)):
        full, scaled = (
            train_view(one, True, 0, 0) if isinstance(one, RandomResizedCrop) else eval_view(one)
            for one in (crop, replace(crop, scaled_decoding=True))
        )
        once = images(scaled, 1)
        assert np.array_equal(images(scaled, 3), once)
        changed = (once != images(full, 1)).any(axis=(1, 2, 3))
        modes = read_index(photo_betons / "train.beton").modes
        assert changed[modes == JPEG].sum() > 10
        assert not changed[modes == RAW].any()


@pytest.mark.slow
def test_run_with_it_that_is_stopped_within_an_epoch_ends_the_same(photo_betons: Path, tmp_path: Path) -> None:
    """And not as one without it: its images are really others."""

    def trained(name: str, *, scaled: bool) -> Path:
        recipe = replace(
            load_recipe(SMALL),
            num_classes=4,
            train_crop=RandomResizedCrop(resolution=16, scaled_decoding=scaled),
            eval_crop=CenterCrop(resolution=16, crop_ratio=1.0, scaled_decoding=scaled),
            global_batch_size=16,
        )
        settings = TrainSettings(
            data=str(photo_betons), run_dir=tmp_path / name, device="cpu", workers=2, pictures=False,
            log_every=1, checkpoint_steps=1, keep_last_checkpoints=8,
        )  # fmt: skip
        train(recipe, settings)
        return settings.run_dir

    whole = trained("whole", scaled=True)
    assert sorted(int(path.stem[-8:]) for path in (whole / "checkpoints").glob("step_*.pt")) == list(range(1, 9))
    shutil.copytree(whole, tmp_path / "stopped")
    for step in range(3, 9):  # of two epochs of 4
        (tmp_path / "stopped" / "checkpoints" / f"step_{step:08d}.pt").unlink()
    assert_same_run(trained("stopped", scaled=True), whole)
    for scaled, full in zip(metrics(whole), metrics(trained("full", scaled=False)), strict=True):
        assert (scaled["kind"], scaled["step"]) == (full["kind"], full["step"])
        assert scaled["loss"] != full["loss"]


def test_protocol_of_a_result_names_it_where_it_was_used() -> None:
    recipe = load_recipe(SMALL)
    evaluation = Evaluation(top1=50.0, top5=90.0, loss=1.0, seen=10, duplicates=0, total=10)

    def of(crop: CenterCrop) -> str:
        weights = WeightsFile(file="weights.pt", sha256="0" * 64)
        return protocol(recipe, SyntheticSource(10, 10, 32), EvalResult(evaluation, crop, weights)).text()

    scaled = replace(recipe.eval_crop, scaled_decoding=True)
    assert "centre crop of 1.000 x short side, scaled decoding, one view" in of(scaled)
    assert of(recipe.eval_crop) == of(scaled).replace(", scaled decoding", "")


def test_recipes_from_before_are_the_same_and_a_change_is_named(tmp_path: Path) -> None:
    recipe = load_recipe("resnet50_he2015")
    written = recipe_source(recipe)
    before = re.sub(r" +scaled_decoding=False,\n", "", written)
    assert before != written
    (tmp_path / "before.py").write_text(before)
    assert recipe_diff(load_recipe(tmp_path / "before.py"), recipe) == []
    faster = replace(recipe, train_crop=replace(recipe.train_crop, scaled_decoding=True))
    assert overrides_of(faster) == ["train_crop.scaled_decoding: False -> True"]
    (tmp_path / "faster.py").write_text(recipe_source(faster))
    assert load_recipe(tmp_path / "faster.py") == faster


def test_plan_names_the_crops_that_use_it() -> None:
    recipe = load_recipe("resnet50_he2015")
    facts = data_facts(recipe, None)
    assert "decoding" not in dict(_training_rows(recipe, facts, 10))
    faster = replace(recipe, train_crop=replace(recipe.train_crop, scaled_decoding=True))
    assert dict(_training_rows(faster, facts, 10))["decoding"] == "scaled for train_crop"
