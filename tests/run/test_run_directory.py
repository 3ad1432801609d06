"""A run directory belongs to one recipe, one data set and one process at a time."""

import errno
import json
import os
import re
import shutil
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.made_up_runs import write_run
from tests.support.processes import SUPPORT, kill, start, wait_for_step
from tests.support.small_checkpoint import checkpoint_content
from trainer.__main__ import main
from trainer.commands.compare.run_record import FinishedRun, read_run
from trainer.distributed import process_group
from trainer.errors import UserError
from trainer.evaluation.evaluate import evaluate_networks
from trainer.evaluation.result import Evaluation
from trainer.model import build_model
from trainer.model.weights_file import read_weights_file as real
from trainer.recipe import LibraryOptimizer
from trainer.recipe_file import load_recipe, recipe_source, settings_of
from trainer.run import checkpoint
from trainer.run.checksum import file_sha256
from trainer.run.directory import Run
from trainer.run.init_weights import InitWeights
from trainer.run.progress import finished, read_progress
from trainer.run.teacher import Teacher
from trainer.settings import TrainSettings
from trainer.setup.prepare import newest_checkpoint, prepare

RECIPE = str(SUPPORT / "small_recipe.py")


def words(digits: Path, run_dir: Path, *options: str) -> list[str]:
    return ["train", RECIPE, "--data", str(digits), "--run-dir", str(run_dir), "--epochs", "1", *options]


