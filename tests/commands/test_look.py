"""look draws the images that training sees, reproducibly; the figures it prints are those of the files."""

import re
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.processes import SUPPORT
from trainer.__main__ import main
from trainer.commands.look import look
from trainer.commands.look.contact_sheet import GAP, LABEL, SIDE, Tile, draw_sheet, letterboxed
from trainer.commands.look.statistics import statistics_of
from trainer.data.beton.index import RAW, read_index
from trainer.data.crop import CropBoxes
from trainer.data.formats import open_source
from trainer.data.image_folder import ImageFolderSource
from trainer.data.loader import Loader
from trainer.data.mixing import mix
from trainer.data.stream import train_stream
from trainer.distributed import process_group
from trainer.recipe import ColorJitter, Mixing, RandomErasing, RandomResizedCrop, Recipe, TrivialAugmentWide
from trainer.recipe_file import load_recipe, recipe_source
from trainer.settings import LookSettings

SMALL = SUPPORT / "small_recipe.py"


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    """A recipe with everything that changes an image, for the photographs."""
    return replace(
        load_recipe(SMALL),
        num_classes=4,
        train_crop=RandomResizedCrop(resolution=48),
        color=ColorJitter(brightness=0.4, saturation=0.4),
        augmentation=TrivialAugmentWide(),
        erasing=RandomErasing(probability=0.5),
        mixing=Mixing(mixup_alpha=0.8, cutmix_alpha=1.0),
        repeats=2,
        global_batch_size=16,
        micro_batch_size=8,
    )


def open_photos(photos: Path) -> Loader:
    return Loader(open_source(str(photos), "train", num_classes=4, resolution=48), workers=1)


