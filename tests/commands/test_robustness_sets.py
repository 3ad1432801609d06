"""evaluate on a subset of the network's classes, and with several correct labels. timm and torch are oracles."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from timm.data import ImageNetInfo, RealLabelsImagenet, imagenet_info
from torch import nn

from tests.support.processes import SUPPORT
from trainer.__main__ import main
from trainer.commands.evaluate.classes import RestrictedNetwork, class_positions, is_part_of
from trainer.commands.evaluate.evaluate import _answers
from trainer.commands.evaluate.real_labels import read_real_labels
from trainer.commands.weights import Weights
from trainer.data.crop import eval_view
from trainer.data.device import device_batches
from trainer.data.encoded import EncodedSource
from trainer.data.image_folder import ImageFolderSource
from trainer.data.loader import Loader
from trainer.errors import UserError
from trainer.evaluation.protocol import Protocol
from trainer.model import build_model
from trainer.recipe import CenterCrop, CifarResNet
from trainer.recipe_file import load_recipe, recipe_source
from trainer.weights_settings import EvaluateSettings

RECIPE = replace(
    load_recipe(SUPPORT / "small_recipe.py"),
    name="ten classes",
    model=CifarResNet(depth=8),
    eval_crop=CenterCrop(resolution=32, crop_ratio=0.875),
    precision="fp32",
)
CLASSES = ["class3", "x0", "class1", "x1", "class0", "x2", "x3", "class2", "x4", "x5"]
IMAGENET = ImageNetInfo().label_names()


@pytest.fixture(scope="module")
def place(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of ten classes, of which the photographs have four; each photograph with a name as of ImageNet."""
    folder = tmp_path_factory.mktemp("robustness")
    (folder / "recipe.py").write_text(recipe_source(RECIPE))
    torch.manual_seed(0)
    state = build_model(RECIPE.model, 10).state_dict()
    save_file(state, folder / "ten.safetensors", {"classes": json.dumps(CLASSES)})
    for number, path in enumerate(sorted((photos / "val").glob("*/*.jpg")), 1):
        to = folder / "val" / path.parent.name / f"ILSVRC2012_val_{number:08}.JPEG"
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, to)
    return folder


@pytest.fixture(scope="module")
def source(place: Path) -> ImageFolderSource:
    return ImageFolderSource(place / "val")


@pytest.fixture(scope="module")
def logits(source: ImageFolderSource) -> torch.Tensor:
    """All ten for each image, in the order of the folder: [24, 10]."""
    torch.manual_seed(0)
    network, crop = build_model(RECIPE.model, 10).eval(), RECIPE.eval_crop
    with Loader(source, workers=1) as loader, torch.inference_mode():
        batches = loader.batches([np.arange(24)], eval_view(crop), crop.resolution)
        (batch,) = device_batches(batches, torch.device("cpu"), RECIPE.mean, RECIPE.std)
        found: torch.Tensor = network(batch.images)
    return found


def evaluated(place: Path, *words: str) -> dict[str, Any]:
    out = place / "out.json"
    always = [str(place / "ten.safetensors"), "--recipe", str(place / "recipe.py"), "--out", str(out)]
    assert main(["evaluate", *always, "--data", str(place / "val"), *words]) == 0
    content: dict[str, Any] = json.loads(out.read_text())
    return content


def test_evaluate_restricts_logits_to_the_images_classes_and_says_so(
    place: Path, logits: torch.Tensor, source: ImageFolderSource, capsys: pytest.CaptureFixture[str]
) -> None:
    found = evaluated(place)
    restricted = logits[:, [CLASSES.index(name) for name in source.classes]]
    labels = torch.from_numpy(source.labels)
    assert found["top1"] == pytest.approx(100 * float((restricted.argmax(1) == labels).float().mean()))
    assert found["loss"] == pytest.approx(float(nn.functional.cross_entropy(restricted, labels)), abs=1e-5)
    assert found["protocol"]["restricted_to"] == 4
    assert "logits restricted to these 4 classes; weights of ten.safetensors" in found["protocol_text"]
    assert "restricted to these 4 classes" in capsys.readouterr().out
    assert Protocol.from_dict(found["protocol"]).restricted_to == 4


