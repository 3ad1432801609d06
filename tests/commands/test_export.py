"""What export writes is loaded by others and computes the same; what it cannot write, it refuses in one line."""

import json
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from tests.support.full_disk import no_space_at
from tests.support.processes import SUPPORT
from trainer.__main__ import main
from trainer.commands.export import export as verb
from trainer.commands.export.export import torchvision_name
from trainer.commands.export.onnx import write_onnx
from trainer.commands.export.timm_folder import timm_network
from trainer.commands.export.torch_program import ABOUT, run_alone
from trainer.commands.onnx_network import OnnxNetwork
from trainer.commands.weights import Weights, run_weights
from trainer.errors import UserError
from trainer.evaluation.protocol import TrainedWeights
from trainer.model import build_model, without_pretrained
from trainer.recipe import EMA, CenterCrop, CifarResNet, LibraryModel, RandomResizedCrop, Recipe, ResNet, WideResNet
from trainer.recipe_file import load_recipe, recipe_source

pytestmark = pytest.mark.slow

SMALL = SUPPORT / "small_recipe.py"


def photo_recipe(model: ResNet | CifarResNet) -> Recipe:
    """One step on all 64 photographs, with an average."""
    return replace(
        load_recipe(SMALL),
        name="photo recipe/1",
        model=model,
        num_classes=4,
        train_crop=RandomResizedCrop(resolution=32),
        eval_crop=CenterCrop(resolution=32, crop_ratio=0.875),
        ema=EMA(decay=0.5),
        epochs=1,
        global_batch_size=32,
        micro_batch_size=32,
    )