@pytest.mark.slow
def test_run_directory_two_runs_in_one_directory_are_refused_and_the_first_continues(
    digits: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first = start(words(digits, tmp_path, "--epochs", "60", "--log-every", "2"))
    wait_for_step(first, tmp_path, 2)
    assert main(words(digits, tmp_path, "--epochs", "60", "--log-every", "2")) == 2
    assert "is in use by another process" in capfd.readouterr().err
    assert first.poll() is None
    kill(first)


def test_start_that_fails_leaves_no_folder_and_none_that_was_there_is_removed(tmp_path: Path) -> None:
    recipe = load_recipe(RECIPE)
    new, there = tmp_path / "runs" / "new", tmp_path / "there"
    there.mkdir()
    for folder in (new, there):
        with pytest.raises(UserError), Run(folder) as run:
            run.claim(recipe)
            assert (folder / "recipe.py").is_file()
            raise UserError("the published weights could not be loaded")
    assert not new.exists()
    assert (there / "recipe.py").is_file()
    with pytest.raises(UserError), Run(new) as run:
        run.claim(recipe)
        (new / "log.txt").touch()
        raise UserError("a step")
    assert (new / "recipe.py").is_file()
    with Run(tmp_path / "works") as run:
        run.claim(recipe)
    assert (tmp_path / "works" / "recipe.py").is_file()


def test_users_own_recipe_file_is_not_overwritten(
    digits: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "recipe.py"
    shutil.copy(RECIPE, mine)
    before = mine.read_text()
    assert main(["train", str(mine), "--data", str(digits), "--run-dir", str(tmp_path)]) == 2
    assert "somebody's own file" in capfd.readouterr().err
    assert mine.read_text() == before


def test_recipe_of_a_user_in_another_encoding_is_not_overwritten(tmp_path: Path) -> None:
    mine = tmp_path / "recipe.py"
    mine.write_bytes("# coding: latin-1\n# für mich\nrecipe = None\n".encode("latin-1"))
    with pytest.raises(UserError, match="somebody's own file"):
        Run(tmp_path).claim(load_recipe("resnet20_digits"))


def test_finished_run_without_checkpoints_is_not_overwritten(tmp_path: Path) -> None:
    recipe = load_recipe("resnet20_digits")
    with Run(tmp_path) as run:
        run.claim(recipe)
        run.write_result({"top1": 91.0})
    before = (tmp_path / "recipe.py").read_text()
    for other in (recipe, replace(recipe, epochs=3)):
        with pytest.raises(UserError, match="holds a finished run without its checkpoints: use another --run-dir"):
            Run(tmp_path).claim(other)
    assert (tmp_path / "recipe.py").read_text() == before


@pytest.mark.parametrize("result", ["[" * 100_000, "{", "[]", "{}"])
def test_run_with_a_damaged_result_is_not_known_to_be_finished(result: str, tmp_path: Path) -> None:
    """Training finds out what is wrong."""
    recipe = load_recipe("resnet20_he2015")
    folder = write_run(tmp_path / "run", recipe, [91.0])
    assert read_progress(folder).finished
    (folder / "result.json").write_text(result)
    assert finished(folder, recipe_source(recipe), "DIR") is None


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "name", ["events.out.tfevents.1.host", "metrics.jsonl", "starts.json", "log.txt", "checkpoints/best.pt"]
)
def test_run_directory_files_of_another_program_stay_as_they_were(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=rf"holds {re.escape(name)} of another program .*: use another --run-dir"):
        Run(tmp_path).claim(load_recipe(RECIPE))
    assert contents(tmp_path) == {name: b"mine"}


def test_run_directory_takes_a_folder_with_what_comes_before_the_recipe(tmp_path: Path) -> None:
    """Of a launcher, of the compiler, and of a start that was killed before it had written recipe.py."""
    for name in ("launch.json", "launch/001/job.json", "compiled/a.nbi", ".lock", ".owner", "recipe.py.partial"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name in ("lost+found", ".snapshot"):  # of a disk that the user has mounted there, or linked to
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    Run(tmp_path).claim(load_recipe(RECIPE))


TRAINED = '{"kind": "train", "step": 3, "epoch": 0.2, "loss": 1.0, "lr": 0.1, "images_per_second": 1.0}\n'
EVALUATED = '{"kind": "eval", "step": 14, "epoch": 1.0, "loss": 1.0, "top1": 50.0}\n'


def begun(folder: Path, *, metrics: str, saves: bool) -> None:
    """What a run leaves that was killed, and whose checkpoints were then removed."""
    with Run(folder) as run:
        run.claim(load_recipe(RECIPE))
        (folder / "events.out.tfevents.1").write_text("events")
        (folder / "metrics.jsonl").write_text(metrics)
        if saves:
            run.save(checkpoint_content(step=3), 3)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


@pytest.mark.parametrize(
    ("metrics", "saves", "step"), [(TRAINED, True, 3), (TRAINED + EVALUATED, False, 14), ("", True, 0)]
)
def test_run_whose_checkpoints_are_gone_does_not_start_over(
    metrics: str, saves: bool, step: int, tmp_path: Path
) -> None:
    begun(tmp_path, metrics=metrics, saves=saves)
    before = contents(tmp_path)
    said = rf"its checkpoints are gone \(step {step} in metrics\.jsonl\): bring them back, or use another --run-dir"
    with pytest.raises(UserError, match=said):
        Run(tmp_path).claim(load_recipe(RECIPE))
    assert contents(tmp_path) == before


def test_run_goes_on_if_it_cannot_note_that_it_has_saved(tmp_path: Path) -> None:
    (tmp_path / ".saved").symlink_to(tmp_path / "nowhere" / "file")
    with Run(tmp_path) as run:
        run.claim(load_recipe(RECIPE))
        run.save(checkpoint_content(step=3), 3)
        run.finish_saving()
    assert (tmp_path / "checkpoints" / "step_00000003.pt").is_file()


def test_run_that_was_killed_before_its_first_checkpoint_starts_over(tmp_path: Path) -> None:
    begun(tmp_path, metrics=TRAINED, saves=False)
    Run(tmp_path).claim(load_recipe(RECIPE))
    assert not (tmp_path / "events.out.tfevents.1").exists()


@pytest.mark.parametrize(("number", "code"), [(None, 75), (errno.ESTALE, 75), (errno.EACCES, 2)])
def test_checkpoints_on_a_disk_that_is_away_are_waited_for(
    number: int | None, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link to nothing, and a folder that cannot be listed: neither is a run without checkpoints."""
    Run(tmp_path).claim(load_recipe(RECIPE))
    away = tmp_path / "checkpoints"
    says = f"a link to {tmp_path}/disk, which is not there"
    if number is None:
        away.symlink_to(tmp_path / "disk")
    else:
        says = os.strerror(number)

        def fails(folder: Path) -> list[str]:
            raise OSError(number, says, str(folder))

        monkeypatch.setattr("trainer.run.checkpoint_names.os.listdir", fails)
    with pytest.raises(UserError, match=f"^{away}: {says}: bring it back or make it readable, or") as refused:
        Run(tmp_path).claim(load_recipe(RECIPE))
    assert refused.value.exit_code == code
    with pytest.raises(OSError, match=says):
        Run(tmp_path).checkpoints.newest()


def test_folder_of_data_is_no_run_directory(digits: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = sorted(digits.iterdir())
    assert main(["train", RECIPE, "--data", str(digits), "--run-dir", str(digits)]) == 2
    assert re.search(r"holds data, \w+\.beton: use another --run-dir", capfd.readouterr().err)
    assert sorted(digits.iterdir()) == before


def test_run_that_saved_nothing_yet_may_be_started_with_a_different_recipe(tmp_path: Path) -> None:
    recipe = load_recipe("resnet20_digits")
    Run(tmp_path).claim(recipe)
    Run(tmp_path).claim(replace(recipe, epochs=3))
    assert Run(tmp_path).recipe.epochs == 3


def test_run_directory_later_attempt_of_the_same_job_takes_the_directory_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that its scheduler has lost may go on training: it must not save beside its successor."""
    recipe = load_recipe("resnet20_digits")

    def attempt(job: str, number: int) -> Run:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", job)
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(number))
        return Run(tmp_path)

    lost = attempt("17", 0)
    lost.claim(recipe)
    lost.save(checkpoint_content(step=1), 1)
    lost.finish_saving()
    with pytest.raises(UserError, match="in use by another process"):
        attempt("18", 1).claim(recipe)
    successor = attempt("17", 1)
    successor.claim(recipe)
    with pytest.raises(UserError, match="taken over by attempt 1 of job 17"):
        lost.save(checkpoint_content(step=2), 2)
    with pytest.raises(UserError, match="in use by another process"):
        attempt("17", 0).claim(recipe)
    successor.save(checkpoint_content(step=2), 2)
    successor.finish_saving()
    found = successor.checkpoints.newest()
    assert found
    assert found[1]["step"] == 2


@pytest.mark.slow
def test_run_keeps_its_best_epoch_and_saves_within_an_epoch_when_the_time_has_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three epochs of four steps, of which the second gets the highest accuracy."""
    accuracies = iter([50.0, 90.0, 70.0])

    def evaluate(*given: Any, **named: Any) -> dict[str, Evaluation]:
        found = evaluate_networks(*given, **named)
        return {"eval": replace(found["eval"], top1=next(accuracies))}

    monkeypatch.setattr("trainer.train.evaluate_networks", evaluate)
    options = ["--epochs", "3", "--checkpoint-minutes", "1e-9", "--keep-last-checkpoints", "100", "--no-pictures"]
    assert main(["train", RECIPE, "--data", "synthetic:384", "--run-dir", str(tmp_path), *options]) == 0
    checkpoints = tmp_path / "checkpoints"
    assert {path.name for path in checkpoints.glob("step_*.pt")} == {f"step_{step:08d}.pt" for step in range(1, 13)}
    assert checkpoint.read(checkpoints / "best.pt")["step"] == 8


@pytest.mark.slow
def test_run_taken_over_while_it_evaluates_marks_no_best(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "17")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")

    def taken_over(*given: Any, **named: Any) -> dict[str, Evaluation]:
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
        Run(tmp_path).claim(Run(tmp_path).recipe)
        return evaluate_networks(*given, **named)

    monkeypatch.setattr("trainer.train.evaluate_networks", taken_over)
    assert main(words(digits, tmp_path)) == 2
    assert "taken over by attempt 1 of job 17: nothing more is saved here" in capfd.readouterr().err
    assert [path.name for path in (tmp_path / "checkpoints").glob("*.pt")] == ["step_00000014.pt"]


@pytest.mark.slow
def test_run_whose_checkpoints_are_all_damaged_does_not_start_over(
    digits: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(words(digits, tmp_path)) == 0
    for file in (tmp_path / "checkpoints").glob("step_*.pt"):
        file.write_bytes(file.read_bytes()[:-100])
    before = (tmp_path / "metrics.jsonl").read_text()
    assert main(words(digits, tmp_path)) == 2
    assert "no checkpoint can be read" in capfd.readouterr().err
    assert (tmp_path / "metrics.jsonl").read_text() == before


@pytest.mark.slow
def test_run_that_diverges_says_so_and_saves_nothing_of_it(
    digits: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(words(digits, tmp_path, "--optimizer.lr", "1e30", "--schedule.warmup.lr", "1e30")) == 2
    assert "not finite" in capfd.readouterr().err
    assert not list((tmp_path / "checkpoints").glob("*.pt"))


def test_train_and_val_of_other_classes_are_refused(
    photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(photos, tmp_path / "data")
    (tmp_path / "data" / "val" / "class3").rename(tmp_path / "data" / "val" / "zebra")
    data = ["--data", str(tmp_path / "data"), "--num-classes", "4", "--global-batch-size", "32"]
    assert main(["train", "resnet50_torchvision_v1", *data, "--run-dir", str(tmp_path / "run")]) == 2
    assert (
        "1 class of train missing from val: 'class3': add images to val, or remove those from train"
        in capfd.readouterr().err
    )


@pytest.mark.slow
def test_data_of_other_classes_is_refused_by_evaluate(
    digits: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(words(digits, tmp_path)) == 0
    capfd.readouterr()
    assert main(["evaluate", str(tmp_path), "--data", "synthetic:500"]) == 2
    assert "synthetic:500 has other classes than the weights" in capfd.readouterr().err


@pytest.mark.slow
def test_changed_recipe_is_recorded_with_its_result_and_the_published_one_does_not(
    digits: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = ["--data", str(digits), "--run-dir", str(tmp_path), "--epochs", "1", "--seed", "3", "--model.depth", "8"]
    options += ["--train-crop.resolution", "16"]
    assert main(["train", "resnet20_he2015", *options, "--mean", "0.5", "0.5", "0.5", "--deterministic"]) == 0
    said = capfd.readouterr().out
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["changed"] == [
        "model.depth: 20 -> 8",
        "train_crop.resolution: 32 -> 16",
        "mean: (0.4914, 0.4822, 0.4465) -> (0.5, 0.5, 0.5)",
        "epochs: 164 -> 1",
    ]
    assert "91.25" not in said
    assert "scikit-learn load_digits, val.beton: 360 of 360 images" in result["protocol_text"]
    assert "seed 3" in result["protocol_text"]
    assert (result["protocol"]["images_seen"], result["protocol"]["seed"]) == (360, 3)


@pytest.mark.slow
def test_weights_that_a_run_starts_from_are_recorded_in_its_protocol(digits: Path, tmp_path: Path) -> None:
    assert main(words(digits, tmp_path / "first")) == 0
    weights = tmp_path / "first" / "checkpoints" / "best.pt"
    more = ["--initial-weights", str(weights), "--precise-norm-images", "96"]
    assert main(words(digits, tmp_path / "second", *more)) == 0
    result = json.loads((tmp_path / "second" / "result.json").read_text())
    digest = file_sha256(weights)
    assert f"started from model in best.pt (sha256:{digest[:12]}), norms measured" in result["protocol_text"]
    start = {"kind": "file", "file": "best.pt", "sha256": digest, "key": "model"}
    assert result["protocol"]["weights"]["init_weights"] == start
    found = read_run(tmp_path / "second")
    assert isinstance(found, FinishedRun)
    assert found.init_weights.to_dict() == start
    (newest,) = (tmp_path / "second" / "checkpoints").glob("step_*.pt")
    assert checkpoint.read(newest)["init_weights"] == start


def test_weights_that_a_run_starts_from_are_read_once(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file may hold gigabytes, and each process reads it."""
    recipe = load_recipe(RECIPE)
    given = build_model(recipe.model, recipe.num_classes)
    torch.save({"state_dict": given.state_dict()}, tmp_path / "w.pth")
    read: list[Path] = []
    monkeypatch.setattr("trainer.model.weights.read_weights_file", lambda file: read.append(file) or real(file))
    settings = TrainSettings(
        data=str(digits), run_dir=tmp_path / "run", device="cpu", workers=1, initial_weights=tmp_path / "w.pth"
    )
    with process_group.initialize("cpu", 1) as world, ExitStack() as stack:
        ready = prepare(recipe, settings, world, stack)
        found = ready.state.module.state_dict()
    assert read == [tmp_path / "w.pth"] and ready.init_weights.key == "state_dict"
    assert ready.identity["recipe"] == settings_of(recipe)
    assert all(torch.equal(value, found[name]) for name, value in given.state_dict().items())


def test_run_that_starts_from_weights_of_other_classes_says_that_its_classifier_is_new(
    digits: Path, tmp_path: Path
) -> None:
    recipe = load_recipe(RECIPE)
    given = build_model(recipe.model, recipe.num_classes).state_dict()
    torch.save({"state_dict": given, "classes": [*"1023456789"]}, tmp_path / "w.pth")
    settings = TrainSettings(
        data=str(digits), run_dir=tmp_path / "run", device="cpu", workers=1, initial_weights=tmp_path / "w.pth"
    )
    with process_group.initialize("cpu", 1) as world, ExitStack() as stack:
        ready = prepare(recipe, settings, world, stack)
    (said,) = [note for note in ready.notes if note.startswith("initial weights: ")]
    assert said.endswith(
        "; fc.weight and fc.bias stay as initialised, because class 0 is '1' in the file and '0' in the data"
    )
    assert not torch.equal(ready.state.module.get_parameter("fc.weight"), given["fc.weight"])


@pytest.mark.slow
def test_run_directory_other_initial_weights_than_a_run_started_from_are_refused(
    digits: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(words(digits, tmp_path / "run")) == 0
    weights = str(tmp_path / "run" / "checkpoints" / "best.pt")
    capfd.readouterr()
    assert main(words(digits, tmp_path / "run", "--initial-weights", weights)) == 2
    assert "was not started from model in best.pt" in capfd.readouterr().err
    assert main(words(digits, tmp_path / "run", "--initial-weights", str(tmp_path / "nope.pth"))) == 2
    assert "nope.pth cannot be read: No such file" in capfd.readouterr().err


X_PTH = InitWeights(kind="file", file="x.pth", sha256="0" * 64, key="state_dict")


def continued(
    run_dir: Path, recorded: tuple[InitWeights, Teacher | None], given: tuple[InitWeights, Teacher | None]
) -> None:
    """Looks for a checkpoint to continue from, in a run that holds one; raises UserError where it does not fit."""
    (recorded_of, given_of) = (
        {"init_weights": start.to_dict(), "teacher": teacher.to_dict() if teacher else None}
        for start, teacher in (recorded, given)
    )
    with Run(run_dir) as run, process_group.initialize("cpu", 1) as world:
        checkpoint.write(run.checkpoints.folder / "step_00000001.pt", checkpoint_content(**recorded_of))
        assert newest_checkpoint(run, checkpoint_content(**given_of), world)


@pytest.mark.parametrize(
    ("recorded", "given"),
    [
        (X_PTH, X_PTH),
        (X_PTH, replace(X_PTH, file="renamed.pth")),
        (X_PTH, InitWeights(kind="recipe")),
        (X_PTH, InitWeights(kind="pretrained")),  # the recipe's, which --initial-weights replaced
    ],
)
def test_run_continues_from_the_weights_it_started_from_and_without_the_option(
    recorded: InitWeights, given: InitWeights, tmp_path: Path
) -> None:
    continued(tmp_path, (recorded, None), (given, None))


@pytest.mark.parametrize("recorded", [InitWeights(kind="pretrained"), replace(X_PTH, sha256="1" * 64)])
def test_run_is_not_continued_from_weights_of_a_different_file(recorded: InitWeights, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"was not started from state_dict in x\.pth .*: leave --initial-weights out"):
        continued(tmp_path, (recorded, None), (X_PTH, None))


def test_run_is_not_continued_from_other_weights_of_its_file(tmp_path: Path) -> None:
    said = r"not started from state_dict_ema in x\.pth \(sha256:0+\), but from state_dict in x\.pth"
    with pytest.raises(UserError, match=said):
        continued(tmp_path, (X_PTH, None), (replace(X_PTH, key="state_dict_ema"), None))


def test_run_continues_with_its_teacher_whatever_the_files_name(tmp_path: Path) -> None:
    start = InitWeights(kind="recipe")
    teacher = Teacher(network="ResNet-50", file="t.pth", sha256="0" * 64)
    published = replace(teacher, file=None, sha256="1" * 64)
    continued(tmp_path / "a", (start, teacher), (start, replace(teacher, file="renamed.pth")))
    with pytest.raises(UserError, match="give that --teacher-weights again"):
        continued(tmp_path / "b", (start, teacher), (start, published))
    with pytest.raises(UserError, match=r"from ResNet-50 \(published weights, .*: leave --teacher-weights out"):
        continued(tmp_path / "c", (start, published), (start, teacher))
    with pytest.raises(UserError, match=r"published weights have changed: install .* \(see starts\.json\)"):
        continued(tmp_path / "d", (start, published), (start, replace(published, sha256="2" * 64)))


def test_recipe_that_was_edited_in_the_run_directory_is_not_continued(tmp_path: Path) -> None:
    """Its weights would be recorded as those of a recipe that they were not trained with."""
    recipe = load_recipe(RECIPE)
    edited = replace(recipe, epochs=recipe.epochs + 1, optimizer=replace(recipe.optimizer, weight_decay=0.5))
    of_run, now = (settings_of(each) for each in (recipe, edited))
    decay = recipe.optimizer.weight_decay

    def continues(recorded: dict[str, Any], given: dict[str, Any]) -> None:
        with Run(tmp_path) as run, process_group.initialize("cpu", 1) as world:
            checkpoint.write(run.checkpoints.folder / "step_00000001.pt", checkpoint_content(recipe=recorded))
            assert newest_checkpoint(run, checkpoint_content(recipe=given), world)

    said = rf"than \S+recipe\.py now is: optimizer\.weight_decay: {decay} -> 0\.5; epochs: 2 -> 3\. Change it back, or"
    with pytest.raises(UserError, match=said):
        continues(of_run, now)
    continues(of_run, of_run)
    del of_run["ema"], of_run["model.zero_init_residual"]  # of an earlier version, which had no such settings
    continues(of_run, settings_of(recipe))
    library = LibraryOptimizer(lr=0.1, name="timm/lion", options={"betas": (0.9, 0.99)})
    lion, other = (settings_of(replace(recipe, optimizer=each)) for each in (library, replace(library, options={})))
    continues(lion, lion)
    for one, another in ((lion, other), (other, lion)):
        with pytest.raises(UserError, match=r"optimizer\.options\.betas: "):
            continues(one, another)


def test_validation_image_that_cannot_be_opened_shows_before_the_first_step(
    photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(photos / "train", tmp_path / "data" / "train")
    shutil.copytree(photos / "val", tmp_path / "data" / "test")  # as prepare, train knows this name
    (tmp_path / "data" / "test" / "class2" / "empty.png").touch()
    data = ["--data", str(tmp_path / "data"), "--num-classes", "4", "--global-batch-size", "32"]
    assert main(["train", "resnet50_torchvision_v1", *data, "--run-dir", str(tmp_path / "run")]) == 2
    said = capfd.readouterr()
    assert "empty.png: image" in said.err
    assert "repair or remove it" in said.err and "prepare folder --skip-bad" in said.err
    assert said.out == ""


@pytest.mark.slow
def test_milestones_after_the_last_epoch_are_noted(
    digits: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = ["--data", str(digits), "--run-dir", str(tmp_path), "--model.depth", "8", "--epochs", "1"]
    assert main(["train", "resnet20_he2015", *options, "--train-crop.resolution", "16"]) == 0
    said = capfd.readouterr().out
    assert "note: schedule.milestones [82, 123] come after the last of 1 epoch" in said
    assert "1,437 training and 360 validation images, 11 steps x 1 epoch, 1 process on CPU, bf16" in said


@pytest.mark.parametrize(
    ("change", "answer"),
    [
        ("precision='fp8'", r"precision='fp8' is not one of 'fp32', 'tf32', 'bf16', 'fp16'"),
        ("global_batch_size=192 / 2", r"global_batch_size=96.0 is not of type int"),
        ("optimizer=SGD(lr=np.float64(0.1))", r"optimizer.lr=np.float64\(0.1\) is not of type float"),
        ("mean=[0.5, 0.5, 0.5]", r"mean=\[0.5, 0.5, 0.5\] is not a tuple of 3"),
        ("clip_grad_norm='5'", r"not a recipe: TypeError"),
        ("model='resnet50'", r"model='resnet50' is not ResNet or CifarResNet or WideResNet or LibraryModel"),
    ],
)
def test_value_of_the_wrong_type_in_a_recipe_file_is_named(change: str, answer: str, tmp_path: Path) -> None:
    """What would otherwise train, and then could not be read back from the run directory."""
    file = tmp_path / "mine.py"
    file.write_text(
        "from dataclasses import replace\nimport numpy as np\nfrom trainer.recipe import SGD\n"
        f"from recipes.resnet20_digits import recipe as base\nrecipe = replace(base, {change})\n"
    )
    with pytest.raises(UserError, match=answer):
        load_recipe(file)
