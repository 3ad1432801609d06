"""Mean and standard deviation of the training images are numpy's, of the decoded pixels."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainer.__main__ import main
from trainer.cli.parse import parse_with_recipe
from trainer.commands.look import look
from trainer.commands.look.statistics import statistics_of
from trainer.data.formats import open_dataset
from trainer.data.loader import Source
from trainer.settings import PlanSettings


def of_numpy(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Each image counts alike."""
    images = [np.asarray(Image.open(path).convert("RGB")) / 255 for path in sorted(folder.rglob("*.jpg"))]
    mean = np.mean([image.mean(axis=(0, 1)) for image in images], axis=0)
    squares = np.mean([(image**2).mean(axis=(0, 1)) for image in images], axis=0)
    return mean, np.sqrt(squares - mean**2)


def source_of(data: Path) -> Source:
    return open_dataset(str(data), "train", num_classes=1, resolution=1)


def test_statistics_are_numpys_of_the_decoded_pixels(photos: Path) -> None:
    source = source_of(photos)
    found = statistics_of(source, np.arange(len(source.labels)), threads=2)
    mean, std = of_numpy(photos / "train")
    assert found.images == 64
    assert np.allclose(found.mean, mean, atol=1e-12) and np.allclose(found.std, std, atol=1e-9)


def test_statistics_of_images_of_one_size_are_those_of_all_their_pixels(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 6, 3), np.uint8)
    (tmp_path / "train" / "a").mkdir(parents=True)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / "train" / "a" / f"{number}.png")
    found = statistics_of(source_of(tmp_path), np.arange(5), threads=1)
    assert np.allclose(found.mean, (pixels / 255).mean(axis=(0, 1, 2)))
    assert np.allclose(found.std, (pixels / 255).std(axis=(0, 1, 2)))


def test_look_prints_statistics_as_options_of_a_recipe(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["look", str(photos), "--statistics", "--out", str(tmp_path / "look.png"), "--images", "1"]
    assert main(command) == 0
    printed = re.search(r"(--mean .*) \(over all images", capsys.readouterr().out)
    assert printed
    recipe, _ = parse_with_recipe(PlanSettings, ["resnet50_goyal2017", *printed[1].split()], "plan")
    mean, std = of_numpy(photos / "train")
    assert np.allclose(recipe.mean, mean, atol=6e-5) and np.allclose(recipe.std, std, atol=6e-5)
    monkeypatch.setattr(look, "MEASURED", 10)
    assert main(command) == 0
    assert "(over 10 images spread over the data set, each counted alike)" in capsys.readouterr().out


def test_look_statistics_are_of_training_images(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["look", str(photos), "--statistics", "--split", "val"]) == 2
    assert "leave out --split val" in capsys.readouterr().err
