"""What a command writes replaces no file of a run or a data set, whatever the command."""

import os
import re
import shutil
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from tests.support.processes import ROOT, SUPPORT
from tests.support.small_recipe import recipe as small
from trainer.__main__ import main
from trainer.commands.evaluate.evaluate import _open_data
from trainer.commands.out_file import require_replaceable
from trainer.distributed import process_group
from trainer.errors import UserError
from trainer.recipe_file import recipe_source
from trainer.weights_settings import EvaluateSettings

SMALL = str(SUPPORT / "small_recipe.py")


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """As much of a run as names need: its recipe and its result."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "recipe.py").write_text(recipe_source(small))
    (folder / "result.json").write_text("{}")
    return folder


def test_out_file_is_none_of_those_that_a_run_directory_holds(run_dir: Path, tmp_path: Path) -> None:
    """All that docs/training.md lists, whether they are there yet or not; evaluations/ are for records like it."""
    section = (ROOT / "docs" / "training.md").read_text().partition("## What the run directory holds")[2]
    cells = re.findall(r"^\| (`.*?`) \|", section.partition("\n## ")[0], re.MULTILINE)
    names = {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)} - {"evaluations/"}
    assert len(names) == 13
    for name in names:
        out = run_dir / (f"{name}deeper/file" if name.endswith("/") else name.replace("*", "1700000000.host"))
        with pytest.raises(UserError, match=r"^--out .* is (a file of the run|among the [a-z ]+ of a run)"):
            require_replaceable(out)
    (tmp_path / "link.json").symlink_to(run_dir / "result.json")
    with pytest.raises(UserError, match=rf"link\.json is a file of the run {run_dir}: choose"):
        require_replaceable(tmp_path / "link.json")
    for free in (run_dir / "evaluations" / "mine.json", run_dir / "mine.json", tmp_path / "result.json"):
        require_replaceable(free)


def test_out_file_beside_a_recipe_of_the_users_own_is_free(run_dir: Path) -> None:
    """A folder in which somebody works is no run, also where their recipe is called recipe.py."""
    shutil.copy(SMALL, run_dir / "recipe.py")
    for name in ("result.json", "log.txt", "checkpoints/model.onnx", "launch/table.json"):
        require_replaceable(run_dir / name)


def test_out_file_is_none_of_a_launch_that_waits_or_of_a_sweep(tmp_path: Path) -> None:
    """Neither folder has a recipe.py: a job in the queue has not written it, and a sweep's is above its runs."""
    launch = tmp_path / "launch"
    (launch / "001" / "logs").mkdir(parents=True)
    (launch / "001" / "job.json").write_text("{}")
    (tmp_path / "launch.json").write_text("{}")
    for name in ("launch/001/job.json", "launch/001/logs/mine.json", "launch/code-1/mine.json"):
        with pytest.raises(UserError, match=r"is among the files of a launch: choose another folder"):
            require_replaceable(tmp_path / name)
    with pytest.raises(UserError, match=r"launch\.json is a file of a launch: choose a different name"):
        require_replaceable(tmp_path / "launch.json")


@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "standard output"])
def test_out_file_is_a_regular_file_or_none(kind: str, tmp_path: Path) -> None:
    """The rename at the end of a write would fail for a folder, and put a file in the place of anything else."""
    out = tmp_path / "x.json"
    if kind == "folder":
        out.mkdir()
    elif kind == "pipe":
        os.mkfifo(out)
    else:
        out = Path("/dev/null" if kind == "device" else "/dev/stdout")  # a link: a file, where stdout leads to one
    with pytest.raises(UserError, match=rf"^--out {out} is (a folder: name a file|no regular file: choose)"):
        require_replaceable(out)


def test_out_file_has_no_name_of_a_recipe(run_dir: Path) -> None:
    with pytest.raises(UserError, match=r"mine\.py ends in \.py, as a recipe does: choose a different name"):
        require_replaceable(run_dir / "mine.py")


