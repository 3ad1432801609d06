"""What a result is read from: averaged weights, two views, a second protocol, measured norms; and that it says so."""

import copy
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.support.evaluation import evaluate
from tests.support.processes import SUPPORT, metrics
from trainer.__main__ import main
from trainer.data.crop import eval_view
from trainer.data.device import device_batches
from trainer.data.formats import open_source
from trainer.data.loader import Loader
from trainer.distributed import process_group
from trainer.distributed.run_ahead import RunAhead
from trainer.errors import UserError
from trainer.evaluation.evaluate import evaluate_images, evaluate_networks, predict, summarize
from trainer.evaluation.protocol import Averaging, Protocol, TrainedWeights, WeightsFile
from trainer.evaluation.result import Evaluation, trained_weights
from trainer.model import build_model
from trainer.recipe import EMA, CenterCrop, Recipe
from trainer.recipe_file import load_recipe
from trainer.run.init_weights import InitWeights
from trainer.run.state import Position
from trainer.run.teacher import Teacher

SMALL = SUPPORT / "small_recipe.py"
RESULTS = f"""
from dataclasses import replace
from runpy import run_path
from trainer.recipe import EMA, CenterCrop

recipe = replace(
    run_path({str(SMALL)!r})["recipe"],
    name="results",
    eval_crop=CenterCrop(resolution=12, crop_ratio=0.875, flip_tta=True),
    also_eval_crop=CenterCrop(resolution=16, crop_ratio=1.0),
    ema=EMA(decay=0.9),
    precise_norm_images=96,
)
"""


