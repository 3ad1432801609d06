"""predict names the class that the evaluation predicts; docs/your-own-photos.md runs as printed."""

import contextlib
import io
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from torchvision import models

from tests.support.processes import ROOT
from trainer.__main__ import main

pytestmark = pytest.mark.slow  # they share one training

GUIDE = ROOT / "docs" / "your-own-photos.md"


@pytest.fixture(scope="module")
def guide(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder as the guide assumes it, and what its commands printed; ImageNet weights as if downloaded."""
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(photos, home / "photos")
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
    assert re.fullmatch(r"photos/val/class1/001\.jpg: class\d \d+ %, class\d \d+ %, class\d \d+ %\n", printed[3])


def test_predict_agrees_with_the_evaluation(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The share of the validation photographs that are named right is the top-1 of evaluate."""
    photos = sorted(Path("photos/val").glob("*/*.jpg"))
    assert main(["predict", "run", *map(str, photos), "--top", "1"]) == 0
    named = re.findall(r"^photos/val/(class\d)/\d+\.jpg: (class\d) ", capsys.readouterr().out, re.MULTILINE)
    assert len(named) == len(photos) == 24
    assert main(["evaluate", "run"]) == 0
    (top1,) = re.findall(r"top-1 +([\d.]+) %", capsys.readouterr().out)
    assert float(top1) == pytest.approx(100 * sum(true == found for true, found in named) / 24, abs=0.01)


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["predict", "run", "nowhere.jpg"], "there is no photograph nowhere.jpg"),
        (["predict", "run", "words.txt"], "words.txt does not have an image's extension, such as .jpg or .png"),
        (["predict", "run", "broken.jpg"], "error: broken.jpg cannot be decoded: it is damaged, or not an image"),
        (["predict", "nowhere", "words.txt"], "nowhere is not the folder of a run"),
        (["predict", "run"], "which photographs?"),
        (["predict", "run", "words.txt", "--top", "0"], "top=0 is not a positive number"),
    ],
)
def test_predict_mistake_in_predict_is_one_line(
    words: list[str], answer: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("words.txt", "broken.jpg"):
        (home / name).write_text("no image")
    assert main(words) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"error: [^\n]+\n", error)
    assert answer in error
