"""SWA in training, and the command average: the mean by hand, its norms, its protocol, and what reads its file."""

import json
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from torch import nn

from tests.support.small_checkpoint import checkpoint_content
from tests.support.small_recipe import recipe as small
from trainer.__main__ import main
from trainer.commands.average import average
from trainer.commands.average.average import mean_state, measures_norms
from trainer.commands.average.members import Member, from_one_run, read_members, selection_of
from trainer.commands.weights import file_weights
from trainer.data.formats import open_source
from trainer.data.loader import Loader
from trainer.distributed import process_group
from trainer.errors import UserError
from trainer.evaluation.protocol import Selection, TrainedWeights
from trainer.model import build_model
from trainer.recipe import SGD, SWA, CifarResNet, FineTuning, LibraryModel, Recipe
from trainer.recipe_file import recipe_source
from trainer.run import checkpoint
from trainer.run.checkpoint import MeanOf
from trainer.run.directory import Run
from trainer.run.state import Position
from trainer.settings import TrainSettings
from trainer.weights_settings import AverageSettings

STEPS = 1437 // 96
RECIPE = replace(
    small, name="swa", epochs=3, precision="fp32", swa=SWA(start_epoch=1), precise_norm_images=96, clip_grad_norm=None
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three epochs with SWA."""
    folder = tmp_path_factory.mktemp("swa")
    (folder / "swa.py").write_text(recipe_source(RECIPE))
    words = ["train", str(folder / "swa.py"), "--data", str(digits), "--run-dir", str(folder / "run")]
    assert main([*words, "--keep-last-checkpoints", "4", "--no-pictures"]) == 0
    return folder / "run"


def content(run: Path, step: int) -> dict[str, Any]:
    return checkpoint.read(run / "checkpoints" / f"step_{step:08d}.pt")


def joined(said: str) -> str:
    """What was printed, without the breaks of long rows."""
    return " ".join(said.split())


def is_statistic(name: str) -> bool:
    return "running" in name or "num_batches" in name


def test_swas_result_is_that_of_the_mean_of_its_epochs(finished: Path) -> None:
    result = json.loads((finished / "result.json").read_text())
    assert (
        "norms measured over 96 training samples, mean of the weights after 3 epochs (1 to 3)"
        in result["protocol_text"]
    )
    assert result["protocol"]["weights"]["averaging"] == {"of": "epochs", "count": 3, "first": 1.0, "last": 3.0}
    assert [other["protocol"]["weights"]["averaging"] for other in result["also"]] == [None]
    each = [content(finished, STEPS * epoch) for epoch in (1, 2, 3)]
    mean = mean_state([one["model"] for one in each])
    for name, tensor in each[-1]["average"].items():
        if not is_statistic(name):
            torch.testing.assert_close(tensor, mean[name], rtol=1e-5, atol=1e-7)
    lines = [json.loads(line)["kind"] for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert lines.count("eval_swa") == lines.count("eval") == 3


def test_average_of_one_checkpoint_with_itself_is_that_checkpoint_bit_for_bit(finished: Path, tmp_path: Path) -> None:
    """Its norms, recomputed over the same images, and its accuracy too."""
    shutil.copytree(finished, tmp_path / "run")
    last = tmp_path / "run" / "checkpoints" / f"step_{3 * STEPS:08d}.pt"
    same = content(finished, 3 * STEPS)
    checkpoint.write(last.with_name("step_00000041.pt"), {**same, "step": 41})  # the same file would count once
    assert main(["average", str(tmp_path / "run"), "--last", "2"]) == 0
    mean = checkpoint.read(last.with_name("average.pt"))
    assert [name for name, tensor in same["average"].items() if not torch.equal(mean["model"][name], tensor)] == []
    record = json.loads(last.with_name("average.pt_16px_1.000_fp32.evaluation.json").read_text())
    result = json.loads((finished / "result.json").read_text())
    assert (record["top1"], record["loss"]) == (result["top1"], result["loss"])


def test_average_states_its_checkpoints_and_is_read_by_the_other_commands(
    finished: Path, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    assert main(["average", str(run), "--norm-images", "200"]) == 0
    averaged = capsys.readouterr().out
    assert averaged.count("  averaged  ") == 3
    phrase = "norms measured over 192 training samples, mean of 3 checkpoints (1 to 3)"
    assert phrase in joined(averaged)
    mean = checkpoint.read(run / "checkpoints" / "average.pt")
    by_hand = [content(finished, STEPS * epoch)["average"] for epoch in (1, 2, 3)]
    for name, tensor in mean["model"].items():
        if not is_statistic(name):
            expected = torch.stack([one[name].double() for one in by_hand]).mean(0).float()
            torch.testing.assert_close(tensor, expected, rtol=0, atol=0)
    assert main(["evaluate", str(run), "--checkpoint", "average"]) == 0
    assert phrase in joined(capsys.readouterr().out)
    assert main(["export", str(run), "--to", "safetensors", "--checkpoint", "average"]) == 0
    assert phrase in joined(capsys.readouterr().out)
    words = ["train", str(run / "recipe.py"), "--data", str(digits), "--run-dir", str(tmp_path / "next")]
    words += ["--initial-weights", str(run / "checkpoints" / "average.pt"), "--epochs", "1", "--no-pictures"]
    assert main(words) == 0


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["RUN", "--last", "9"], r"checkpoints holds 3 checkpoints: use --last 3, or train with --keep-last-check"),
        (["RUN", "--last", "1"], r"last=1 is one checkpoint"),
        (["RUN/checkpoints/best.pt"], r"one file has no mean"),
        (["RUN/checkpoints/best.pt", "RUN/checkpoints/best.pt"], r"best\.pt is named twice"),
        (["RUN/checkpoints"], r"is not the folder of a run"),
        (["RUN", "--last", "2", "--norm-images", "15"], r"15 training images are less than a micro-batch of 16"),
        (["RUN", "--last", "2", "--out", "RUN/checkpoints/step_1.pt"], r"choose a different one"),
    ],
)
def test_average_answers_a_mistake_in_one_line(
    words: list[str], answer: str, finished: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["average", *(word.replace("RUN", str(finished)) for word in words)]) == 2
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert re.search(answer, said), said
    assert not (finished / "checkpoints" / "average.pt").exists()


def test_average_of_files_of_two_runs_is_written_where_asked(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It takes the recipe of the first, and claims no seed, because the mean is not of one run."""
    shutil.copytree(finished, tmp_path / "other")
    files = [
        str(finished / f"checkpoints/step_{STEPS:08d}.pt"),
        str(tmp_path / f"other/checkpoints/step_{2 * STEPS:08d}.pt"),
    ]
    assert main(["average", *files]) == 2
    assert "of several runs: where is their mean to be written? Add --out FILE.pt" in capsys.readouterr().err
    assert main(["average", *files, "--out", str(tmp_path / "soup.pt")]) == 0
    (written,) = tmp_path.glob("soup.pt_16px_1.000_fp32_recipe-*.evaluation.json")
    record = json.loads(written.read_text())
    assert record["protocol"]["weights"]["averaging"]["count"] == 2
    assert record["protocol"]["seed"] is None


def small_run(folder: Path, *steps: int, recipe: Recipe = small, **parts: Any) -> Path:
    """The folder of the checkpoints of a run, as a run leaves them, with one weight; best.pt is the last."""
    run = Run(folder)
    folder.mkdir(exist_ok=True)
    (folder / "recipe.py").write_text(recipe_source(recipe))
    for step in steps:
        place = asdict(Position(steps_per_epoch=14, epoch=step // 14, batch=step % 14))
        content = checkpoint_content(position=place, model={"w": torch.tensor(float(step))}, **parts)
        run.checkpoints.save(content, step)
    run.checkpoints.mark_best(steps[-1])
    return run.checkpoints.folder


def members(*files: Path) -> list[Member]:
    return read_members(AverageSettings(checkpoints=files))


def test_checkpoint_counts_once_in_the_mean_whatever_its_name(tmp_path: Path) -> None:
    """best.pt is a link to a step, or a copy of it, so that checkpoints/*.pt names one twice."""
    folder = small_run(tmp_path, 14, 28)
    assert len(members(folder / "step_00000014.pt", folder / "best.pt")) == 2
    with pytest.raises(UserError, match=r"step_00000028\.pt is the same checkpoint as .*best\.pt: each counts once"):
        members(*sorted(folder.glob("*.pt")))


def test_mean_replaces_no_checkpoint_that_it_is_of_and_none_of_a_different_run(tmp_path: Path) -> None:
    folder, others = small_run(tmp_path / "run", 14, 28), small_run(tmp_path / "other", 14)
    one, two, link = (tmp_path / name for name in ("one.pt", "two.pt", "link.pt"))
    for file in (one, two, folder / "average.pt"):
        file.write_bytes(b"weights of any kind")
    link.symlink_to(one)

    def place(*files: Path, out: Path | None = None) -> Path:
        return average._place(AverageSettings(checkpoints=files, out=out))

    for out in (one, two, link, folder / ".." / ".." / "one.pt"):
        with pytest.raises(UserError, match=rf"{out.name} is a file that this command reads and would replace"):
            place(one, two, out=out)
    with pytest.raises(UserError, match=r"average\.pt is a file that this command reads"):
        place(folder / "average.pt", folder / "best.pt")
    with pytest.raises(UserError, match=r"average\.pt is among the checkpoints of a run: choose another folder"):
        place(one, two, out=others / "average.pt")
    assert place(folder / "best.pt", one, out=folder / "mean.pt") == folder / "mean.pt"
    assert place(tmp_path / "run") == folder / "average.pt"


def test_mean_is_no_part_of_a_mean(tmp_path: Path) -> None:
    folder = small_run(tmp_path, 14, 28)
    about = MeanOf(count=2, first=1.0, last=2.0, norm_images=0, selection="newest", one_run=True)
    checkpoint.write(folder / "average.pt", {**checkpoint.read(folder / "best.pt"), "mean_of": about})
    with pytest.raises(UserError, match=r"average\.pt is a mean of checkpoints already: leave it out"):
        members(folder / "step_00000014.pt", folder / "average.pt")


@pytest.mark.parametrize(
    ("names", "selection"),
    [
        (("step_00000014.pt", "step_00000028.pt"), "newest"),
        (("step_00000014.pt", "best.pt"), "best"),
        (("other.pt", "step_00000028.pt"), "unknown"),
    ],
)
def test_mean_states_that_an_epoch_of_it_was_selected(
    names: tuple[str, str], selection: Selection, tmp_path: Path
) -> None:
    folder = small_run(tmp_path, 14, 28)
    checkpoint.write(folder / "other.pt", {**checkpoint.read(folder / "step_00000014.pt"), "step": 0})
    found = members(*(folder / name for name in names))
    assert selection_of(found) == selection
    about = MeanOf(count=2, first=1.0, last=2.0, norm_images=0, selection=selection_of(found), one_run=True)
    checkpoint.write(folder / "average.pt", {**found[-1].content, "mean_of": about})
    ((trained, _),) = file_weights(folder / "average.pt", None).networks
    assert isinstance(trained, TrainedWeights) and trained.selection == selection


TRAINED_ON = {"data": {"train": "sha256:" + "1" * 64, "val": "sha256:" + "2" * 64}, "classes": ["cat", "dog"]}


@pytest.mark.parametrize(
    ("changes", "parts", "answer"),
    [
        ({}, {"classes": ["dog", "cat"]}, r"class 0 is 'cat' in the first and 'dog' in the second"),
        ({}, {"classes": ["cat"]}, r"the number of classes is 2 in the first and 1 in the second"),
        ({}, {"data": {"train": "sha256:" + "3" * 64}}, r"the training data is sha256:1{12} in the first and sha256:3"),
        ({"std": (0.5, 0.5, 0.5)}, {}, r"std is \(0\.229, .*\) in the first and \(0\.5, 0\.5, 0\.5\) in the second"),
        ({"mean": (0.5, 0.5, 0.5)}, {}, r"mean is \(0\.485, .* in the second"),
        ({"model": CifarResNet(depth=8, zero_init_residual=True)}, {}, r"model is CifarResNet\(.* in the second"),
    ],
)
def test_checkpoints_of_different_tasks_have_no_mean(
    changes: dict[str, Any], parts: dict[str, Any], answer: str, tmp_path: Path
) -> None:
    """Their tensors have the same shapes, so nothing else would tell."""
    one = small_run(tmp_path / "one", 14, **TRAINED_ON) / "step_00000014.pt"
    other = small_run(tmp_path / "two", 28, recipe=replace(small, **changes), **{**TRAINED_ON, **parts})
    with pytest.raises(UserError, match=answer) as caught:
        members(one, other / "step_00000028.pt")
    assert str(caught.value).startswith(f"{one} and {other / 'step_00000028.pt'} cannot be averaged: ")


def test_checkpoints_of_runs_that_differ_in_how_they_were_trained_have_a_mean(tmp_path: Path) -> None:
    """A soup: other seeds, rates and epochs, and published weights that one run has from a file."""
    model = LibraryModel(name="timm/resnet18", pretrained=True)
    one = small_run(tmp_path / "one", 14, recipe=replace(small, model=model), **TRAINED_ON)
    other = replace(small, model=replace(model, pretrained=False), seed=1, epochs=9, optimizer=SGD(lr=1.0))
    two = small_run(tmp_path / "two", 28, recipe=other, **TRAINED_ON)
    assert len(members(one / "best.pt", two / "best.pt")) == 2


def test_mean_of_several_runs_claims_the_seed_of_none(tmp_path: Path) -> None:
    """Wherever it lies. That of one run has its seed, also once the run's folder has another name."""
    one, two = small_run(tmp_path / "one", 14, 28), small_run(tmp_path / "two", 42)
    soup = members(one / "best.pt", two / "best.pt")
    own = members(one / "step_00000014.pt", one / "best.pt")
    assert (from_one_run(soup), from_one_run(own)) == (False, True)
    for name, found in (("soup.pt", soup), ("own.pt", own)):
        about = MeanOf(count=2, first=1.0, last=2.0, norm_images=0, selection="newest", one_run=from_one_run(found))
        checkpoint.write(one / name, {**found[-1].content, "mean_of": about})
    (tmp_path / "one").rename(tmp_path / "renamed")
    weights = {name: file_weights(tmp_path / "renamed" / "checkpoints" / name, None) for name in ("soup.pt", "own.pt")}
    assert {name: found.of_run for name, found in weights.items()} == {"soup.pt": False, "own.pt": True}
    steps = {name: found.networks[0][0].steps for name, found in weights.items()}  # type: ignore[union-attr]
    assert steps == {"soup.pt": None, "own.pt": 28}


def test_average_reads_each_checkpoint_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are large, and a run that still trains may replace best.pt between two reads."""
    folder, read = small_run(tmp_path / "run", 14, 28), []

    def counted(path: Path) -> dict[str, Any]:
        read.append(path)
        return {**original(path), "optimizer": {"state": "large"}}

    original = checkpoint.read
    monkeypatch.setattr(checkpoint, "read", counted)
    found = read_members(AverageSettings(checkpoints=(tmp_path / "run",), last=2))
    assert read == [folder / "step_00000014.pt", folder / "step_00000028.pt"]
    assert [member.content["optimizer"] for member in found] == [{}, {}]


def test_average_says_which_checkpoints_it_takes(tmp_path: Path) -> None:
    folder = small_run(tmp_path / "run", 14, 28, 42)
    files = (folder / "step_00000014.pt", folder / "step_00000028.pt")
    with pytest.raises(UserError, match=r"run is a folder: give one run, or checkpoint files of several"):
        small_run(tmp_path / "two", 14)
        read_members(AverageSettings(checkpoints=(tmp_path / "run", tmp_path / "two")))
    with pytest.raises(UserError, match=r"--last 2 chooses among the checkpoints of a run, and these are files"):
        read_members(AverageSettings(checkpoints=files, last=2))
    newest = read_members(AverageSettings(checkpoints=(tmp_path / "run",), last=2))
    assert [member.epoch for member in newest] == [2.0, 3.0]
    assert len(read_members(AverageSettings(checkpoints=(tmp_path / "run",)))) == TrainSettings.keep_last_checkpoints
    with pytest.raises(UserError, match=r"holds 3 checkpoints: use --last 3, or train with --keep-last-checkpoints 4"):
        read_members(AverageSettings(checkpoints=(tmp_path / "run",), last=4))
    with pytest.raises(UserError, match=r"holds 1 checkpoint: train with --keep-last-checkpoints 3$"):
        read_members(AverageSettings(checkpoints=(tmp_path / "two",)))


def test_norms_are_measured_on_the_images_that_the_checkpoints_were_trained_on(digits: Path) -> None:
    """Not on the validation images, whatever --data names, and not on others that have the same classes."""
    with Loader(open_source(str(digits), "train", num_classes=10, resolution=16), workers=1) as loader:
        trained_on, classes = loader.source.checksum, loader.source.classes

    def opened(data: Path, checksum: str = trained_on) -> int:
        newest = MagicMock(content=checkpoint_content(data={"train": checksum}, classes=classes))
        settings = AverageSettings(checkpoints=(Path("run"),), data=str(data))
        with (
            process_group.initialize("cpu", 1) as world,
            average._open_training_images(small, newest, settings, world) as loader,
        ):
            return len(loader)

    assert opened(digits) == 1437
    with pytest.raises(UserError, match=r"val\.beton has neither train\.beton nor the folder train/"):
        opened(digits / "val.beton")
    other = r"has other training images \(sha256:\w+\) than the checkpoints were trained on \(sha256:0{12}\), and batch"
    with pytest.raises(UserError, match=other):
        opened(digits, "sha256:" + "0" * 64)


def test_norm_images_are_refused_where_no_norm_is_measured() -> None:
    one = MagicMock()
    one.weights.recipe = replace(small, fine_tuning=FineTuning(freeze_norms=True))
    plain, asked = (AverageSettings(checkpoints=(Path("run"),), norm_images=images) for images in (None, 96))
    network, without = build_model(small.model, 10), nn.Conv2d(3, 10, 3)
    for members_, module, reason in (
        ([one, one], network, r"--norm-images 96: fine-tuning kept batch norm's statistics.*: leave it out"),
        ([MagicMock()], without, r"--norm-images 96: the network has no batch norm: leave it out"),
    ):
        assert not measures_norms(members_, module, plain)
        with pytest.raises(UserError, match=reason):
            measures_norms(members_, module, asked)
    learned = MagicMock()
    learned.weights.recipe = small
    assert measures_norms([one, learned], network, asked)


@pytest.mark.parametrize("changes", [{"sync_norm": True}, {"norm_batch_size": 8}])
def test_norms_of_the_mean_are_measured_as_in_training(
    changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over the same images each: those of all processes, or groups of a micro-batch."""
    measured: list[nn.Module] = []
    monkeypatch.setattr(average, "_open_training_images", MagicMock())
    monkeypatch.setattr(average, "norm_images", lambda *_: 96)
    monkeypatch.setattr(average, "remeasure_norms", lambda recipe, networks, *_: measured.extend(networks.values()))
    recipe = replace(small, **changes)
    newest = MagicMock(content=checkpoint_content(position=asdict(Position(steps_per_epoch=14))))
    with process_group.initialize("cpu", 1) as world:
        network = build_model(recipe.model, 10)
        average._measure_norms(network, recipe, newest, MagicMock(), world)
    trained = build_model(recipe.model, 10, recipe.norm_batch_size, sync_norm=recipe.sync_norm)
    assert [type(module) for module in measured[0].modules()] == [type(module) for module in trained.modules()]


def test_norms_that_fine_tuning_froze_are_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All checkpoints have the statistics that they started with, which any data would replace."""
    recipe = replace(small, fine_tuning=FineTuning(freeze_norms=True))
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "recipe.py").write_text(recipe_source(recipe))
    network, classes = build_model(recipe.model, 10), list("0123456789")
    for step, bias in ((14, 1.0), (28, 3.0)):
        network.get_submodule("fc").bias.data.fill_(bias)  # type: ignore[union-attr]
        place = asdict(Position(steps_per_epoch=14, epoch=step // 14))
        one = checkpoint_content(position=place, model=network.state_dict(), classes=classes)
        checkpoint.write(tmp_path / "run" / "checkpoints" / f"step_{step:08d}.pt", one)
    monkeypatch.setattr(average, "_measure_norms", lambda *_: pytest.fail("measured the norms"))
    evaluated: list[Path] = []
    settings = AverageSettings(checkpoints=(tmp_path / "run",), last=2, device="cpu")
    average.average_weights(settings, lambda _, of_mean: evaluated.append(of_mean.weights))
    (file,) = evaluated
    mean = checkpoint.read(file)
    assert (mean["mean_of"]["norm_images"], mean["norms_measured"]) == (0, False)
    assert mean["model"]["fc.bias"].tolist() == [2.0] * 10


def test_checkpoints_of_different_networks_have_no_mean() -> None:
    with pytest.raises(UserError, match="of different networks"):
        mean_state([{"a": torch.zeros(2)}, {"a": torch.zeros(3)}])
    counts = mean_state([{"n": torch.tensor(1)}, {"n": torch.tensor(4)}])
    assert counts["n"].item() == 4