def test_same_command_draws_the_same_sheet(
    photo_betons: Path, recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.py").write_text(recipe_source(recipe))
    words = ["look", str(photo_betons), "--images", "20", "--recipe", str(tmp_path / "recipe.py"), "--out"]
    sheets = [tmp_path / name for name in ("first.png", "second.png")]
    said = []
    for sheet in sheets:
        assert main([*words, str(sheet)]) == 0
        said.append(capsys.readouterr().out.replace(sheet.name, ""))
    assert sheets[0].read_bytes() == sheets[1].read_bytes()
    assert said[0] == said[1]
    assert "20 images, spread evenly over the data set, as small trains on them in the first epoch, at 48 px" in said[0]
    with Image.open(sheets[0]) as sheet:  # 8 + 8 + 4, and a row of mixed ones
        assert sheet.size == (8 * (SIDE + GAP) + GAP, 4 * (SIDE + LABEL + GAP) + GAP)


def test_look_images_are_drawn_evenly_and_all_of_a_small_set() -> None:
    assert look.spread(100, 4).tolist() == [0, 25, 50, 75]
    assert look.spread(3, 48).tolist() == [0, 1, 2]
    gaps = np.diff(look.spread(1_281_167, 48))
    assert gaps.max() - gaps.min() <= 1


def test_augmented_images_are_those_of_training(photos: Path, recipe: Recipe) -> None:
    """Whatever batch they come in: the stream's first micro-batches against the same samples in another one."""
    with process_group.initialize("cpu", timeout_minutes=1) as world, open_photos(photos) as loader:
        stream = train_stream(recipe, loader, world, epoch=0, accumulation=2)
        first, second = next(stream), next(stream)
        samples = torch.cat([second.samples, first.samples]).numpy()
        ours = look.first_epoch(recipe, loader, samples)
        stream.close()
    assert torch.equal(ours, torch.cat([second.images, first.images]))


def test_mixed_row_is_that_of_training(photos: Path, recipe: Recipe, tmp_path: Path) -> None:
    settings = LookSettings(data=str(photos))
    with process_group.initialize("cpu", timeout_minutes=1) as world, open_photos(photos) as loader:
        tiles, _ = look._mixed_row(recipe, loader, settings)
        assert len(tiles) == 8  # of 64 images in micro-batches of 8
        for number, batch in enumerate(train_stream(recipe, loader, world, epoch=0, accumulation=2)):
            assert recipe.mixing
            place = {"step": number // 2, "micro_batch": number % 2}
            mixed, targets = mix(recipe.mixing, batch.images, batch.labels, num_classes=4, seed=recipe.seed, **place)
            pixels = (mixed[0] * torch.tensor(recipe.std).view(3, 1, 1) + torch.tensor(recipe.mean).view(3, 1, 1)) * 255
            shown = pixels.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
            np.testing.assert_array_equal(tiles[number].pixels, shown)
            assert tiles[number].label.startswith(f"{float(targets[0].max()):.0%} class")


def test_normalisation_is_undone(photos: Path) -> None:
    """A recipe that changes nothing but the size shows the stored pixels; as evaluated, the centre."""
    still = replace(load_recipe(SMALL), flip=False, train_crop=RandomResizedCrop(resolution=40, scale=(1.0, 1.0)))
    settings = LookSettings(data=str(photos), split="val")
    source = ImageFolderSource(photos / "val")
    with Loader(source, workers=1) as loader:
        (tile,) = look.recipe_tiles(still, loader, settings, np.array([5]))
        stored = np.empty((1, 16, 16, 3), np.uint8)
        height, width = (int(side[0]) for side in source.sizes(np.array([5])))
        side = min(height, width)
        box = np.array([[(height - side) // 2, (width - side) // 2, side, side]], np.int32)
        source.read(np.array([5]), CropBoxes(box, np.zeros(1, bool)), stored)
    np.testing.assert_array_equal(tile.pixels, stored[0])


def test_letterboxed_image_is_whole(photos: Path) -> None:
    source = ImageFolderSource(photos / "train")
    paths = sorted((photos / "train").rglob("*.jpg"))
    for image in (0, 21, 63):
        pixels = np.asarray(Image.open(paths[image]).convert("RGB"))
        height, width = pixels.shape[:2]
        square = letterboxed(source, image)
        side = max(height, width)
        assert square.shape == (side, side, 3)
        top, left = (side - height) // 2, (side - width) // 2
        np.testing.assert_array_equal(square[top : top + height, left : left + width], pixels)
        assert (square == 225).all(axis=2).sum() >= side * side - height * width


def test_look_keeps_no_large_image_and_reads_no_square_of_its_long_side(tmp_path: Path) -> None:
    """48 squares of 2,000 px would be 576 MB."""
    (tmp_path / "wide").mkdir()
    for number in range(48):
        image = Image.new("RGB", (2000, 100), (number, 100, 200))
        image.save(tmp_path / "wide" / f"{number:02}.png")
    source = ImageFolderSource(tmp_path)
    letterboxed(source, 0)  # the first image imports the decoder and compiles it
    with peak_memory() as peak:
        squares = [letterboxed(source, image) for image in range(48)]
        assert peak() < 20e6
    for number, square in enumerate(squares):
        assert square.shape == (SIDE, SIDE, 3)
        assert (square[76:84] == (number, 100, 200)).all()
        assert (square[:76] == 225).all() and (square[84:] == 225).all()
    with peak_memory() as peak:
        found = statistics_of(source, np.arange(1), threads=1)
        assert peak() < 5e6
    assert np.allclose(found.mean, (0, 100 / 255, 200 / 255))


@contextmanager
def peak_memory() -> Iterator[Callable[[], int]]:
    """The bytes that Python and numpy held at most."""
    tracemalloc.start()
    try:
        yield lambda: tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_figures_are_those_of_the_files(
    photos: Path, photo_betons: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--images", "4", "--out", str(tmp_path / "sheet.png")]
    sizes = np.array([Image.open(path).size for path in (photos / "train").rglob("*.jpg")])
    rows = []
    for data in (photos, photos / "train", photo_betons, photo_betons / "train.beton"):
        assert main(["look", str(data), *out]) == 0
        said = capsys.readouterr().out
        rows.append({line.split()[0]: line.split(maxsplit=1)[1] for line in said.splitlines()})
    for row in rows:
        for name, values in (("width", sizes[:, 0]), ("height", sizes[:, 1])):
            expected = f"{values.min()} / {np.median(values):g} / {values.max()} (min / median / max) px"
            assert row[name] == expected
        assert row["classes"] == "4: 16 / 16 / 16 (min / median / max) images each"
        assert row["empty"] == "none"
    raw = (read_index(photo_betons / "train.beton").modes == RAW).mean()
    assert ["stored" in row for row in rows] == [False, False, True, True]
    assert rows[2]["stored"].startswith(f"{raw:.1%} raw (")


@dataclass
class Unbalanced:
    """Three images of two classes out of three, of which nothing is read."""

    name: str = "three"
    checksum: str = "none:0"
    classes: list[str] = field(default_factory=lambda: ["many", "no\nne", "few"])
    labels: np.ndarray = field(default_factory=lambda: np.array([0, 0, 2]))


def test_look_empty_and_rare_classes_are_named() -> None:
    rows = dict(look._content(Unbalanced()))  # type: ignore[arg-type]
    assert rows["classes"] == "3: 0 / 1 / 2 (min / median / max) images each; fewest no?ne, most many"
    assert rows["empty"] == "1 (no?ne)"
    assert rows["each"] == "many 2, no?ne 0, few 1"
    many = Unbalanced(classes=[str(number) for number in range(21)])
    assert "each" not in dict(look._content(many))  # type: ignore[arg-type]


def damaged(photos: Path, tmp_path: Path) -> str:
    target = tmp_path / "damaged" / "class0" / "bad.jpg"
    target.parent.mkdir(parents=True)
    target.write_bytes((photos / "train" / "class0" / "000.jpg").read_bytes()[:700])
    return str(tmp_path / "damaged")


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["PHOTOS", "--out", "sheet.jpg"], r"the grid is a PNG: use --out sheet.png"),
        (["PHOTOS", "--out", "no/where/sheet.png"], r"there is no folder no/where"),
        (["PHOTOS", "--images", "0"], r"images=0 is not a positive number"),
        (["PHOTOS", "--images", "9999"], r"images=9999 is more than 2,000"),
        (["PHOTOS", "--recipe", "resnet20_digit"], r"did you mean resnet20_digits\?"),
        (["PHOTOS", "--recipe", str(SMALL)], r"needs images of 16 x 16 px, but image 0 is"),
        (["synthetic:100"], r"synthetic:100 is noise, so there is nothing to see"),
        (["no/such/folder"], r"there is no such file or folder"),
        (["no/such.beton"], r"such.beton.json is missing"),
        (["DAMAGED"], r"bad.jpg: image 0 cannot be (opened|decoded)"),
    ],
)
def test_look_mistake_is_one_line_and_draws_nothing(
    words: list[str],
    answer: str,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    places = {"PHOTOS": str(photos)} | ({"DAMAGED": damaged(photos, tmp_path)} if "DAMAGED" in words else {})
    monkeypatch.chdir(tmp_path)
    assert main(["look", *(places.get(word, word) for word in words)]) == 2
    said = capfd.readouterr().err
    assert re.fullmatch(r"error: [^\n]+\n", said)
    assert re.search(answer, said), said
    assert list(tmp_path.glob("*.png*")) == []


def test_names_of_any_kind_are_drawn(tmp_path: Path) -> None:
    """Long ones, other scripts, control characters, bytes that are not UTF-8."""
    names = ["n" * 200, "日本語", "zwei\nzeilen", "a\udcffb"]
    pixels = np.zeros((20, 20, 3), np.uint8)
    draw_sheet([[Tile(pixels, name) for name in names]], 3, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        drawn = np.asarray(sheet)
    assert drawn.shape[:2] == (2 * (SIDE + LABEL + GAP) + GAP, 3 * (SIDE + GAP) + GAP)
    below = drawn[GAP + SIDE : GAP + SIDE + LABEL]
    ink = [bool((below[:, left : left + GAP] < 200).any()) for left in (SIDE + GAP, 2 * (SIDE + GAP), 3 * (SIDE + GAP))]
    assert ink == [False, False, False]  # no label reaches into the next tile
    assert (below[:, GAP : GAP + SIDE] < 200).any()
