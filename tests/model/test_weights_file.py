"""Weights as other programs save them: known by content, and a choice between two is stated."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.support.processes import SUPPORT
from tests.support.small_checkpoint import checkpoint_content
from trainer import recipe
from trainer.commands.weights import file_weights
from trainer.errors import UserError
from trainer.evaluation.protocol import WeightsFile
from trainer.model import build_model, load_initial_weights
from trainer.model.weights_file import StateDict, read_weights_file, state_dict_in
from trainer.recipe import EMA
from trainer.recipe_file import load_recipe, recipe_source
from trainer.run import checkpoint
from trainer.run.state import Position
from trainer.settings import TrainSettings

State = dict[str, Tensor]
SPEC = recipe.CifarResNet(depth=8)
PLAIN: State = build_model(SPEC, 10).state_dict()
AVERAGE: State = {name: value + 1 for name, value in PLAIN.items()}
OPTIONS = argparse.Namespace(model="resnet8", lr=0.1)
OPTIMIZER = {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}


def prefixed(prefix: str, state: State = PLAIN) -> State:
    return {prefix + name: value for name, value in state.items()}


def found_in(file: Path, key: str | None = None) -> StateDict:
    return state_dict_in(read_weights_file(file), file, key)


# name of the file -> content, where the weights are, whether they are the average, and the prefix that is said
LIGHTNING = {"state_dict": prefixed("model."), "hyper_parameters": {}}
COMPOSER = {"model": prefixed("module."), "optimizers": {"SGD": {"state": {"fc.bias": {"buffer": torch.zeros(2)}}}}}
FILES: dict[str, tuple[object, str, bool, str]] = {
    "torchvision.pth": ({"model": PLAIN, "optimizer": OPTIMIZER, "args": OPTIONS}, "model", False, ""),
    "torchvision_ema.pth": (
        {"model": PLAIN, "model_ema": prefixed("module.", AVERAGE) | {"n_averaged": torch.tensor(3)}, "args": OPTIONS},
        "model_ema", True, "",
    ),
    "best.pth.tar": ({"state_dict": prefixed("module."), "optimizer": OPTIMIZER}, "state_dict", False, ""),
    "timm": ({"state_dict": PLAIN, "state_dict_ema": AVERAGE, "args": OPTIONS}, "state_dict_ema", True, ""),
    "pycls.pyth": ({"model_state": PLAIN, "optimizer_state": OPTIMIZER, "cfg": "a: 1"}, "model_state", False, ""),
    "pycls_ema.pyth": ({"model_state": PLAIN, "ema_state": AVERAGE}, "ema_state", True, ""),
    "composer.pt": ({"state": COMPOSER, "rng": []}, "state.model", False, ""),
    "lightning.ckpt": (LIGHTNING, "state_dict", False, "model."),
    "moco.bin": ({"state_dict": prefixed("module.backbone.encoder.")}, "state_dict", False, "backbone.encoder."),
    "compiled.bin": (prefixed("module._orig_mod."), "", False, ""),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_weights_of_other_programs_are_found_whatever_the_files_name(tmp_path: Path, name: str) -> None:
    content, key, averaged, prefix = FILES[name]
    torch.save(content, tmp_path / name)
    model = build_model(SPEC, 10)
    sentence = load_initial_weights(model, tmp_path / name)
    wanted = AVERAGE if averaged else PLAIN
    assert all(torch.equal(value, wanted[name]) for name, value in model.state_dict().items())
    assert f"tensors of {tmp_path / name}{f', {key}' if key else ''}" in sentence
    assert ("--weights-key chooses" in sentence) == averaged
    assert (f"{prefix!r} was taken from the start of every name" in sentence) == bool(prefix)
    assert (
        name != "timm" or "the file also holds state_dict: its averaged weights, state_dict_ema, are used" in sentence
    )


def test_weights_of_safetensors_are_known_by_content(tmp_path: Path) -> None:
    save_file(PLAIN, tmp_path / "model.bin")
    assert found_in(tmp_path / "model.bin").tensors.keys() == PLAIN.keys()


def test_file_of_torch_is_read_whatever_its_name(tmp_path: Path) -> None:
    torch.save(PLAIN, tmp_path / "model.safetensors")
    ((_, network),) = file_weights(tmp_path / "model.safetensors", str(SUPPORT / "small_recipe.py")).networks
    assert isinstance(network, dict) and network.keys() == PLAIN.keys()


def test_class_names_that_a_file_states_are_read_whatever_its_name(tmp_path: Path) -> None:
    """In the metadata of safetensors, and as a value of a checkpoint, whichever of its weights are taken."""
    save_file(PLAIN, tmp_path / "model.bin", {"classes": '["cat", "dog"]'})
    assert file_weights(tmp_path / "model.bin", str(SUPPORT / "small_recipe.py")).classes == ["cat", "dog"]
    torch.save({"model": prefixed("model."), "ema": AVERAGE, "classes": ["cat", "dog"]}, tmp_path / "model.pth")
    for key in ("model", None):
        found = found_in(tmp_path / "model.pth", key).fitted(PLAIN.keys())
        assert (found.classes, found.tensors.keys()) == (["cat", "dog"], PLAIN.keys())


@pytest.mark.parametrize("stated", ["no JSON", "[]", "{}", '[["cat"]]', "null", "3"])
def test_file_that_states_no_class_names_has_none(stated: str, tmp_path: Path) -> None:
    save_file(PLAIN, tmp_path / "model.safetensors", {"classes": stated})
    assert found_in(tmp_path / "model.safetensors").classes is None


def test_weights_key_chooses_and_a_wrong_one_lists_them(tmp_path: Path) -> None:
    torch.save({"state_dict": PLAIN, "state_dict_ema": AVERAGE}, tmp_path / "weights.pth")
    assert torch.equal(found_in(tmp_path / "weights.pth", "state_dict").tensors["fc.bias"], PLAIN["fc.bias"])
    with pytest.raises(UserError, match=r"--weights-key nope: .* has weights at state_dict, state_dict_ema"):
        found_in(tmp_path / "weights.pth", "nope")


def test_weights_without_an_obvious_choice_are_the_users(tmp_path: Path) -> None:
    torch.save({"student": PLAIN, "teacher": AVERAGE}, tmp_path / "weights.pth")
    with pytest.raises(UserError, match="holds several weights, student, teacher: choose one with --weights-key"):
        found_in(tmp_path / "weights.pth")
    assert found_in(tmp_path / "weights.pth", "teacher").key == "teacher"


def test_evaluated_weights_of_a_file_are_named_in_notes_and_protocol(tmp_path: Path) -> None:
    torch.save({"state_dict": prefixed("model."), "state_dict_ema": prefixed("model.", AVERAGE)}, tmp_path / "timm.tar")
    found = file_weights(tmp_path / "timm.tar", str(SUPPORT / "small_recipe.py"))
    ((weights, network),) = found.networks
    assert isinstance(weights, WeightsFile) and weights.key == "state_dict_ema"
    assert "weights of state_dict_ema in timm.tar (sha256:" in weights.text()
    assert isinstance(network, dict) and torch.equal(network["fc.bias"], AVERAGE["fc.bias"])
    assert [note.split(",")[0] for note in found.notes] == [
        "the file also holds state_dict: its averaged weights", "'model.' was taken from the start of every name"
    ]  # fmt: skip
    plain = file_weights(tmp_path / "timm.tar", str(SUPPORT / "small_recipe.py"), "state_dict")
    assert isinstance(plain.networks[0][1], dict) and torch.equal(plain.networks[0][1]["fc.bias"], PLAIN["fc.bias"])


def test_weights_key_chooses_within_a_checkpoint_of_our_own(tmp_path: Path) -> None:
    averaging = replace(load_recipe(SUPPORT / "small_recipe.py"), ema=EMA(decay=0.9))
    (tmp_path / "recipe.py").write_text(recipe_source(averaging))
    place = asdict(Position(steps_per_epoch=14, epoch=1))
    content = checkpoint_content(position=place, model=PLAIN, average=AVERAGE)
    checkpoint.write(tmp_path / "checkpoints" / "step_00000014.pt", content)

    def found(key: str | None, file: str = "step_00000014.pt") -> list[dict[str, torch.Tensor] | Path]:
        return [network for _, network in file_weights(tmp_path / "checkpoints" / file, None, key).networks]

    both = found(None)
    assert len(both) == 2
    for key, wanted in (("model", PLAIN), ("average", AVERAGE)):
        (network,) = found(key)
        assert isinstance(network, dict) and torch.equal(network["fc.bias"], wanted["fc.bias"])
    with pytest.raises(UserError, match=r"--weights-key nope: .*step_00000014\.pt has weights at average, model"):
        found("nope")
    checkpoint.write(tmp_path / "checkpoints" / "step_00000028.pt", {**content, "average": None})
    with pytest.raises(UserError, match=r"--weights-key average: .*step_00000028\.pt has weights at model"):
        found("average", "step_00000028.pt")


def test_weights_beside_a_recipe_of_the_users_own_are_not_taken_for_its_run(tmp_path: Path) -> None:
    """Nothing says that they come from it, with its seed."""
    shutil.copy(SUPPORT / "small_recipe.py", tmp_path / "recipe.py")
    (tmp_path / "downloads").mkdir()
    torch.save(PLAIN, tmp_path / "downloads" / "weights.pt")
    with pytest.raises(UserError, match=r"which network is .*weights\.pt, and how is it evaluated\? Add --recipe NAME"):
        file_weights(tmp_path / "downloads" / "weights.pt", None)


def test_weights_key_is_refused_where_there_is_nothing_to_choose(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").touch()
    with pytest.raises(UserError, match=r"--weights-key model: .*a\.onnx is an ONNX file, which holds one network"):
        file_weights(tmp_path / "a.onnx", str(SUPPORT / "small_recipe.py"), "model")
    with pytest.raises(ValueError, match="--weights-key model chooses among weights of a file: add --initial-weights"):
        TrainSettings(data="synthetic:100", run_dir=tmp_path, weights_key="model")


class Payload:
    """What a malicious file would build."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (Path("ran"),)


def test_weights_file_runs_no_code_and_the_blocked_name_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": PLAIN, "args": Payload()}, tmp_path / "bad.pth")
    with pytest.raises(
        UserError, match=r"bad\.pth is damaged or holds more than tensors \(it wants .*, which may run code\)"
    ):
        read_weights_file(tmp_path / "bad.pth")
    assert not (tmp_path / "ran").exists()
    namespace = argparse.Namespace(hook=Payload())
    torch.save({"model": PLAIN, "args": namespace}, tmp_path / "inner.pth")
    with pytest.raises(UserError, match="holds more than tensors"):
        read_weights_file(tmp_path / "inner.pth")


def test_recipe_that_is_loaded_for_a_file_has_the_network_of_the_tests() -> None:
    assert load_recipe(str(SUPPORT / "small_recipe.py")).model == SPEC
