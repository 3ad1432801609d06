"""What an error message advises leads to success: each is followed on the command line, as a user would."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.support import odd_images
from tests.support.odd_images import class_folders
from tests.support.processes import SUPPORT, metrics, start, wait_for_step
from trainer.__main__ import main
from trainer.data.beton.prepare import PrepareOptions, prepare_folder
from trainer.errors import UserError
from trainer.model import build_model
from trainer.recipe_file import load_recipe

AS_IT_IS = PrepareOptions(write_mode="raw", workers=1)


def train_words(data: Path, run_dir: Path, *options: str) -> list[str]:
    small = ["--num-classes", "3", "--global-batch-size", "6", "--micro-batch-size", "6"]
    small += ["--train-crop.resolution", "32"]
    where = ["--data", str(data), "--run-dir", str(run_dir), "--workers", "1", "--no-pictures"]
    return ["train", str(SUPPORT / "small_recipe.py"), *where, *small, "--epochs", "1", *options]


@pytest.mark.slow
def test_damaged_validation_image_is_found_before_training_and_its_removal_is_enough(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bad = class_folders(tmp_path / "data") / "val" / "b" / "cut.jpg"
    bad.write_bytes(odd_images.truncated_jpeg())
    words = train_words(tmp_path / "data", tmp_path / "run")
    assert main(words) == 2
    said = capfd.readouterr()
    assert "b/cut.jpg: image 4 cannot be decoded" in said.err and said.out == ""
    bad.unlink()
    assert main(words) == 0
    assert "images: data, train for training; data, val for validation" in capfd.readouterr().out
    # and one that appears later: the refusal says what to do, and a new run directory does it
    odd_images.picture(1, 99).save(bad.with_suffix(".png"))
    assert main(words) == 2
    assert "trained on other data: val" in (err := capfd.readouterr().err) and "use another --run-dir" in err
    assert main(train_words(tmp_path / "data", tmp_path / "other")) == 0


@pytest.mark.slow
def test_damaged_training_image_is_one_line_and_look_lists_them_all(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = class_folders(tmp_path / "data")
    bad = [data / "train" / name / f"{content}.png" for name, content in (("a", "bomb"), ("c", "big_text"))]
    bad[0].write_bytes(odd_images.bomb())
    bad[1].write_bytes(odd_images.big_text())
    look = ["look", str(data), "--out", str(tmp_path / "sheet.png")]
    assert main(train_words(data, tmp_path / "run")) == 2
    assert "cannot be opened: " in (err := capfd.readouterr().err) and err.count("\n") == 1
    assert main([*look, "--check"]) == 2
    said = capfd.readouterr()
    assert all(str(path) in said.out + said.err for path in bad)
    for path in bad:
        path.unlink()
    assert main([*look, "--check"]) == 0
    assert "every image can be decoded" in capfd.readouterr().out
    assert main(train_words(data, tmp_path / "run")) == 0


@pytest.mark.slow
def test_class_that_only_training_has_is_named_and_either_remedy_helps(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = class_folders(tmp_path / "data")
    shutil.rmtree(data / "val" / "b")
    assert main(train_words(data, tmp_path / "run")) == 2
    said = capfd.readouterr().err
    assert "1 class of train missing from val: 'b': add images to val, or remove those from train" in said
    assert "--num-classes" not in said
    shutil.rmtree(data / "train" / "b")
    assert main(train_words(data, tmp_path / "run")) == 2
    assert "use --num-classes 2" in capfd.readouterr().err
    assert main(train_words(data, tmp_path / "run", "--num-classes", "2")) == 0


def test_prepare_can_be_given_again_after_it_failed(tmp_path: Path) -> None:
    bad = class_folders(tmp_path / "src") / "train" / "b" / "cut.jpg"
    bad.write_bytes(odd_images.truncated_jpeg())
    with pytest.raises(UserError, match="repair or remove it, or pass --skip-bad"):
        prepare_folder(tmp_path / "src", tmp_path / "out", AS_IT_IS)
    assert not (tmp_path / "out" / "train.beton").exists()
    assert prepare_folder(tmp_path / "src", tmp_path / "out", replace(AS_IT_IS, skip_bad=True))["train"].count == 12


@pytest.mark.slow
@pytest.mark.parametrize("what", ["removed", "moved", "replaced"])
def test_run_directory_that_goes_away_ends_the_run_with_one_line(digits: Path, tmp_path: Path, what: str) -> None:
    run = tmp_path / "run"
    words = ["train", str(SUPPORT / "small_recipe.py"), "--data", str(digits), "--run-dir", str(run), "--epochs", "500"]
    process = start([*words, "--log-every", "2", "--no-pictures"])
    wait_for_step(process, run, 2)
    run.rename(tmp_path / "elsewhere")
    if what == "removed":
        shutil.rmtree(tmp_path / "elsewhere")
    if what == "replaced":
        run.mkdir()
    _, err = process.communicate(timeout=900)
    assert process.returncode == 75
    assert f"error: {run} was removed, moved or emptied while it was in use" in err and "Traceback" not in err
    assert not list(tmp_path.rglob("result.json"))
    if what == "moved":  # what the line advises
        (tmp_path / "elsewhere").rename(run)
        assert metrics(run)


@pytest.mark.slow
def test_evaluation_is_recorded_before_it_is_printed(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full pass over ImageNet takes minutes: what fails in printing does not lose it."""
    recipe, file = load_recipe(str(SUPPORT / "small_recipe.py")), tmp_path / "weights.pt"
    torch.save(build_model(recipe.model, 10).state_dict(), file)
    monkeypatch.setattr("trainer.commands.evaluate.evaluate.report", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["evaluate", str(file), "--recipe", str(SUPPORT / "small_recipe.py"), "--data", str(digits)])
    (written,) = tmp_path.glob("weights.pt_16px_1.000_data-*_fp32_recipe-*.evaluation.json")
    assert json.loads(written.read_text())["protocol"]["images_seen"] == 360
