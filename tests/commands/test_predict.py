"""predict names the class that the evaluation predicts; docs/your-own-photos.md runs as printed."""

import contextlib
import errno
import io
import json
import os
import re
import shlex
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import models
from torchvision.transforms import functional as transforms

from tests.support.odd_images import class_folders
from tests.support.processes import ROOT
from tests.support.small_recipe import recipe as small
from trainer.__main__ import main
from trainer.commands import predict
from trainer.data.listing import list_class_folders
from trainer.distributed import process_group
from trainer.evaluation.imagenet import class_name, imagenet_classes
from trainer.recipe import CenterCrop
from trainer.recipe_file import load_recipe
from trainer.weights_settings import PredictSettings

pytestmark = pytest.mark.slow  # they share one training

GUIDE = ROOT / "docs" / "your-own-photos.md"


@pytest.fixture(scope="module")
def guide(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder as the guide assumes it, and what its commands printed; ImageNet weights as if downloaded."""
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(photos, home / "photos")
    shutil.copy(home / "photos" / "val" / "class1" / "001.jpg", home / "new.jpg")
    for photo in sorted((home / "photos" / "train").glob("*/*.jpg"))[::2]:
        photo.unlink()  # 32 are enough for a step an epoch
    cache = home / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    torch.manual_seed(0)
    file = models.ResNet18_Weights.DEFAULT.url.rpartition("/")[2]
    torch.save(models.resnet18().state_dict(), cache / file)
    printed = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setattr(torch.hub, "_hub_dir", str(home / "hub"))
        for line in re.findall(r"^    python -m trainer (.*)$", GUIDE.read_text(), re.MULTILINE):
            with contextlib.redirect_stdout(io.StringIO()) as out:
                assert main(shlex.split(line)) == 0
            printed.append(out.getvalue())
    return home, printed


@pytest.fixture
def home(guide: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder, after the guide's commands, as the working directory."""
    monkeypatch.chdir(guide[0])
    return guide[0]


def test_guide_runs_as_printed(guide: tuple[Path, list[str]]) -> None:
    home, printed = guide
    assert len(printed) == 4
    assert (home / "look.png").is_file()
    assert "24 of 24 images" in printed[2]
    found = re.fullmatch(r"new\.jpg: (class\d [\d.]+ %(?:, )?){4}\n", printed[3])
    assert found, printed[3]


class LevelOfGrey(torch.nn.Module):
    """Names the grey of an image's top left pixel, of five between black and white."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return -((images[:, :1, 0, 0] - torch.linspace(0, 1, 5)) ** 2)


GREY = replace(
    small, num_classes=5, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), eval_crop=CenterCrop(resolution=8, crop_ratio=1.0)
)


@pytest.fixture
def grey(monkeypatch: pytest.MonkeyPatch) -> None:
    """LevelOfGrey is the network of whatever weights are given."""
    weights = MagicMock(recipe_at_evaluation=GREY, classes=list("vwxyz"), networks=[(MagicMock(), None)], notes=())
    weights.networks[0][0].text.return_value = "weights"
    monkeypatch.setattr(predict, "find_weights", lambda *_: weights)
    monkeypatch.setattr(predict, "load_network", lambda *_: LevelOfGrey())


def settings_of(images: Iterable[Path]) -> PredictSettings:
    return PredictSettings(weights=Path("run"), images=tuple(images), top=1, workers=1, device="cpu")


@pytest.mark.parametrize("given", [["-"], ["x" * 300, "good.png", "a" * 5000, "nul\0.png"]])
def test_predict_name_that_no_file_can_have_costs_no_other_image(
    given: list[str], grey: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("good.png")
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{'x' * 300}\ngood.png\n{'a' * 5000}\nnul\0.png\n"))
    assert predict.predict_images(settings_of(map(Path, given))) == 2
    out, err = capsys.readouterr()
    assert out.startswith("good.png: v ") and out.count("\n") == 1
    reasons = [line.partition(": ")[2].partition(": ")[2] for line in err.splitlines() if line.startswith("error: ")]
    too_long = "cannot be read: File name too long"
    assert reasons == [too_long, too_long, "damaged, or not an image: embedded null byte"]


def test_predict_lists_a_folder_as_training_does(
    grey: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = class_folders(tmp_path) / "train"
    (folder / "a" / ".cache").mkdir()
    for name in ("._000.png", ".cache/0.png", "notes.txt"):
        (folder / "a" / name).write_bytes(b"no image")
    assert predict.predict_images(settings_of([folder])) == 0
    out, err = capsys.readouterr()
    listed = list_class_folders(folder)
    assert [line.partition(": ")[0] for line in out.splitlines()] == [str(folder / file) for file in listed.files]
    assert len(listed.notes) == 2 and set(listed.notes) < set(err.splitlines())


def test_predict_folder_that_cannot_be_read_costs_no_image_beside_it(
    grey: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = class_folders(tmp_path) / "train"

    def without_b(function: Callable[[Path], Any]) -> Callable[[Path], Any]:
        def denied(path: Path) -> Any:
            if path == folder / "b":
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return function(path)

        return denied

    for name in ("scandir", "listdir"):  # root may read all folders
        monkeypatch.setattr(os, name, without_b(getattr(os, name)))
    assert predict.predict_images(settings_of([folder])) == 2
    out, err = capsys.readouterr()
    assert out.count("\n") == 8
    assert [line for line in err.splitlines() if line.startswith("error: ")] == [
        f"error: {folder / 'b'}: cannot be read: Permission denied"
    ]


def test_predict_gives_each_file_its_own_class_past_unreadable_ones_and_full_batches(
    grey: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    levels = {"a.png": 3, "b.png": None, "c.png": 1, "d.png": 0, "e.png": None, "f.png": 4, "g.png": 2, "h.png": 2}
    for name, level in levels.items():
        if level is not None:
            Image.new("RGB", (8, 8), (round(level * 255 / 4),) * 3).save(tmp_path / name)
    monkeypatch.setattr(predict, "_BATCH", 3)
    monkeypatch.chdir(tmp_path)
    assert predict.predict_images(settings_of(map(Path, levels))) == 2
    out, err = capsys.readouterr()
    expected = [f"{name}: {'vwxyz'[level]}" for name, level in levels.items() if level is not None]
    assert [line.rpartition(" ")[0].rpartition(" ")[0] for line in out.splitlines()] == expected
    unreadable = [line.split()[1] for line in err.splitlines() if line.startswith("error: ")]
    assert unreadable == ["b.png:", "e.png:"]


def test_predict_with_two_views_is_the_softmax_of_their_mean_logits() -> None:
    """The left column is black and the right one white, so the mirror image has a white top left pixel."""
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, -1] = 255
    black, white = -(torch.linspace(0, 1, 5) ** 2), -((1 - torch.linspace(0, 1, 5)) ** 2)
    two = replace(GREY, eval_crop=replace(GREY.eval_crop, flip_tta=True))
    with process_group.initialize("cpu", timeout_minutes=1) as world:
        for recipe, logits in ((GREY, black), (two, (black + white) / 2)):
            (found,) = predict._probabilities(LevelOfGrey(), [pixels], recipe, world)
            assert isinstance(found, torch.Tensor)
            torch.testing.assert_close(found, logits.softmax(0))


def test_predict_agrees_with_the_evaluation(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The share of the validation photographs that are named right is the top-1 of evaluate."""
    photos = sorted(Path("photos/val").glob("*/*.jpg"))
    assert main(["predict", "run", *map(str, photos), "--top", "1"]) == 0
    named = re.findall(r"^photos/val/(class\d)/\d+\.jpg: (class\d) ", capsys.readouterr().out, re.MULTILINE)
    assert len(named) == len(photos) == 24
    assert main(["evaluate", "run"]) == 0
    (top1,) = re.findall(r"top-1 +([\d.]+) %", capsys.readouterr().out)
    assert float(top1) == pytest.approx(100 * sum(true == found for true, found in named) / 24, abs=0.01)


def predicted(words: list[str], capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert main(["predict", *words, "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_predict_takes_files_folders_and_names_of_standard_input_alike(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [str(path) for path in sorted(Path("photos/val").glob("*/*.jpg"))]
    expected = predicted(["run", *files], capsys)
    assert [one["image"] for one in expected] == files
    assert predicted(["run", "photos/val"], capsys) == expected
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join([*files, ""]) + "\n"))
    assert predicted(["run", "-"], capsys) == expected


def test_predict_json_is_the_softmax_of_the_evaluated_network(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The oracle: torchvision's network, transforms and softmax, on the newest checkpoint."""
    file = Path("photos/val/class1/001.jpg")
    (found,) = predicted(["run", str(file)], capsys)
    recipe = load_recipe("run/recipe.py")
    newest = max(Path("run/checkpoints").glob("step_*.pt"))
    network = models.resnet18(num_classes=4)
    network.load_state_dict(torch.load(newest, weights_only=True)["model"])
    crop = recipe.eval_crop
    with Image.open(file) as opened:
        side = int(crop.crop_ratio * min(opened.size))
        cut = transforms.center_crop(opened.convert("RGB"), [side, side])
    resized = transforms.resize(cut, [crop.resolution] * 2)
    images = transforms.normalize(transforms.to_tensor(resized), recipe.mean, recipe.std)[None]
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        expected = network.eval()(images).float().softmax(1)[0]
    assert [one["class"] for one in found["predictions"]] == [f"class{one['index']}" for one in found["predictions"]]
    for one in found["predictions"]:
        assert one["probability"] == pytest.approx(float(expected[one["index"]]), abs=0.02)
    assert sum(one["probability"] for one in found["predictions"]) == pytest.approx(1, abs=1e-5)


def test_predict_names_images_that_cannot_be_read_and_predicts_the_others(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = Path("photos/val/class1/001.jpg").read_bytes()
    (home / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (home / "words.jpg").write_text("no image")
    (home / "empty").mkdir(exist_ok=True)
    words = ["cut.jpg", "photos/val/class1/001.jpg", "words.jpg", "nowhere.jpg", "empty", "photos/val/class2/002.jpg"]
    assert main(["predict", "run", *words]) == 2
    out, err = capsys.readouterr()
    assert [line.partition(":")[0] for line in out.splitlines()] == [words[1], words[5]]
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 4
    for line, reason in zip(
        errors,
        [
            "cut.jpg: damaged, or not an image: ",
            "words.jpg: damaged, or not an image: ",
            "nowhere.jpg: cannot be read: No such file or directory",
            "empty: a folder without images (.jpg, ",
        ],
        strict=True,
    ):
        assert line.startswith(f"error: {reason}"), line


def test_predict_reads_weights_files_with_their_class_names(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A safetensors file holds the names; a state_dict alone has numbers."""
    for kind, name in (("safetensors", "w.safetensors"), ("torchvision", "w.pth")):
        assert main(["export", "run", "--to", kind, "--out", name]) == 0
    photo = "photos/val/class1/001.jpg"
    expected = predicted(["run", photo], capsys)
    words = ["--recipe", "run/recipe.py", photo]
    assert predicted(["w.safetensors", *words], capsys) == expected
    (unnamed,) = predicted(["w.pth", *words], capsys)
    for one, named in zip(unnamed["predictions"], expected[0]["predictions"], strict=True):
        assert one == {**named, "class": f"class {named['index']}", "name": f"class {named['index']}"}


def test_predict_names_the_classes_of_imagenet() -> None:
    names = imagenet_classes(load_recipe("resnet50_torchvision_v1"))
    assert names and len(names) == 1000
    assert (names[0], class_name(names[0]), class_name(names[281])) == ("n01440764", "tench", "tabby")
    assert [class_name(name) for name in ("cat", "n99999999")] == ["cat", "n99999999"]
    assert imagenet_classes(load_recipe("resnet20_he2015")) is None


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["nowhere", "words.txt"], "nowhere does not exist"),
        (["run"], "which images?"),
        (["run", "words.txt", "--top", "0"], "top=0 is not a positive number"),
        (["run", "words.txt", "--recipe", "resnet20_he2015"], "--recipe resnet20_he2015 is for a file"),
        (["words.txt", "words.txt"], "which network is words.txt, and how is it evaluated?"),
        (["words.txt", "words.txt", "--checkpoint", "best"], "words.txt is a file"),
    ],
)
def test_predict_mistake_in_predict_is_one_line(
    words: list[str], answer: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "words.txt").write_text("no image")
    assert main(["predict", *words]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"error: [^\n]+\n", error)
    assert answer in error


def test_predict_empty_standard_input_is_one_line(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    assert main(["predict", "run", "-"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "error: standard input names no image: give one file per line"


def test_predict_reads_names_that_are_not_utf_8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"gr\xfcn.jpg\n"), encoding="utf-8"))
    assert [os.fsencode(path) for path in predict._names([predict.STANDARD_INPUT])] == [b"gr\xfcn.jpg"]


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_predict_image_for_which_the_network_computes_nan_has_no_answer(
    options: list[str], home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class NaN(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits = torch.zeros(len(images), 4)
            logits[0] = torch.nan
            return logits

    monkeypatch.setattr(predict, "load_network", lambda *_: NaN())
    words = ["photos/val/class1/001.jpg", "photos/val/class2/002.jpg"]
    assert main(["predict", "run", *words, *options]) == 2
    out, err = capsys.readouterr()
    assert f"error: {words[0]}: the network's numbers for it are not finite" in err
    assert out.count("\n") == 1 and words[1] in out and "nan" not in out.lower()