def test_evaluate_real_labels_are_those_of_timm(
    place: Path, logits: torch.Tensor, source: ImageFolderSource, tmp_path: Path
) -> None:
    """Several correct labels, some of them of the network alone, and images without any, which do not count."""
    rng = np.random.default_rng(0)
    table = [sorted(map(int, rng.choice(10, size=int(rng.integers(0, 4)), replace=False))) for _ in range(24)]
    (tmp_path / "real.json").write_text(json.dumps(table))
    in_folder = [CLASSES.index(name) for name in source.classes]
    usable = [sorted({*labels} & {*in_folder}) for labels in table]
    assert [] in table and any(labels and not kept for labels, kept in zip(table, usable, strict=True))
    (tmp_path / "usable.json").write_text(json.dumps(usable))
    oracle = RealLabelsImagenet([source.where(image) for image in range(24)], str(tmp_path / "usable.json"))
    oracle.real_labels = {Path(source.where(image)).name: usable[image] for image in range(24)}
    masked = torch.full_like(logits, -torch.inf)
    masked[:, in_folder] = logits[:, in_folder]
    oracle.add_result(masked)
    found = evaluated(place, "--real", str(tmp_path / "real.json"))
    assert found["top1"] == pytest.approx(oracle.get_accuracy(1))
    assert found["top5"] == pytest.approx(oracle.get_accuracy(5))
    protocol = found["protocol"]
    assert (protocol["images_seen"], protocol["images_total"]) == (sum(map(bool, usable)), 24)
    assert protocol["real_labels"].startswith("sha256:")
    assert "ReaL labels sha256:" in found["protocol_text"]
    assert "classes" not in found  # an image has no one class


def test_real_labels_of_timms_table_are_timms(source: ImageFolderSource) -> None:
    theirs = RealLabelsImagenet([f"ILSVRC2012_val_{number:08}.JPEG" for number in range(1, 50_001)]).real_labels
    ours = read_real_labels(Path("timm"), source, 1000, None)
    assert ours.right.shape == (24, 1000)
    for image in range(24):
        assert ours.right[image].nonzero().flatten().tolist() == sorted(theirs[Path(source.where(image)).name])


def test_real_labels_by_file_name(source: ImageFolderSource, tmp_path: Path) -> None:
    names = [Path(source.where(image)).name for image in range(24)]
    (tmp_path / "real.json").write_text(json.dumps({name: [index % 7, 9] for index, name in enumerate(names)}))
    right = read_real_labels(tmp_path / "real.json", source, 10, None).right
    assert [row.nonzero().flatten().tolist() for row in right] == [[index % 7, 9] for index in range(24)]


