"""What evaluate says of weights from anywhere: its numbers against oracles, its record, and its refusals."""

import hashlib
import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from torch import nn

from tests.support.evaluation import evaluate
from tests.support.processes import SUPPORT, run
from trainer.__main__ import main
from trainer.commands.evaluate.record import _default_place
from trainer.data.crop import eval_view
from trainer.data.device import device_batches
from trainer.data.formats import open_source
from trainer.data.loader import Loader
from trainer.data.order import eval_batches
from trainer.distributed import process_group
from trainer.errors import UserError
from trainer.evaluation.calibration import BINS, calibration_bins, calibration_error, details
from trainer.evaluation.result import _detail_rows
from trainer.model import build_model
from trainer.recipe import CenterCrop, LibraryModel, Recipe
from trainer.recipe_file import load_recipe, recipe_source
from trainer.run.checkpoint import write as write_checkpoint
from trainer.weights_settings import EvaluateSettings

pytestmark = pytest.mark.slow

SMALL = SUPPORT / "small_recipe.py"
AVERAGED = f"""
from dataclasses import replace
from runpy import run_path
from trainer.recipe import EMA

recipe = replace(run_path({str(SMALL)!r})["recipe"], name="averaged", epochs=1, ema=EMA(decay=0.8))
"""


@pytest.fixture(scope="module")
def finished(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of AVERAGED."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "averaged.py").write_text(AVERAGED)
    assert main(["train", str(folder / "averaged.py"), "--data", str(digits), "--run-dir", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def checkpoint(finished: Path) -> dict[str, Any]:
    (newest,) = (finished / "checkpoints").glob("step_*.pt")
    state: dict[str, Any] = torch.load(newest, weights_only=True)
    return state


def evaluated(words: list[str], out: Path) -> dict[str, Any]:
    assert main(["evaluate", *words, "--out", str(out)]) == 0
    content: dict[str, Any] = json.loads(out.read_text())
    return content


@pytest.fixture(scope="module")
def record(finished: Path) -> dict[str, Any]:
    """What evaluate writes of the run when nothing is asked for."""
    assert main(["evaluate", str(finished)]) == 0
    content: dict[str, Any] = json.loads((finished / "evaluations" / "step_00000014_16px_1.000.json").read_text())
    return content


def test_record_has_the_numbers_of_the_run_and_names_weights_data_and_versions(
    finished: Path, record: dict[str, Any]
) -> None:
    result = json.loads((finished / "result.json").read_text())
    for name in ("recipe", "seed", "top1", "top5", "loss", "protocol", "protocol_text"):
        assert record[name] == result[name], name
    assert [other["loss"] for other in record["also"]] == [other["loss"] for other in result["also"]]
    file = finished / "checkpoints" / record["weights"]["file"]
    assert record["weights"]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert record["data"]["checksum"] == result["data"]["val"]
    crop = {"resolution": 16, "crop_ratio": 1.0, "views": 1, "scaled_decoding": False}
    assert {name: record["protocol"][name] for name in crop} == crop
    assert record["ran_on"]["packages"]["torch"].startswith(torch.__version__.partition("+")[0])
    assert record["ran_on"]["processes"] == 1


def test_class_accuracies_and_calibration_are_those_of_the_logits(
    finished: Path, record: dict[str, Any], checkpoint: dict[str, Any], digits: Path
) -> None:
    """Guo's equation 3, written as sums over images."""
    recipe = load_recipe(finished / "recipe.py")
    model = build_model(recipe.model, 10).eval()
    model.load_state_dict(checkpoint["average"])
    with Loader(open_source(str(digits), "val", num_classes=10, resolution=16), workers=1) as loader:
        batches = eval_batches(360, batch_size=64, rank=0, world_size=1)
        crops = loader.batches(batches, eval_view(recipe.eval_crop), 16)
        with torch.inference_mode():
            found = [
                (model(images).float().softmax(1), labels)
                for images, labels, _ in device_batches(crops, torch.device("cpu"), recipe.mean, recipe.std)
            ]
    probabilities, labels = torch.cat([first for first, _ in found]), torch.cat([second for _, second in found])
    confidence, predicted = probabilities.double().max(1)
    for label, one in enumerate(record["classes"]):
        of_class = labels == label
        assert one["images"] == int(of_class.sum())
        assert one["top1"] == 100 * int((predicted[of_class] == label).sum()) / int(of_class.sum())
    gaps = []
    for m in range(1, BINS + 1):
        inside = [i for i in range(360) if (m - 1) / BINS < float(confidence[i]) <= m / BINS]
        gaps.append(abs(sum(int(predicted[i] == labels[i]) - float(confidence[i]) for i in inside)))
        assert record["bins"][m - 1]["images"] == len(inside)
    assert record["ece"] == pytest.approx(100 * sum(gaps) / 360, rel=1e-3)
    assert sum(one["images"] * one["top1"] for one in record["classes"]) / 360 == pytest.approx(record["top1"])


def test_evaluate_two_processes_write_the_same_record(finished: Path, record: dict[str, Any], tmp_path: Path) -> None:
    ended = run(["evaluate", str(finished), "--out", str(tmp_path / "two.json")], processes=2)
    assert ended.returncode == 0, ended.stderr
    two = json.loads((tmp_path / "two.json").read_text())
    assert two.pop("ran_on")["processes"] == 2
    assert two == {name: value for name, value in record.items() if name != "ran_on"}


def test_record_of_a_different_protocol_or_of_different_images_replaces_none(tmp_path: Path) -> None:
    """Of a run, and of a file: that has no data of its own, and what else may differ is asked for with each command."""
    images = {"1": "sha256:" + "1" * 64, "2": "sha256:" + "2" * 64}
    small = load_recipe(SMALL)
    (tmp_path / "w.pth").touch()

    def name(
        of: Path,
        data: str,
        *,
        real: str | None = None,
        key: str | None = None,
        recipe: Recipe | None = None,
        **changes: Any,
    ) -> str:
        crop = replace(CenterCrop(resolution=16, crop_ratio=1.0), **changes)
        known = None if of.is_file() else {"val": images["1"]}
        return _default_place(
            MagicMock(file=Path("step_00000014.pt"), data=known, recipe=recipe or small),
            recipe or small,
            MagicMock(checksum=images[data]),
            MagicMock(crop=crop, real_labels=real),
            EvaluateSettings(weights=of, weights_key=key, recipe="recipe.py" if recipe else None),
        ).name

    assert name(tmp_path, "1") == "step_00000014_16px_1.000.json"
    assert name(tmp_path, "2") == "step_00000014_16px_1.000_data-22222222.json"
    assert name(tmp_path, "1", real=images["2"]) == "step_00000014_16px_1.000_real-22222222.json"
    of_file = [
        name(tmp_path / "w.pth", "1"),
        name(tmp_path / "w.pth", "2"),
        name(tmp_path / "w.pth", "1", resolution=32),
        name(tmp_path / "w.pth", "1", crop_ratio=0.875),
        name(tmp_path / "w.pth", "1", flip_tta=True),
        name(tmp_path / "w.pth", "1", scaled_decoding=True),
        name(tmp_path / "w.pth", "1", real=images["1"]),
        name(tmp_path / "w.pth", "1", real=images["2"]),
        name(tmp_path / "w.pth", "1", recipe=small),
        name(tmp_path / "w.pth", "1", recipe=replace(small, mean=(0.4, 0.4, 0.4))),
        name(tmp_path / "w.pth", "1", key="state/dict"),
    ]
    assert of_file[0] == "w.pth_16px_1.000_data-11111111_fp32.evaluation.json"
    assert of_file[-1] == "w.pth_16px_1.000_data-11111111_fp32_state_dict.evaluation.json"
    assert re.fullmatch(r"w\.pth_16px_1\.000_data-11111111_fp32_recipe-[0-9a-f]{8}\.evaluation\.json", of_file[-2])
    assert len(set(of_file)) == len(of_file) == 11


def test_record_replaces_neither_weights_nor_what_is_read(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    weights, real, best = tmp_path / "weights.pth", tmp_path / "real.json", tmp_path / "run" / "checkpoints" / "best.pt"
    best.parent.mkdir(parents=True)
    (tmp_path / "run" / "recipe.py").write_text(recipe_source(load_recipe(SMALL)))
    for file in (weights, real, best):
        file.write_text(file.name)
    for out, reason in (
        (weights, "is a file that this command reads and would replace: use another --out"),
        (real, "is a file that this command reads and would replace: use another --out"),
        (best, "is among the checkpoints of a run: choose another folder"),
    ):
        words = [str(weights), "--recipe", str(SMALL), "--data", "synthetic:8", "--real", str(real)]
        assert main(["evaluate", *words, "--out", str(out)]) == 2
        assert capfd.readouterr().err.endswith(f"{out} {reason}\n")
        assert out.read_text() == out.name


def test_calibration_is_nought_where_confidence_is_the_accuracy() -> None:
    """Four images at 75 %, three of them right; and the gap by hand where all are right."""
    confidence = np.full(4, 0.75)
    assert calibration_error(calibration_bins(confidence, np.array([True, True, True, False]))) == 0
    assert calibration_error(calibration_bins(confidence, np.ones(4, bool))) == 25
    two = np.array([0.9, 0.9, 0.5, 0.5])  # gaps of 10 and of 50, half of the images each
    assert calibration_error(calibration_bins(two, np.array([True, True, False, False]))) == pytest.approx(30)


def test_bin_holds_its_upper_edge_and_not_its_lower_one() -> None:
    edges = np.array([0.0, 1 / 16, 1 / 15, 1.0])
    counts = [one.images for one in calibration_bins(edges, np.ones(4, bool))]
    assert counts == [3, *[0] * 13, 1]


def test_class_without_images_has_no_accuracy() -> None:
    found = details(np.array([0, 2, 2]), np.array([0, 2, 1]), np.full(3, 0.5), ["a", "b", "c"])
    assert [(one.images, one.top1) for one in found.classes] == [(1, 100.0), (0, None), (2, 50.0)]


def test_confidence_that_is_no_number_is_an_error() -> None:
    with pytest.raises(UserError, match="the logits of 1 of 2 images are not finite"):
        details(np.array([0, 1]), np.array([0, 1]), np.array([0.5, math.nan]), ["a", "b"])


def test_table_names_the_worst_and_the_best_classes(
    finished: Path, record: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    evaluated([str(finished)], tmp_path / "out.json")
    said = " ".join(capsys.readouterr().out.split())  # rows are broken over lines
    ranked = sorted(record["classes"], key=lambda one: one["top1"])
    words = [f"{one['name']} {one['top1']:.1f} % of {one['images']}" for one in ranked]
    assert f" worst {', '.join(words[:5])} best {', '.join(words[:-6:-1])} protocol " in said
    assert f"{record['ece']:.2f} % (expected calibration error, 15 bins)" in said


def test_table_leaves_classes_without_images_out_and_counts_them() -> None:
    """Of five classes one has no images: two of the other four are the worst, two the best."""
    labels = np.array([0] * 4 + [1] * 4 + [3] * 4 + [4] * 2000)
    predicted = np.concatenate([[0, 0, 0, 1], [0, 0, 0, 0], [3, 3, 1, 1], np.full(2000, 4)])
    found = details(labels, predicted, np.full(len(labels), 0.5), ["cat", "dog", "empty", "ox", "rat"])
    assert dict(_detail_rows(found)) == {
        "ECE": "49.65 % (expected calibration error, 15 bins)",
        "worst": "dog 0.0 % of 4, ox 50.0 % of 4",
        "best": "rat 100.0 % of 2,000, cat 75.0 % of 4",
        "empty": "1 of 5 classes have no images here",
    }


def test_evaluate_different_protocol_is_evaluated_and_stated(
    finished: Path, checkpoint: dict[str, Any], digits: Path
) -> None:
    asked = ["--resolution", "28", "--crop-ratio", "0.875", "--flip-tta"]
    assert main(["evaluate", str(finished), *asked]) == 0
    found = json.loads((finished / "evaluations" / "step_00000014_28px_0.875_flip.json").read_text())
    assert "28 px, centre crop of 0.875 x short side, mean logits of two views" in found["protocol_text"]
    recipe = load_recipe(finished / "recipe.py")
    crop = CenterCrop(resolution=28, crop_ratio=0.875, flip_tta=True)
    model = build_model(recipe.model, 10)
    model.load_state_dict(checkpoint["average"])
    with (
        process_group.initialize("cpu", timeout_minutes=1) as world,
        Loader(open_source(str(digits), "val", num_classes=10, resolution=28), workers=1) as loader,
    ):
        expected = evaluate(model.to(memory_format=torch.channels_last), loader, recipe, world, crop)
    assert (found["top1"], found["top5"], found["loss"]) == (expected.top1, expected.top5, expected.loss)
    protocol, other = found["protocol"], found["also"][0]["protocol"]
    counts = (protocol["images_seen"], protocol["duplicates"], protocol["images_total"])
    assert counts == (expected.seen, expected.duplicates, expected.total)
    assert protocol["views"] == 2
    assert {**other, "weights": None} == {**protocol, "weights": None}  # the other weights, at this protocol too


def test_scaled_decoding_can_be_asked_for_and_is_stated(finished: Path) -> None:
    assert main(["evaluate", str(finished), "--scaled-decoding"]) == 0
    found = json.loads((finished / "evaluations" / "step_00000014_16px_1.000_scaled.json").read_text())
    assert ", scaled decoding, one view; " in found["protocol_text"]
    assert found["protocol"]["scaled_decoding"]


def test_evaluate_one_view_can_be_asked_for_where_the_recipe_has_two(
    checkpoint: dict[str, Any], record: dict[str, Any], digits: Path, tmp_path: Path
) -> None:
    recipe = load_recipe(SMALL)
    (tmp_path / "two.py").write_text(recipe_source(replace(recipe, eval_crop=replace(recipe.eval_crop, flip_tta=True))))
    torch.save(checkpoint["model"], tmp_path / "weights.pth")
    words = [str(tmp_path / "weights.pth"), "--recipe", str(tmp_path / "two.py"), "--data", str(digits)]
    plain = record["also"][0]["loss"]
    assert evaluated(words, tmp_path / "two.json")["loss"] != plain
    assert evaluated([*words, "--no-flip-tta"], tmp_path / "one.json")["loss"] == plain


def in_torch_file(state: dict[str, Any], file: Path) -> None:
    torch.save({f"module._orig_mod.{name}": value for name, value in state.items()}, file)


def in_safetensors(state: dict[str, Any], file: Path) -> None:
    from safetensors.torch import save_file

    save_file({name: value.contiguous() for name, value in state.items()}, file)


@pytest.mark.parametrize(("suffix", "write"), [(".pth", in_torch_file), (".safetensors", in_safetensors)])
def test_state_dict_evaluates_as_in_the_run(
    suffix: str,
    write: Callable[[dict[str, Any], Path], None],
    finished: Path,
    record: dict[str, Any],
    checkpoint: dict[str, Any],
    digits: Path,
    tmp_path: Path,
) -> None:
    file = tmp_path / f"weights{suffix}"
    write(checkpoint["model"], file)
    assert main(["evaluate", str(file), "--recipe", str(finished / "recipe.py"), "--data", str(digits)]) == 0
    (written,) = tmp_path.glob(f"weights{suffix}_16px_1.000_data-*_fp32_recipe-*.evaluation.json")
    found = json.loads(written.read_text())
    plain = record["also"][0]
    assert all(found[name] == plain[name] for name in ("top1", "top5", "loss", "ece", "classes", "bins"))
    assert f"weights of weights{suffix} (sha256:{found['weights']['sha256'][:12]})" in found["protocol_text"]
    assert found["protocol"]["weights"] == found["weights"]
    assert "seed" not in found["protocol_text"] and found["seed"] is None and found["protocol"]["seed"] is None


def test_checkpoint_of_a_run_has_its_recipe_and_data(finished: Path, record: dict[str, Any], tmp_path: Path) -> None:
    found = evaluated([str(finished / "checkpoints" / "best.pt")], tmp_path / "best.json")
    assert (found["loss"], found["recipe"]) == (record["loss"], "averaged")
    assert "the best epoch on these images and so optimistic" in found["protocol_text"]
    trained = found["protocol"]["weights"]
    assert (trained["selection"], trained["selected_on"]) == ("best", found["data"]["checksum"])


def test_checkpoint_without_its_run_and_name_may_have_been_chosen_and_says_so(
    finished: Path, digits: Path, tmp_path: Path
) -> None:
    shutil.copy(finished / "checkpoints" / "best.pt", tmp_path / "alone.pt")
    words = [str(tmp_path / "alone.pt"), "--recipe", str(finished / "recipe.py"), "--data", str(digits)]
    assert "of an epoch that may have been selected" in evaluated(words, tmp_path / "alone.json")["protocol_text"]


def test_checkpoint_of_a_different_version_is_read_as_a_weights_file(
    checkpoint: dict[str, Any], record: dict[str, Any], digits: Path, tmp_path: Path
) -> None:
    """Such as one with started_from, a piece of a sentence, in place of init_weights: its weights are all it gives."""
    older = {name: value for name, value in checkpoint.items() if name not in ("average", "init_weights")}
    torch.save({**older, "started_from": ""}, tmp_path / "older.pt")
    words = [str(tmp_path / "older.pt"), "--recipe", str(SMALL), "--data", str(digits)]
    found = evaluated(words, tmp_path / "older.json")
    assert found["loss"] == record["also"][0]["loss"]
    assert (
        f"weights of model in older.pt (sha256:{found['weights']['sha256'][:12]}); fp32; data" in found["protocol_text"]
    )


def test_run_of_a_different_version_is_refused_in_one_line(
    finished: Path, checkpoint: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By evaluate and export, and where its recipe states a published result without its fields."""
    shutil.copytree(finished, tmp_path / "run")
    (newest,) = (tmp_path / "run" / "checkpoints").glob("step_*.pt")
    older = {name: value for name, value in checkpoint.items() if name != "init_weights"}
    write_checkpoint(newest, {**older, "started_from": ""})
    for words in (["evaluate", str(tmp_path / "run")], ["export", str(tmp_path / "run"), "--to", "safetensors"]):
        assert main(words) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "has no init_weights: it was not written by this version" in error
    recipe = (tmp_path / "run" / "recipe.py").read_text()
    published = 'Published(top1=91.25, protocol="CIFAR-10 test, 1 run", source="a paper", sd=None)'
    recipe = recipe.replace("published=None", f"published={published}").replace("import ", "import Published, ", 1)
    (tmp_path / "run" / "recipe.py").write_text(recipe)
    assert main(["evaluate", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "'runs' and 'statistic': the run was made by another version of the trainer" in error


def test_beton_file_and_a_folder_of_class_folders_are_data(
    photos: Path, photo_betons: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With weights for as many classes as they have, whatever the recipe says."""
    torch.save(build_model(load_recipe(SMALL).model, 4).state_dict(), tmp_path / "four.pth")
    words = [str(tmp_path / "four.pth"), "--recipe", str(SMALL), "--data"]
    for number, data in enumerate((photos, photos / "val", photo_betons / "val.beton")):
        found = evaluated([*words, str(data)], tmp_path / f"{number}.json")
        assert (found["protocol"]["images_seen"], [one["name"] for one in found["classes"]]) == (
            24,
            [f"class{n}" for n in range(4)],
        )
        assert "4 classes" not in found["protocol_text"]
    assert "num_classes: 10 -> 4" not in capsys.readouterr().out  # SMALL is nobody's named recipe


Mistake = tuple[list[str], str]
CASES = (
    "no recipe", "no data", "another network", "another depth", "other number of classes", "other classes",
    "damaged", "not weights", "not onnx", "not finite", "recipe for a run", "best of a file", "crop beyond the image",
    "both flags", "resolution", "no folder for out", "data that is not there", "data without images",
    "neither run nor file",
)  # fmt: skip


@pytest.fixture(scope="module")
def mistakes(
    finished: Path,
    checkpoint: dict[str, Any],
    digits: Path,
    photos: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Mistake]:
    """Words and the line they have to be answered with."""
    folder = tmp_path_factory.mktemp("mistakes")
    state, recipe = checkpoint["model"], load_recipe(SMALL)
    torch.save(state, folder / "good.pth")
    torch.save(build_model(replace(recipe.model, depth=14), 10).state_dict(), folder / "deeper.pth")  # type: ignore[arg-type]
    torch.save(nn.Linear(3, 3).state_dict(), folder / "linear.pth")
    torch.save({**state, "fc.bias": torch.full((10,), math.nan)}, folder / "nan.pth")
    (folder / "cut.pth").write_bytes((folder / "good.pth").read_bytes()[:3000])
    (folder / "text.txt").write_text("weights")
    (folder / "text.onnx").write_text("weights")
    (folder / "empty").mkdir()
    shutil.copytree(photos / "val", folder / "ten")
    for number in range(4, 10):
        shutil.copytree(folder / "ten" / "class0", folder / "ten" / f"class{number}")
    of_recipe = ["--recipe", str(SMALL), "--data", str(digits)]
    return {
        "no recipe": ([str(folder / "good.pth")], r"which network is .*good.pth.* Add --recipe"),
        "no data": ([str(folder / "good.pth"), *of_recipe[:2]], r"on which images\? .* add --data DIR"),
        "another network": ([str(folder / "linear.pth"), *of_recipe], r"linear.pth is not a network of this recipe: "),
        "another depth": (
            [str(folder / "deeper.pth"), *of_recipe],
            r"deeper.pth is not a network of this recipe: 36 unexpected \(layer1.1.conv1.weight, ",
        ),
        "other number of classes": (
            [str(folder / "good.pth"), *of_recipe[:3], str(photos)],
            r"good.pth is for 10 classes, not 4: ",
        ),
        "other classes": (
            [str(finished), "--data", str(folder / "ten")],
            r"ten has other classes than the weights: class 0 is 'class0' instead of '0'",
        ),
        "damaged": ([str(folder / "cut.pth"), *of_recipe], r"error: .*cut.pth is damaged or holds more than tensors"),
        "not weights": ([str(folder / "text.txt"), *of_recipe], r"text.txt is damaged or holds more than tensors"),
        "not onnx": ([str(folder / "text.onnx"), *of_recipe], r"text.onnx (is not an ONNX network|needs onnxruntime)"),
        "not finite": ([str(folder / "nan.pth"), *of_recipe], r"the logits of 360 of 360 images are not finite"),
        "recipe for a run": ([str(finished), "--recipe", "resnet20_digits"], r"a run has its own"),
        "best of a file": ([str(folder / "good.pth"), *of_recipe, "--checkpoint", "best"], r"good.pth is a file"),
        "crop beyond the image": ([str(finished), "--crop-ratio", "1.5"], r"crop_ratio=1.5 is not within \(0, 1\]"),
        "both flags": ([str(finished), "--flip-tta", "--no-flip-tta"], r"use only one of them"),
        "resolution": ([str(finished), "--resolution", "9000"], r"resolution=9000 is more than 2,048 pixels"),
        "no folder for out": ([str(finished), "--out", str(folder / "no" / "x.json")], r"there is no folder"),
        "data that is not there": ([str(finished), "--data", str(folder / "no")], r"there is no such file or folder"),
        "data without images": ([str(finished), "--data", str(folder / "empty")], r"neither val.beton nor the folder"),
        "neither run nor file": ([str(folder)], r"is not the folder of a run"),
    }


def test_evaluate_every_mistake_is_tried(mistakes: dict[str, Mistake]) -> None:
    assert tuple(mistakes) == CASES


@pytest.mark.parametrize("name", CASES)
def test_evaluate_mistake_is_one_line(
    name: str, mistakes: dict[str, Mistake], capfd: pytest.CaptureFixture[str]
) -> None:
    words, answer = mistakes[name]
    assert main(["evaluate", *words]) == 2
    said = capfd.readouterr()
    assert said.out == ""
    assert re.fullmatch(r"error: [^\n]+\n", said.err), said.err
    assert re.search(answer, said.err), said.err


def test_network_that_needs_larger_images_says_so(
    digits: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    spec = LibraryModel(name="torchvision/squeezenet1_1")
    (tmp_path / "squeeze.py").write_text(recipe_source(replace(load_recipe(SMALL), model=spec)))
    torch.save(build_model(spec, 10).state_dict(), tmp_path / "squeeze.pth")
    words = [str(tmp_path / "squeeze.pth"), "--recipe", str(tmp_path / "squeeze.py"), "--data", str(digits)]
    assert main(["evaluate", *words, "--resolution", "4"]) == 2
    assert re.fullmatch(r"error: the network does not take images of 4 px: [^\n]+\n", capfd.readouterr().err)
