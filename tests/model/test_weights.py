"""Weights to start from, out of a file: they fit wholly or not at all, but for a head with other classes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models

from trainer import recipe
from trainer.errors import UserError
from trainer.model import build_model, load_initial_weights

SPEC = recipe.CifarResNet(depth=8)


def build(num_classes: int = 10, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build_model(SPEC, num_classes)


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def copy(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in state.items()}


# --------------------------------------------------------------------------------------------------------- a file


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"model": state, "epoch": 3},
        lambda state: {"state_dict": state},
        lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
        lambda state: {"model": {f"module._orig_mod.{name}": tensor for name, tensor in state.items()}},
        lambda state: {f"_orig_mod.module.{name}": tensor for name, tensor in state.items()},
    ],
    ids=["bare", "model", "state_dict", "DDP", "compiled in DDP", "DDP compiled"],
)
@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_saved_model_comes_back(tmp_path: Path, suffix: str, wrap: Callable[[object], object]) -> None:
    state = build(seed=1).state_dict()
    torch.save(wrap(state), tmp_path / f"weights{suffix}")
    model = build(seed=2)
    assert not same(model.state_dict(), state)
    sentence = load_initial_weights(model, tmp_path / f"weights{suffix}")
    assert same(model.state_dict(), state)
    key = next((f", {name}" for name in ("model", "state_dict") if name in wrap(state)), "")  # type: ignore[operator]
    assert sentence == f"initial weights: {len(state)} tensors of {tmp_path}/weights{suffix}{key}"


def test_safetensors_file_is_read(tmp_path: Path) -> None:
    state = build(seed=1).state_dict()
    save_file(state, tmp_path / "weights.safetensors")
    model = build(seed=2)
    load_initial_weights(model, tmp_path / "weights.safetensors")
    assert same(model.state_dict(), state)


@pytest.mark.slow
def test_torchvisions_file_starts_our_network(tmp_path: Path) -> None:
    theirs = models.resnet18(num_classes=10)
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    ours = build_model(recipe.ResNet(depth=18), 10)
    load_initial_weights(ours, tmp_path / "weights.pth")
    assert same(ours.state_dict(), theirs.state_dict())


def test_weights_different_number_of_classes_keeps_the_new_head_and_says_so(tmp_path: Path) -> None:
    theirs = build(num_classes=1000, seed=1).state_dict()
    torch.save(theirs, tmp_path / "weights.pt")
    model = build(num_classes=10, seed=2)
    before = copy(model.state_dict())
    sentence = load_initial_weights(model, tmp_path / "weights.pt")
    after = model.state_dict()
    assert torch.equal(after["fc.weight"], before["fc.weight"]) and torch.equal(after["fc.bias"], before["fc.bias"])
    trunk = [name for name in theirs if not name.startswith("fc.")]
    assert len(trunk) == len(theirs) - 2
    assert all(torch.equal(after[name], theirs[name]) for name in trunk)
    assert sentence.endswith(
        "fc.weight and fc.bias stay as initialised, because the file has 1000 classes and the model 10"
    )


@pytest.mark.parametrize(
    ("stated", "difference"),
    [
        ([*"abcdefghij"], None),
        (None, None),
        ([*"bacdefghij"], "class 0 is 'b' in the file and 'a' in the data"),
        ([*"abcdefghik"], "class 9 is 'k' in the file and 'j' in the data"),
    ],
)
def test_classifier_is_new_where_the_file_states_other_classes(
    tmp_path: Path, stated: list[str] | None, difference: str | None
) -> None:
    """The shapes are the same. Only the class names tell that its outputs are of other classes, or in another order."""
    theirs = build(seed=1).state_dict()
    torch.save({"model": theirs, "classes": stated}, tmp_path / "weights.pt")
    model = build(seed=2)
    before = copy(model.state_dict())
    sentence = load_initial_weights(model, tmp_path / "weights.pt", classes=[*"abcdefghij"])
    after = model.state_dict()
    kept = [
        name for name in after if torch.equal(after[name], before[name]) and not torch.equal(after[name], theirs[name])
    ]
    assert kept == (["fc.weight", "fc.bias"] if difference else [])
    assert all(torch.equal(after[name], theirs[name]) for name in after if name not in kept)
    new = f"; fc.weight and fc.bias stay as initialised, because {difference}" if difference else ""
    assert sentence == f"initial weights: {len(theirs) - len(kept)} tensors of {tmp_path}/weights.pt, model{new}"


def test_file_from_before_norms_counted_batches_is_complete(tmp_path: Path) -> None:
    state = build(seed=1).state_dict()
    old = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    assert len(state) - len(old) == 7
    torch.save(old, tmp_path / "weights.pt")
    model = build(seed=2)
    load_initial_weights(model, tmp_path / "weights.pt")
    assert same(model.state_dict(), state)


def test_weights_half_precision_weights_become_float32(tmp_path: Path) -> None:
    torch.save({name: t.half() for name, t in build(seed=1).state_dict().items()}, tmp_path / "weights.pt")
    model = build(seed=2)
    load_initial_weights(model, tmp_path / "weights.pt")
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def without(*names: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in build(seed=1).state_dict().items() if name not in names}


MISFITS: dict[str, tuple[object, str]] = {
    "another depth": (
        build_model(recipe.CifarResNet(depth=14), 10).state_dict(),
        r"36 unexpected \(layer1\.1\.conv1\.weight, .* and 33 more\)",
    ),
    "a headless trunk": (without("fc.weight", "fc.bias"), r"2 missing \(fc\.weight, fc\.bias\)$"),
    "another stem": (
        without() | {"conv1.weight": torch.zeros(16, 3, 7, 7)},
        r"1 of another shape \(conv1\.weight \[16, 3, 7, 7\] for \[16, 3, 3, 3\]\)$",
    ),
    "another width before the head": (
        without() | {"fc.weight": torch.zeros(7, 128), "fc.bias": torch.zeros(7)},
        r"1 of another shape \(fc\.weight \[7, 128\] for \[10, 64\]\)$",
    ),
    "a scalar in the head": (without() | {"fc.bias": torch.tensor(0.0)}, r"fc\.bias \[\] for \[10\]"),
    "everything at once": (
        without("bn1.bias") | {"bn9.bias": torch.zeros(1), "bn1.weight": torch.zeros(1)},
        r"1 missing \(bn1\.bias\); 1 unexpected \(bn9\.bias\); 1 of another shape \(bn1\.weight \[1\] for \[16\]\)$",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", MISFITS)
def test_weights_that_do_not_fit_are_refused_and_change_nothing(tmp_path: Path, case: str) -> None:
    content, message = MISFITS[case]
    torch.save(content, tmp_path / "weights.pt")
    model = build(seed=2)
    before = copy(model.state_dict())
    with pytest.raises(UserError, match=message):
        load_initial_weights(model, tmp_path / "weights.pt")
    assert same(model.state_dict(), before)


def test_weights_files_that_are_no_weights_are_refused_in_one_line(tmp_path: Path) -> None:
    def save(name: str, content: object) -> Path:
        torch.save(content, tmp_path / name)
        return tmp_path / name

    def write(name: str, content: bytes) -> Path:
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    whole = save("whole.pt", build().state_dict()).read_bytes()
    cases = {
        "there is no file": [tmp_path / "nowhere.pt", tmp_path],
        "is empty": [write("empty.h5", b""), write("empty.pth", b""), write("empty.safetensors", b"")],
        "is an HDF5 file": [write("weights.h5", b"\x89HDF\r\n\x1a\n")],
        "is a pointer of Git LFS": [write("lfs.pt", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")],
        "is an HTML or XML page": [write("page.pth", b"\n<!DOCTYPE html><html>")],
        "is damaged or holds more": [
            write("text.pt", b"hello, this is no pickle"),
            save("reference.pth", {"model": build().state_dict(), "args": Path("no plain value")}),
            write("cut.pt", whole[: len(whole) // 2]),
            write("text.safetensors", b"hello, this is no header of a safetensors file"),
        ],
        "holds a list, not a state_dict": [save("list.pt", [torch.zeros(1)])],
        "holds a dict, not a state_dict": [save("nothing.pt", {})],
        "2 entries are not tensors (epoch, lr)": [save("numbers.pt", {"epoch": 1, "lr": 0.1})],
    }
    count = 0
    for message, files in cases.items():
        for file in files:
            with pytest.raises(UserError) as caught:
                load_initial_weights(build(), file)
            assert message in str(caught.value) and str(file) in str(caught.value)
            assert "\n" not in str(caught.value)
            count += 1
    assert count == 15