@pytest.mark.parametrize("name", ["train.beton", "val.ffcv", "train.beton.json", "val.ffcv.json", "train-0.tar"])
def test_out_file_has_no_name_of_a_data_sets_file(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has the name of a data set's file: choose a different one"):
        require_replaceable(tmp_path / name)


def test_out_file_lies_beside_class_folders_and_not_in_them(photos: Path, photo_betons: Path) -> None:
    for data, out in (
        (photos, photos / "train" / "class0" / "sheet.png"),
        (photos, photos / "val" / "class1" / "below" / "sheet.png"),
        (photos / "train", photos / "train" / "class0" / "000.jpg"),
    ):
        with pytest.raises(UserError, match=rf"is among the images of {data}: choose another folder"):
            require_replaceable(out, data=(None, str(data)))
    for data, out in (
        (photos, photos / "sheet.png"),
        (photos / "train", photos / "train" / "sheet.png"),
        (photo_betons, photo_betons / "results" / "sheet.png"),
        (photo_betons / "val.beton", photo_betons / "results" / "sheet.png"),
    ):
        require_replaceable(out, data=(str(data), "synthetic:8"))


def test_evaluate_writes_nothing_among_the_images_of_its_run(photos: Path) -> None:
    """--data does not name them: the weights do."""
    settings = EvaluateSettings(weights=Path("run"), out=photos / "val" / "class0" / "x.json")
    with process_group.initialize("cpu", 1) as world, pytest.raises(UserError, match="is among the images of"):
        _open_data(MagicMock(data_folder=str(photos), classes=None), small, settings, world)


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["compare", "RUN", "--html", "RUN/result.json"], "--html RUN/result.json is a file of the run RUN"),
        (["evaluate", "RUN", "--out", "RUN/result.json"], "--out RUN/result.json is a file of the run RUN"),
        (["benchmark", SMALL, "--fit", "--json", "RUN/result.json"], "--json RUN/result.json is a file of the run RUN"),
        (["benchmark", SMALL, "--data", "DATA", "--json", "DATA/train/class0/x.json"], "is among the images of DATA"),
        (["benchmark", SMALL, "--data", "DATA", "--json", "train.beton.json"], "has the name of a data set's file"),
        (["look", "DATA", "--out", "DATA/train/class0/x.png"], "is among the images of DATA"),
        (["plan", SMALL, "--data", "DATA", "--out", "DATA/val/class0"], "lr.png is among the images of DATA"),
        (["plan", SMALL, "--out", "RUN/result.json"], "--out RUN/result.json is a file: name a folder"),
        (["compare", "RUN", "--html", "folder.pt"], "--html folder.pt is a folder: name a file in it"),
        (["evaluate", "RUN", "--out", "folder.pt"], "--out folder.pt is a folder: name a file in it"),
        (["average", "RUN", "--out", "folder.pt"], "--out folder.pt is a folder: name a file in it"),
        (["export", "RUN", "--to", "torchvision", "--out", "folder.pt"], "folder.pt is a folder: name a file in it"),
        (["export", "RUN", "--to", "timm", "--out", "pipe.png"], "--out pipe.png is no folder: choose"),
        (["look", "DATA", "--out", "pipe.png"], "--out pipe.png is no regular file: choose a different name"),
        (["benchmark", SMALL, "--fit", "--json", "mine.py"], "--json mine.py ends in .py, as a recipe does: choose"),
    ],
)
def test_commands_replace_no_file_of_a_run_or_of_a_data_set(
    words: list[str],
    answer: str,
    run_dir: Path,
    photos: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def placed(text: str) -> str:
        return text.replace("RUN", str(run_dir)).replace("DATA", str(photos))

    monkeypatch.chdir(run_dir.parent)
    Path("folder.pt").mkdir()
    os.mkfifo("pipe.png")
    shutil.copy(SMALL, "mine.py")
    before = {path for folder in (run_dir, photos) for path in folder.rglob("*")}
    assert main([placed(word) for word in words]) == 2
    said = capfd.readouterr().err
    assert re.fullmatch(r"error: [^\n]+\n", said), said
    assert placed(answer) in said
    assert {path for folder in (run_dir, photos) for path in folder.rglob("*")} == before
    assert (run_dir / "result.json").read_text() == "{}"