@pytest.mark.parametrize(
    ("content", "answer"),
    [
        ("no json", r"cannot be read as JSON: .*; --real timm is the table"),
        ("[" * 100_000, r"cannot be read as JSON: maximum recursion depth exceeded"),
        ("3", "has no list of classes for ILSVRC2012_val_00000001.JPEG"),
        ("[[0]]", "has no list of classes for ILSVRC2012_val_00000002.JPEG"),
        (json.dumps([[10]] * 24), "has the class 10, and the network 10 classes"),
        (json.dumps([["cat"]] * 24), "has the class 'cat'"),
        (json.dumps([[]] * 24), "has no label for any of these images"),
    ],
)
def test_real_labels_mistake_is_one_line(content: str, answer: str, source: ImageFolderSource, tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text(content)
    with pytest.raises(UserError, match=answer) as error:
        read_real_labels(tmp_path / "real.json", source, 10, None)
    assert "\n" not in str(error.value)


def test_real_labels_all_of_other_classes_than_the_images_are_one_line(
    source: ImageFolderSource, tmp_path: Path
) -> None:
    (tmp_path / "real.json").write_text(json.dumps([[9]] * 24))
    with pytest.raises(UserError, match="has no label for any of these images among their classes"):
        read_real_labels(tmp_path / "real.json", source, 10, [4, 2, 7, 0])


def test_real_labels_need_file_names(tmp_path: Path) -> None:
    unnamed: Any = SimpleNamespace(name="val.beton", labels=np.zeros(3, np.int64))
    (tmp_path / "real.json").write_text("[[0], [0], [0]]")
    with pytest.raises(UserError, match=r"needs the images' file names, and val.beton has none"):
        read_real_labels(tmp_path / "real.json", unnamed, 10, None)

    class Named(EncodedSource):
        def where(self, image: int) -> str:
            return f"{image}.png"

    with pytest.raises(UserError, match=r"0.png is not named ILSVRC2012_val_00000001"):
        read_real_labels(tmp_path / "real.json", Named(np.zeros(3, np.int64), ["a"], "images", ""), 10, None)


@pytest.mark.parametrize("kind", ["a", "r"])
def test_class_positions_of_imagenet_a_and_r_are_timms(kind: str) -> None:
    folder = Path(imagenet_info.__file__).parent / "_info"
    found = (folder / f"imagenet_{kind}_synsets.txt").read_text().split()
    expected = [int(index) for index in (folder / f"imagenet_{kind}_indices.txt").read_text().split()]
    assert len(found) == 200
    assert is_part_of(found, IMAGENET)
    assert class_positions(found, IMAGENET, "D") == expected


def test_class_positions_of_imagenet_v2_count_its_numbered_folders() -> None:
    found = sorted(map(str, range(1000)))  # as text: 0, 1, 10, 100
    assert is_part_of(found, IMAGENET)
    assert class_positions(found, IMAGENET, "D") == [int(name) for name in found]
    assert class_positions(IMAGENET, IMAGENET, "D") is None
    assert not is_part_of(list(map(str, range(10))), IMAGENET)  # digits, whose network may have ten classes
    assert not is_part_of(IMAGENET, IMAGENET)


def test_answers_of_a_plain_state_dict_on_imagenet_v2_are_those_of_its_numbered_folders() -> None:
    """Such a file names no classes: those of the recipe's data set are known, where the images' are a part of them."""
    weights = cast(Weights, SimpleNamespace(classes=None, data_folder=None))

    def asked(recipe: str, classes: list[str]) -> tuple[int, list[int] | None]:
        loader = cast(Loader, SimpleNamespace(source=SimpleNamespace(classes=classes)))
        settings = EvaluateSettings(weights=Path("w.pth"), data="D")
        found = _answers(weights, load_recipe(recipe), loader, settings)
        assert found.real is None
        return found.network_classes, found.positions

    numbered = sorted(map(str, range(1000)))  # as text: 0, 1, 10, 100
    assert asked("resnet50_torchvision_v1", numbered) == (1000, [int(name) for name in numbered])
    assert asked("resnet50_torchvision_v1", IMAGENET[5:2:-1]) == (1000, [5, 4, 3])
    assert asked("resnet50_torchvision_v1", ["cat", "dog"]) == (2, None)  # fine-tuned on something else, perhaps
    assert asked("resnet20_he2015", list("0123456789")) == (10, None)


@pytest.mark.parametrize(
    ("found", "answer"),
    [
        (["b", "z"], "D has other classes than the weights: 1 of 2 are not among its 3, such as 'z'"),
        (["a", "c", "b"], "class 1 is 'c' instead of 'b'"),
        (["a", "b", "c", "d"], "4 instead of 3"),
        (["0", "1"], "2 of 2 are not among its 3, such as '0'"),  # numbers count ImageNet's classes only
    ],
)
def test_class_positions_refuses_other_classes(found: list[str], answer: str) -> None:
    with pytest.raises(UserError, match=re.escape(answer)):
        class_positions(found, ["a", "b", "c"], "D")


def test_restricted_network_keeps_the_logits_it_is_asked_for() -> None:
    network, features = nn.Linear(3, 5), torch.randn(4, 3)
    assert torch.equal(RestrictedNetwork(network, [3, 0])(features), network(features)[:, [3, 0]])