@pytest.fixture(scope="module")
def finished(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of RESULTS."""
    folder = tmp_path_factory.mktemp("results")
    (folder / "results.py").write_text(RESULTS)
    words = ["train", str(folder / "results.py"), "--data", str(digits), "--run-dir", str(folder / "run")]
    assert main([*words, "--checkpoint-steps", "1"]) == 0  # also at epochs' ends: norms are measured before saving
    return folder / "run"


@pytest.fixture(scope="module")
def result(finished: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((finished / "result.json").read_text())
    return content


@pytest.mark.slow
def test_result_is_that_of_the_averaged_weights_and_has_the_other_results_beside_it(result: dict[str, Any]) -> None:
    averaged, plain = "exponential moving average (decay 0.9 every step)", "no averaging"
    views = "12 px, centre crop of 0.875 x short side, mean logits of two views, the crop and its mirror image"
    single = "16 px, centre crop of 1.000 x short side, one view"
    expected = [(averaged, views), (averaged, single), (plain, views), (plain, single)]
    results = [result, *result["also"]]
    assert len(results) == 4
    for reading, words in zip(results, expected, strict=True):
        text = reading["protocol_text"]
        assert all(word in text for word in (*words, "norms measured over 96 training samples"))
        protocol = Protocol.from_dict(reading["protocol"])
        assert protocol.text() == text and protocol.to_dict() == reading["protocol"]
        assert (protocol.images_seen, protocol.images_total, protocol.duplicates) == (360, 360, 0)
        assert (protocol.resolution, protocol.views) == (int(words[1].split()[0]), 2 if "two views" in words[1] else 1)
        assert isinstance(protocol.weights, TrainedWeights) and (protocol.weights.averaging is None) is (
            words[0] == plain
        )
    assert len({reading["loss"] for reading in results}) == 4  # four evaluations, not one repeated four times


@pytest.mark.slow
def test_evaluate_every_epoch_logs_both_weights_and_the_last_is_the_result(
    finished: Path, result: dict[str, Any]
) -> None:
    records = [record for record in metrics(finished) if record["kind"] != "train"]
    assert [record["kind"] for record in records] == ["eval", "eval_ema"] * 2
    assert records[-1]["loss"] == result["loss"]
    assert records[-2]["loss"] == result["also"][1]["loss"]


@pytest.mark.slow
def test_evaluate_command_repeats_every_result(
    finished: Path, result: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(finished)]) == 0
    said = " ".join(capsys.readouterr().out.split())  # rows are broken over lines
    assert f"{result['loss']:.4f}" in said
    for reading in result["also"]:
        assert f"{reading['top1']:.2f} % top-1: {reading['protocol_text']}" in said


@pytest.mark.slow
def test_averaged_weights_are_what_a_fine_tuning_starts_from(finished: Path) -> None:
    """best.pt holds both; the result is the average's."""
    from trainer.model import load_initial_weights

    recipe = load_recipe(finished / "recipe.py")
    state = torch.load(finished / "checkpoints" / "best.pt", weights_only=True)
    model = build_model(recipe.model, recipe.num_classes)
    load_initial_weights(model, finished / "checkpoints" / "best.pt")
    assert all(torch.equal(value, state["average"][name]) for name, value in model.state_dict().items())
    assert not torch.equal(state["average"]["fc.weight"], state["model"]["fc.weight"])


@pytest.mark.slow
def test_running_statistics_are_those_of_the_training_images(finished: Path, digits: Path) -> None:
    """The first norm's mean, over the first 96 images of the last epoch as they were augmented."""
    from trainer.data.stream import train_stream

    recipe = load_recipe(finished / "recipe.py")
    state = torch.load(max((finished / "checkpoints").glob("step_*.pt")), weights_only=True)
    with process_group.initialize("cpu", timeout_minutes=1) as world, open_digits(digits, "train") as loader:
        stream = train_stream(recipe, loader, world, epoch=recipe.epochs - 1, accumulation=6)
        images = torch.cat([next(stream).images for _ in range(6)])
    weight = state["model"]["conv1.weight"]
    outputs = nn.functional.conv2d(images, weight, padding=1)
    torch.testing.assert_close(state["model"]["bn1.running_mean"], outputs.mean((0, 2, 3)), rtol=1e-3, atol=1e-4)


def open_digits(digits: Path, split: Any = "val") -> Loader:
    return Loader(open_source(str(digits), split, num_classes=10, resolution=16), workers=1)


@pytest.fixture(scope="module")
def untrained() -> tuple[Recipe, nn.Module]:
    recipe = replace(load_recipe(SMALL), precision="fp32")
    torch.manual_seed(0)
    return recipe, build_model(recipe.model, recipe.num_classes)


@pytest.mark.slow
def test_compiled_model_is_evaluated_by_the_code_it_was_compiled_from(
    digits: Path, untrained: tuple[Recipe, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process trains a compiled module; DDP's and the verb's are not. All have the same result."""
    recipe, model = untrained
    with process_group.initialize("cpu", timeout_minutes=1) as world, open_digits(digits) as loader:
        plain = evaluate(model, loader, recipe, world)
        monkeypatch.setattr(model, "_compiled_call_impl", lambda _images: pytest.fail("ran compiled code"))
        assert evaluate(model, loader, recipe, world) == plain
        answers = predict(model, loader, recipe, world)
    assert 100 * (answers.predicted == answers.labels).mean() == plain.top1


@pytest.mark.slow
def test_networks_are_evaluated_in_one_pass_over_the_images(
    digits: Path, untrained: tuple[Recipe, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, model = untrained
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.9)
    with process_group.initialize("cpu", timeout_minutes=1) as world, open_digits(digits) as loader:
        expected = {"eval": evaluate(model, loader, recipe, world), "eval_ema": evaluate(other, loader, recipe, world)}
        read, batches = [], loader.batches
        monkeypatch.setattr(loader, "batches", lambda *given: read.append(given) or batches(*given))
        assert evaluate_networks({"eval": model, "eval_ema": other}, loader, recipe, world) == expected
    assert len(read) == 1
    assert expected["eval"] != expected["eval_ema"]


@pytest.mark.slow
def test_flip_tta_is_the_mean_of_the_logits_of_both_views(digits: Path, untrained: tuple[Recipe, nn.Module]) -> None:
    recipe, model = untrained
    crop = CenterCrop(resolution=28, crop_ratio=0.875, flip_tta=True)
    with process_group.initialize("cpu", timeout_minutes=1) as world, open_digits(digits) as loader:
        found = evaluate(model, loader, recipe, world, crop)
        (batch,) = device_batches(
            loader.batches([np.arange(360)], eval_view(crop), 28), torch.device("cpu"), recipe.mean, recipe.std
        )
    model.eval()
    with torch.no_grad():
        logits = (model(batch.images) + model(batch.images.flip(3))) / 2
    model.train()
    assert found.top1 == 100 * (logits.argmax(1) == batch.labels).sum().item() / 360
    assert found.top5 == 100 * (logits.topk(5).indices == batch.labels[:, None]).any(dim=1).sum().item() / 360
    assert found.loss == pytest.approx(nn.functional.cross_entropy(logits, batch.labels).item(), rel=1e-5)


def test_summary_counts_what_was_evaluated_never_once_and_twice() -> None:
    """Three images; of the last one both evaluations count, as they would on two processes that share it."""
    columns = [[0.0, 0.0, 0.0, 0.0], [1.0, 0.0, 1.0, 0.5], [2.0, 2.0, 2.0, 1.0]]  # times, top-1, top-5, loss
    assert summarize(torch.tensor(columns, dtype=torch.float64)) == Evaluation(
        top1=100 * 2 / 3, top5=100.0, loss=0.5, seen=2, duplicates=1, total=3
    )


def test_logits_that_are_not_finite_have_no_remedy_of_training_outside_of_it() -> None:
    table = torch.tensor([[1.0, 0.0, 0.0, torch.nan]], dtype=torch.float64)
    with pytest.raises(UserError, match=r"^the logits of 1 of 1 images are not finite: [^:]* for their precision$"):
        summarize(table)


def test_logits_that_are_not_finite_are_no_result(digits: Path, untrained: tuple[Recipe, nn.Module]) -> None:
    recipe, model = untrained
    broken = copy.deepcopy(model)
    broken.get_submodule("fc").weight.data[3] = float("inf")  # finite weights can do the same in fp16
    remedy = r".*: try --precision bf16 in another --run-dir$"
    refused = pytest.raises(UserError, match=r"the logits of \d+ of 360 images are not finite" + remedy)
    with process_group.initialize("cpu", timeout_minutes=1) as world, open_digits(digits) as loader, refused:
        evaluate(broken, loader, recipe, world)


def test_evaluation_leaves_every_module_in_its_mode(digits: Path, untrained: tuple[Recipe, nn.Module]) -> None:
    recipe, model = untrained
    model.train()
    frozen = model.get_submodule("layer1.0.bn1").eval()
    with process_group.initialize("cpu", timeout_minutes=1) as world, open_digits(digits) as loader:
        evaluate(model, loader, recipe, world)
    assert [module for module in model.modules() if not module.training] == [frozen]


def test_evaluation_tells_how_far_it_is(digits: Path, untrained: tuple[Recipe, nn.Module]) -> None:
    recipe, model = untrained
    told: list[tuple[int, int]] = []
    with process_group.initialize("cpu", timeout_minutes=1) as world, open_digits(digits) as loader:
        evaluate_images(
            [model], loader, recipe, world, recipe.eval_crop, on_progress=lambda *so_far: told.append(so_far)
        )
    assert told == [(done, 360) for done in (64, 128, 192, 256, 320, 360)]


def test_evaluation_keeps_the_host_near_the_gpu_after_each_batch(
    digits: Path, untrained: tuple[Recipe, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, model = untrained
    kept: list[RunAhead] = []
    monkeypatch.setattr(RunAhead, "after_batch", lambda run_ahead: kept.append(run_ahead))
    with process_group.initialize("cpu", timeout_minutes=1) as world, open_digits(digits) as loader:
        evaluate_images([model], loader, recipe, world, recipe.eval_crop)
    assert len(kept) == 6 and len(set(kept)) == 1


def test_evaluate_words_claim_no_average_and_no_norms_that_are_not_there_yet() -> None:
    recipe = replace(load_recipe(SMALL), ema=EMA(decay=0.99, every=32, start_epoch=5), precise_norm_images=96)
    at = Position(steps_per_epoch=14, epoch=1, batch=3)
    start = InitWeights(kind="recipe")
    measured, running = (
        trained_weights(recipe, at, start, norms_measured=measured, averaged=False).text() for measured in (True, False)
    )
    assert measured == "weights after 17 of 28 steps, norms measured over 96 training samples, no averaging"
    assert running == "weights after 17 of 28 steps, norms not measured yet: running averages, no averaging"
    assert recipe.ema
    assert str(Averaging.of(recipe.ema, 5)) == "a copy of the weights, whose average begins at epoch 5"
    assert str(Averaging.of(recipe.ema, 5.1)) == "exponential moving average (decay 0.99 every 32 steps)"


def test_sentence_of_weights_names_where_they_come_from_and_how_they_were_selected() -> None:
    recipe, at = load_recipe(SMALL), Position(steps_per_epoch=14, epoch=1)
    start = InitWeights(kind="file", file="x.pth", sha256="0123456789abcdef")
    more: dict[str, Any] = {"norms_measured": False, "averaged": False, "selected_on": "sha256:1"}
    best = trained_weights(recipe, at, start, selection="best", **more)
    begin = "weights after 14 of 28 steps, started from x.pth (sha256:0123456789ab), "
    assert best.text("sha256:1") == f"{begin}the best epoch on these images and so optimistic, no averaging"
    assert best.text("sha256:2") == f"{begin}the best epoch on other images, no averaging"
    assert best.text() == f"{begin}the best epoch on the run's validation images and so optimistic, no averaging"
    unknown = trained_weights(recipe, at, InitWeights(kind="pretrained"), of_run=False, selection="unknown", **more)
    assert unknown.text() == (
        "weights after 14 steps, started from the library's pretrained weights, of an epoch that may have been "
        "selected, no averaging"
    )
    assert WeightsFile(file="y.pth", sha256="0123456789abcdef").text() == "weights of y.pth (sha256:0123456789ab)"


def test_sentence_of_weights_is_utf_8_whatever_their_files_are_called() -> None:
    name = os.fsdecode(b"ros\xe9\n.pth")
    start = InitWeights(kind="file", file=name, sha256="0123456789abcdef")
    teacher = Teacher(network="ResNet-18", file=name, sha256="0123456789abcdef")
    at = Position(steps_per_epoch=14, epoch=1)
    said = trained_weights(load_recipe(SMALL), at, start, norms_measured=False, averaged=False, teacher=teacher).text()
    assert r"started from ros\udce9\n.pth (sha256" in said
    assert r"distilled from ResNet-18 (ros\udce9\n.pth, sha256" in said
    assert said.encode()


@pytest.mark.parametrize(
    "values",
    [
        None,
        {"kind": "other", "file": None, "sha256": None},
        {"kind": "file", "file": "x.pth", "sha256": None},
        {"kind": "recipe", "file": "x.pth", "sha256": "0"},
        {"kind": "file", "file": "x.pth", "sha256": "0", "key": 1},
        {"kind": "pretrained", "key": "model"},
        {"kind": "recipe", "file": None, "more": 1},
    ],
)
def test_initial_weights_of_other_fields_are_refused(values: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        InitWeights.from_dict(values)


@pytest.mark.slow
def test_checkpoint_between_two_epochs_says_that_norms_are_running_averages(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    for file in (tmp_path / "run" / "checkpoints").glob("step_00000028.pt*"):
        file.unlink()
    assert main(["evaluate", str(tmp_path / "run")]) == 0
    assert "weights after 27 of 28 steps, norms not measured yet: running averages" in " ".join(
        capsys.readouterr().out.split()
    )