def trained(recipe: Recipe, photos: Path, folder: Path) -> Path:
    (folder / "photo_recipe.py").write_text(recipe_source(recipe))
    words = ["train", str(folder / "photo_recipe.py"), "--data", str(photos), "--run-dir", str(folder / "run")]
    assert main(words) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def resnet(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of ResNet-18."""
    return trained(photo_recipe(ResNet(depth=18)), photos, tmp_path_factory.mktemp("resnet"))


@pytest.fixture(scope="module")
def cifar(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of the CIFAR family, which torchvision does not have."""
    return trained(photo_recipe(CifarResNet(depth=8)), photos, tmp_path_factory.mktemp("cifar"))


def averages(run_dir: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(run_dir / "checkpoints" / "best.pt", weights_only=True)["average"]
    return state


def evaluated(words: list[str], out: Path) -> dict[str, Any]:
    assert main(["evaluate", *words, "--out", str(out)]) == 0
    content: dict[str, Any] = json.loads(out.read_text())
    return content


def test_torchvision_loads_its_file_and_gives_our_logits(
    resnet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from torchvision import models

    assert main(["export", str(resnet), "--to", "torchvision"]) == 0
    said = capsys.readouterr().out
    assert "exponential moving average (decay 0.5 every step)" in said
    assert "torchvision's resnet18(num_classes=4) loads it with strict=True" in said
    state = torch.load(resnet / "photo_recipe_1.pth", weights_only=True)
    theirs = models.resnet18(num_classes=4)
    theirs.load_state_dict(state, strict=True)
    ours = build_model(ResNet(depth=18), 4)
    ours.load_state_dict(averages(resnet))
    images = torch.randn(2, 3, 40, 40, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(images), theirs.eval()(images), rtol=0, atol=1e-6)
    assert all(value.is_contiguous() for value in state.values())


def test_exported_file_evaluates_to_the_numbers_of_the_run(resnet: Path, photos: Path, tmp_path: Path) -> None:
    expected = evaluated([str(resnet)], tmp_path / "run.json")
    for kind, name in (("torchvision", "x.pth"), ("safetensors", "x.safetensors")):
        assert main(["export", str(resnet), "--to", kind, "--out", str(tmp_path / name)]) == 0
        words = [str(tmp_path / name), "--recipe", str(resnet / "recipe.py"), "--data", str(photos)]
        found = evaluated(words, tmp_path / f"{kind}.json")
        for number in ("top1", "top5", "loss", "ece", "classes", "bins"):
            assert found[number] == expected[number], (kind, number)
        assert found["protocol"]["images_seen"] == expected["protocol"]["images_seen"] == 24


def test_safetensors_say_what_they_are(cifar: Path, tmp_path: Path) -> None:
    from safetensors import safe_open

    out = tmp_path / "weights.safetensors"
    assert main(["export", str(cifar), "--to", "safetensors", "--out", str(out), "--checkpoint", "best"]) == 0
    with safe_open(out, "pt") as file:
        about = file.metadata()
        names = set(file.keys())
        assert all(torch.equal(file.get_tensor(name), value) for name, value in averages(cifar).items())
    assert names == set(averages(cifar))
    assert about["recipe"] == "photo recipe/1"
    assert "moving average" in about["weights"]
    assert json.loads(about["model"])["kind"] == "CifarResNet"
    assert json.loads(about["classes"]) == [f"class{number}" for number in range(4)]
    assert json.loads(about["eval_crop"]) == asdict(CenterCrop(resolution=32, crop_ratio=0.875))
    assert tuple(json.loads(about["mean"])) == load_recipe(SMALL).mean


def test_timm_loads_the_folder_and_gives_our_logits(
    resnet: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import timm
    from timm.data import create_transform, resolve_data_config

    assert main(["export", str(resnet), "--to", "timm"]) == 0
    assert main(["export", str(resnet), "--to", "timm"]) == 0  # in place of the first
    assert "'local-dir:FOLDER', pretrained=True) is resnet18 with these weights" in capsys.readouterr().out
    folder = resnet / "photo_recipe_1_timm"
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    ours = build_model(ResNet(depth=18), 4)
    ours.load_state_dict(averages(resnet))
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(images), theirs(images), rtol=0, atol=1e-6)
    config = theirs.pretrained_cfg
    assert list(config["label_names"]) == [f"class{number}" for number in range(4)]
    assert "moving average" in config["description"]
    assert not {"url", "hf_hub_id", "license", "origin_url"} & {key for key, value in config.items() if value}
    transform = create_transform(**resolve_data_config(model=theirs))
    resize, crop, _, normalize = transform.transforms
    assert (resize.size, tuple(crop.size)) == (36, (32, 32))  # 32 / 0.875 = 36.6
    assert tuple(normalize.mean.tolist()) == pytest.approx(load_recipe(SMALL).mean)
    (folder / "notes.txt").write_text("mine")
    assert main(["export", str(resnet), "--to", "timm"]) == 2
    assert "holds other files than an export (notes.txt)" in capsys.readouterr().err
    (folder / "notes.txt").unlink()


@pytest.mark.parametrize(
    "spec", [CifarResNet(depth=8), ResNet(depth=18, stem="cifar"), ResNet(depth=18, blur_pool="convs")]
)
def test_export_what_timm_does_not_have_is_refused_with_what_to_use(spec: ResNet | CifarResNet) -> None:
    recipe = photo_recipe(spec)
    model = build_model(spec, 4).eval()
    with pytest.raises(UserError, match="timm has no network like that of photo recipe/1: use --to safetensors, "):
        timm_network(model, recipe, lambda ours, theirs: not verb._difference(ours, theirs, recipe) <= verb.SAME)


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        (LibraryModel(name="timm/resnet18d.ra2_in1k"), "resnet18d"),
        (LibraryModel(name="torchvision/resnet34"), "resnet34"),
        (ResNet(depth=18, variant="d"), "resnet18d"),
    ],
)
def test_export_what_timm_has_is_found_by_its_parameters(spec: LibraryModel | ResNet, name: str) -> None:
    model = build_model(without_pretrained(spec), 4).eval()
    assert timm_network(model, replace(photo_recipe(CifarResNet(depth=8)), model=spec), lambda *_: False)[0] == name


def test_torch_export_runs_without_this_package_for_any_batch(
    cifar: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "weights.pt2"
    assert main(["export", str(cifar), "--to", "torch-export", "--out", str(out)]) == 0
    assert "torch.export.load in a process without this package" in capsys.readouterr().out
    about = {ABOUT: ""}
    program = torch.export.load(out, extra_files=about).module()
    assert json.loads(about[ABOUT])["recipe"] == "photo recipe/1"
    ours = build_model(CifarResNet(depth=8), 4)
    ours.load_state_dict(averages(cifar))
    for count in (1, 3, 7):
        images = torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(count))
        with torch.no_grad():
            torch.testing.assert_close(program(images), ours.eval()(images), rtol=0, atol=1e-4)


def test_torch_export_that_needs_this_package_is_refused(tmp_path: Path) -> None:
    """What a process without this package says of a file that is no program."""
    (tmp_path / "no.pt2").write_text("import trainer")
    with pytest.raises(UserError, match=r"the file does not run without this package: .*: nothing was written"):
        run_alone(tmp_path / "no.pt2", [torch.zeros(1)])


def test_onnx_computes_the_same_for_any_batch_and_is_evaluated(
    cifar: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    out = tmp_path / "weights.onnx"
    assert main(["export", str(cifar), "--to", "onnx", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert re.search(r"largest difference from PyTorch on random images [\d.e-]+\n", said)
    assert "this is NOT in the file" in said
    session = runtime.InferenceSession(out, providers=["CPUExecutionProvider"])
    ours = build_model(CifarResNet(depth=8), 4)
    ours.load_state_dict(averages(cifar))
    for count in (1, 3, 7):
        images = torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(count))
        (logits,) = session.run(["logits"], {"images": images.numpy()})
        with torch.no_grad():
            np.testing.assert_allclose(logits, ours.eval()(images).numpy(), atol=1e-4)
    assert session.get_modelmeta().custom_metadata_map["recipe"] == "photo recipe/1"
    words = [str(out), "--recipe", str(cifar / "recipe.py"), "--data", str(photos)]
    found = evaluated(words, tmp_path / "onnx.json")
    assert main(["export", str(cifar), "--to", "safetensors", "--out", str(tmp_path / "x.safetensors")]) == 0
    (tmp_path / "fp32.py").write_text(recipe_source(replace(load_recipe(cifar / "recipe.py"), precision="fp32")))
    words = [str(tmp_path / "x.safetensors"), "--recipe", str(tmp_path / "fp32.py"), "--data", str(photos)]
    expected = evaluated(words, tmp_path / "fp32.json")
    assert (found["protocol"]["precision"], found["top1"], found["classes"]) == (
        "fp32",
        expected["top1"],
        expected["classes"],
    )
    assert found["loss"] == pytest.approx(expected["loss"], abs=1e-5)
    assert main(["evaluate", *words[1:], str(out), "--resolution", "24"]) == 2
    assert "the network does not take images of 24 px" in capsys.readouterr().err


@pytest.mark.parametrize(
    "model",
    [
        ResNet(depth=18, variant="rs", se_ratio=1 / 4, dropout=0.5),
        CifarResNet(depth=11, preactivation=True, bottleneck=True),
        WideResNet(depth=10, width=1, dropout=0.3),
    ],
)
def test_onnx_of_the_relatives_computes_the_same(model: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    network, x = build_model(model, 4).eval(), torch.randn(3, 3, 33, 33)
    write_onnx(network, 33, {}, tmp_path / "weights.onnx")
    with torch.no_grad():
        torch.testing.assert_close(OnnxNetwork(tmp_path / "weights.onnx", 4)(x), network(x), atol=1e-4, rtol=1e-3)


def test_export_without_an_average_says_so(cifar: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A copy of the run whose recipe and checkpoint have none."""
    state = torch.load(cifar / "checkpoints" / "best.pt", weights_only=True)
    (tmp_path / "recipe.py").write_text(recipe_source(replace(load_recipe(cifar / "recipe.py"), ema=None)))
    from trainer.run.checkpoint import write

    write(tmp_path / "checkpoints" / "step_00000002.pt", {**state, "average": None})
    assert main(["export", str(tmp_path), "--to", "safetensors"]) == 0
    assert "  weights   after 2 of 2 steps, no averaging\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (CifarResNet(depth=8), "it has no CIFAR family"),
        (ResNet(depth=18, stem="cifar"), "its stem is for small images"),
        (ResNet(depth=18, residual=False), "it has no shortcuts"),
        (ResNet(depth=18, blur_pool="convs"), "filters before its strided convolutions"),
        (ResNet(depth=50, variant="d"), "it has variant=d and se_ratio=None"),
        (ResNet(depth=50, se_ratio=1 / 16), r"it has variant=b and se_ratio=0\.0625"),
        (ResNet(depth=101, groups=32, width_per_group=4), "it has groups=32 and width_per_group=4 in depth 101"),
        (WideResNet(depth=28, width=10), "it has no CIFAR family"),
        (LibraryModel(name="timm/resnet50d"), "timm/resnet50d is not one of its models"),
    ],
)
def test_export_what_torchvision_does_not_have_is_refused_with_the_reason(model: Any, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        torchvision_name(replace(load_recipe(SMALL), model=model))


def test_export_what_torchvision_has_is_named() -> None:
    named = {depth: torchvision_name(replace(load_recipe(SMALL), model=ResNet(depth=depth))) for depth in (18, 50, 152)}
    assert named == {18: "resnet18", 50: "resnet50", 152: "resnet152"}
    relatives = [
        ResNet(depth=50, groups=32, width_per_group=4),
        ResNet(depth=101, groups=32, width_per_group=8),
        ResNet(depth=101, groups=64, width_per_group=4),
        ResNet(depth=50, width_per_group=128),
        ResNet(depth=101, width_per_group=128),
    ]
    for model in relatives:
        with torch.device("meta"):
            name = torchvision_name(replace(load_recipe(SMALL), model=model))
            theirs = models.get_model(name, num_classes=4).state_dict()
            assert {key: tensor.shape for key, tensor in theirs.items()} == {
                key: tensor.shape for key, tensor in build_model(model, 4).state_dict().items()
            }
    library = LibraryModel(name="torchvision/resnext50_32x4d")
    assert torchvision_name(replace(load_recipe(SMALL), model=library)) == "resnext50_32x4d"


MISTAKES = {
    "torchvision": ([], r"torchvision has no network like that of photo recipe/1: it has no CIFAR family"),
    "suffix": (["--out", "x.pth"], r"--out x.pth: a file for safetensors ends in .safetensors"),
    "timm": (["--out", "."], r"--out .: this command runs in it, and would replace it: name a folder in it"),
    "folder": (["--out", "no/where/x.safetensors"], r"there is no folder no/where"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_export_mistake_is_one_line_and_nothing_is_written(
    name: str, cifar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words, answer = MISTAKES[name]
    monkeypatch.chdir(tmp_path)
    before = sorted(cifar.iterdir())
    kind = name if name in ("torchvision", "timm") else "safetensors"
    assert main(["export", str(cifar), "--to", kind, *words]) == 2
    assert re.fullmatch(
        rf"error: {answer}[^\n]*\n", capfd.readouterr().err.replace("--out no/where/x.safetensors: ", "")
    )
    assert sorted(cifar.iterdir()) == before
    assert list(tmp_path.iterdir()) == []


def test_export_does_not_replace_the_folder_that_it_runs_in(
    cifar: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Without --out the folder has a name of its own, and the command may run in an earlier export."""
    folder = cifar / "photo_recipe_1_timm"
    folder.mkdir()
    try:
        monkeypatch.chdir(folder)
        assert main(["export", "..", "--to", "timm"]) == 2
        said = capfd.readouterr().err
        assert "photo_recipe_1_timm: this command runs in it, and would replace it: give an --out" in said
        assert not list(folder.iterdir())
    finally:
        folder.rmdir()


def test_checkpoint_is_never_overwritten(resnet: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    best = resnet / "checkpoints" / "best.pt"
    before = best.read_bytes()
    (tmp_path / "link").symlink_to(resnet / "checkpoints")
    for out in (best, tmp_path / "link" / "best.pt", resnet / "checkpoints" / ".." / "checkpoints" / "best.pt"):
        assert main(["export", str(resnet), "--to", "torchvision", "--out", str(out)]) == 2
        assert "is among the checkpoints of a run" in capfd.readouterr().err
    assert best.read_bytes() == before
    other = tmp_path / "other" / "checkpoints" / "best.pt"
    other.parent.mkdir(parents=True)
    (tmp_path / "other" / "recipe.py").write_text((resnet / "recipe.py").read_text())
    assert main(["export", str(resnet), "--to", "torchvision", "--out", str(other)]) == 2
    assert f"--out {other} is among the checkpoints of a run: choose another folder\n" in capfd.readouterr().err
    assert not other.exists()


@pytest.mark.parametrize("leads", [True, False])
def test_export_of_a_folder_does_not_begin_where_a_link_is(
    leads: bool, cifar: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    link, there = tmp_path / "link", tmp_path / "there"
    link.symlink_to(there)
    if leads:
        there.mkdir()
    assert main(["export", str(cifar), "--to", "timm", "--out", str(link)]) == 2
    assert f"{link} is a link: name the folder it leads to, {there}\n" in capfd.readouterr().err
    assert link.is_symlink() and not list(tmp_path.rglob("*/*"))


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors", "x.pt2", "x.onnx"])
def test_export_full_disk_is_one_line(
    name: str, resnet: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    kind = next(kind for kind, suffixes in verb.SUFFIXES.items() if Path(name).suffix in suffixes)
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    no_space_at(tmp_path / f"{name}.partial")
    assert main(["export", str(resnet), "--to", kind, "--out", str(tmp_path / name)]) == 2
    assert capfd.readouterr().err == f"error: {tmp_path / name} cannot be written: No space left on device\n"
    assert not list(tmp_path.iterdir())


def test_file_that_computes_something_else_is_not_kept(
    resnet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """With a limit that nothing keeps; what was there before stays."""
    monkeypatch.setattr(verb, "SAME", -1.0)
    old = tmp_path / "old.pth"
    old.write_text("as it was")
    assert main(["export", str(resnet), "--to", "torchvision", "--out", str(old)]) == 2
    assert re.search(r"logits of torchvision's resnet18 differ by .*: nothing was written", capfd.readouterr().err)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["as it was"]


@pytest.mark.parametrize("kind", ["timm", "onnx", "torch-export"])
@pytest.mark.parametrize("wrong", [1.0, float("nan")])
def test_export_refuses_what_others_compute_differently(
    kind: str, wrong: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stand-ins for the other programs compute the same at first, and then something else."""
    recipe = replace(load_recipe(SMALL), eval_crop=CenterCrop(resolution=8, crop_ratio=1.0))
    model, error = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10)).eval(), 0.0

    class Theirs(nn.Module):
        runtime = "onnxruntime 1"

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = model(images)
            return logits + error * (torch.arange(len(logits)) == len(logits) - 1).float()[:, None]  # of the last image

    monkeypatch.setattr(verb, "OnnxNetwork", lambda *_: Theirs())
    monkeypatch.setattr(verb, "run_alone", lambda _, inputs: [Theirs()(images) for images in inputs])
    monkeypatch.setattr(verb, "timm_network", lambda *_: ("resnet18", model))
    monkeypatch.setattr(verb, "load_folder", lambda *_: Theirs())
    monkeypatch.setattr(verb, "write_config", lambda *_: None)
    weights = cast(Weights, SimpleNamespace(recipe=recipe))
    checks: dict[str, Callable[[], str]] = {
        "timm": lambda: verb._write_timm(model, weights, "", {}, tmp_path),
        "onnx": lambda: verb._check_onnx(model, recipe, tmp_path),
        "torch-export": lambda: verb._check_program(model, recipe, tmp_path),
    }
    assert checks[kind]().endswith(" 0")
    error = wrong
    with pytest.raises(UserError, match=rf"differ by {wrong:g}.*, more than .*: nothing was written"):
        checks[kind]()


def test_export_reads_safetensors_back(tmp_path: Path) -> None:
    model, about, file = nn.Linear(2, 3), {"recipe": "a"}, tmp_path / "x.safetensors"
    state = model.state_dict()
    verb._save_tensors(state, about, file)
    assert verb._check_safetensors(model, about, file).startswith("2 tensors read back, bit for bit")
    for tensors, metadata, answer in (
        ({**state, "bias": state["bias"] + torch.tensor([0.0, 0.0, 1e-3])}, about, "does not hold what was written"),
        ({"weight": state["weight"]}, about, "does not hold what was written"),
        (state, {"recipe": "b"}, "metadata is not what was written"),
    ):
        verb._save_tensors(tensors, metadata, file)
        with pytest.raises(UserError, match=answer):
            verb._check_safetensors(model, about, file)


def test_export_no_run_and_no_checkpoint_are_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(tmp_path), "--to", "onnx"]) == 2
    assert "is not the folder of a run" in capfd.readouterr().err
    (tmp_path / "recipe.py").write_text(recipe_source(load_recipe(SMALL)))
    assert main(["export", str(tmp_path), "--to", "onnx"]) == 2
    assert "holds no checkpoint that can be read (there is none yet)" in capfd.readouterr().err


def test_weights_of_a_result_come_first(cifar: Path) -> None:
    from trainer.run.directory import Run

    weights = run_weights(Run(cifar), "newest")
    averaging = [trained.averaging for trained, _ in weights.networks if isinstance(trained, TrainedWeights)]
    assert list(map(str, averaging)) == ["exponential moving average (decay 0.5 every step)", "None"]
