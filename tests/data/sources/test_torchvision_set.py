"""torchvision's data sets in miniature, in the layout that torchvision downloads: read, never fetched."""

import inspect
import socket
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from tests.data.sources.miniatures import RAW, assert_holds, changed_by_replacing, decoded, jpeg, stamps_of
from tests.support import odd_images
from trainer.cli.parse import parse_prepare
from trainer.data.sources import torchvision_set
from trainer.data.sources.torchvision_set import SMALL, TorchvisionOptions, prepare
from trainer.errors import UserError

random = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def options(root: Path, **changes: object) -> TorchvisionOptions:
    return TorchvisionOptions(root=root, **{**RAW, **changes})  # type: ignore[arg-type]


def test_torchvision_set_of_files_is_read_with_its_classes(tmp_path: Path) -> None:
    """Food101: photographs in class folders and lists of the splits."""
    import json

    splits = {"train": {"pizza": [1, 2, 3], "apple pie": [4, 5]}, "test": {"pizza": [6], "apple pie": [7, 8]}}
    meta = tmp_path / "food-101" / "meta"
    meta.mkdir(parents=True)
    for split, classes in splits.items():
        lists = {}
        for name, numbers in classes.items():
            folder = name.replace(" ", "_")
            (tmp_path / "food-101" / "images" / folder).mkdir(parents=True, exist_ok=True)
            for number in numbers:
                (tmp_path / "food-101" / "images" / folder / f"{number}.jpg").write_bytes(jpeg(number))
            lists[folder] = [f"{folder}/{number}" for number in numbers]
        (meta / f"{split}.json").write_text(json.dumps(lists))
    manifests = prepare("Food101", tmp_path / "out", options(tmp_path))
    assert manifests["train"].classes == ["apple_pie", "pizza"] and manifests["val"].source.kind == "torchvision"
    for split, expected in (("train", [(1, 1), (1, 2), (1, 3), (0, 4), (0, 5)]), ("val", [(1, 6), (0, 7), (0, 8)])):
        stored = [(label, decoded(jpeg(number))) for label, number in expected]
        assert_holds(tmp_path / "out" / f"{split}.beton", stored)


@pytest.mark.parametrize("apply_exif", [False, True])
def test_torchvision_set_of_photographs_is_turned_where_it_is_asked_to(tmp_path: Path, apply_exif: bool) -> None:
    """EuroSAT, in whose place photographs lie that are stored on their side."""
    for number in range(4):
        path = tmp_path / "eurosat" / "2750" / "River" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        odd_images.turned(path)
    found = prepare("EuroSAT", tmp_path / "out", options(tmp_path, val_fraction=0.25, apply_exif=apply_exif))["train"]
    assert found.exif_oriented == 3
    assert (found.sizes.max_height, found.sizes.max_width) == ((60, 40) if apply_exif else (40, 60))


@pytest.mark.parametrize("apply_exif", [False, True])
def test_torchvision_set_keeps_photographs_with_damaged_exif(tmp_path: Path, apply_exif: bool) -> None:
    """As class folders do: their pixels are sound."""
    for number in range(4):
        path = tmp_path / "eurosat" / "2750" / "River" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        odd_images.picture(0, number).save(path, exif=b"Exif\0\0damaged.")
    found = prepare("EuroSAT", tmp_path / "out", options(tmp_path, val_fraction=0.25, apply_exif=apply_exif))["train"]
    assert (found.count, found.exif_oriented) == (3, 0)


def test_torchvision_set_of_arrays_is_stored_without_loss(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SVHN: MATLAB files with the pixels and the labels."""
    from torchvision.datasets import SVHN

    arrays = {split: random.integers(0, 256, (32, 32, 3, 6), np.uint8) for split in ("train", "test")}
    for split, pixels in arrays.items():
        savemat(tmp_path / f"{split}_32x32.mat", {"X": pixels, "y": np.array([[1, 2, 10, 3, 1, 2]]).T})
    monkeypatch.setattr(SVHN, "_check_integrity", lambda self: True)
    command = parse_prepare(["torchvision", "SVHN", "--root", str(tmp_path), "--out", str(tmp_path / "out")])
    assert (command.options.write_mode, command.source) == ("raw", "SVHN")
    manifest = prepare(command.source, command.out, command.options)["train"]
    assert "SVHN: its test images are used for validation" in capsys.readouterr().out
    labels = [1, 2, 0, 3, 1, 2]
    assert manifest.classes == ["0", "1", "2", "3"]
    for split, name in (("train", "train"), ("test", "val")):
        images = arrays[split].transpose(3, 0, 1, 2)
        assert_holds(tmp_path / "out" / f"{name}.beton", list(zip(labels, images, strict=True)))


def test_torchvision_set_without_splits_needs_a_fraction(tmp_path: Path) -> None:
    """EuroSAT: class folders, no splits."""
    for name, numbers in (("Forest", range(4)), ("River", range(4, 10))):
        (tmp_path / "eurosat" / "2750" / name).mkdir(parents=True)
        for number in numbers:
            (tmp_path / "eurosat" / "2750" / name / f"{number}.jpg").write_bytes(jpeg(number))
    with pytest.raises(UserError, match="EuroSAT has no validation images: pass --val-fraction"):
        prepare("EuroSAT", tmp_path / "out", options(tmp_path))
    found = prepare("EuroSAT", tmp_path / "out", options(tmp_path, val_fraction=0.5))
    assert found["train"].class_counts == [2, 3] and found["train"].classes == ["Forest", "River"]


def test_torchvision_file_below_the_root_that_is_replaced_changes_all_stamps(tmp_path: Path) -> None:
    river = tmp_path / "eurosat" / "2750" / "River"
    river.mkdir(parents=True)
    for number in range(4):
        (river / f"{number}.jpg").write_bytes(jpeg(number))

    def prepared() -> None:
        prepare("EuroSAT", tmp_path / "out", options(tmp_path, val_fraction=0.25))

    before = stamps_of(prepared)
    for name in ("val.beton", "train.beton.partial"):  # --out is below --root: an interrupted file is continued
        (tmp_path / name).write_bytes(b"")
    assert stamps_of(prepared) == before
    assert changed_by_replacing(river / "3.jpg", prepared) == {"val": [True], "train": [True, True, True]}


def test_torchvision_set_that_is_not_there_is_one_line_and_no_download(tmp_path: Path) -> None:
    for name in ("CIFAR100", "Food101", "DTD", "Flowers102", "GTSRB", "MNIST", "EMNIST", "SUN397", "Country211"):
        remedy = f"download it with torchvision.datasets.{name}"
        with pytest.raises(UserError, match=f"{name} cannot be read from .*{remedy}") as caught:
            prepare(name, tmp_path / "out", options(tmp_path / "none"))
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="where is DTD"):
        prepare("DTD", tmp_path / "out", TorchvisionOptions())
    with pytest.raises(UserError, match="'CocoDetection' is not among the data sets"):
        prepare("CocoDetection", tmp_path / "out", options(tmp_path))


def test_torchvision_set_whose_test_images_have_no_labels_says_which_file_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FER2013 as Kaggle's competition has it: train.csv, and test.csv without labels."""
    (tmp_path / "fer2013").mkdir()
    pixels = " ".join(["0"] * 48 * 48)
    (tmp_path / "fer2013" / "train.csv").write_text(f"emotion,pixels\n1,{pixels}\n")
    (tmp_path / "fer2013" / "test.csv").write_text(f"pixels\n{pixels}\n")
    monkeypatch.setattr("torchvision.datasets.fer2013.check_integrity", lambda *_, **__: True)
    with pytest.raises(UserError, match=r"FER2013 val\[0\] has no label, .*: put fer2013\.csv or icml_"):
        prepare("FER2013", tmp_path / "out", options(tmp_path))


def named_splits(train: str, val: str) -> dict[str, dict[str, object]]:
    return {"train": {"split": train}, "val": {"split": val}}


FLAG: dict[str, dict[str, object]] = {"train": {"train": True}, "val": {"train": False}}
NO_SPLITS: dict[str, dict[str, object]] = {"train": {}}
OPENED = {
    **dict.fromkeys(["CIFAR10", "CIFAR100", "FashionMNIST", "KMNIST", "MNIST", "QMNIST", "USPS"], FLAG),
    "EMNIST": {split: {"split": "balanced", **flag} for split, flag in FLAG.items()},
    **dict.fromkeys(["FER2013", "Food101", "GTSRB", "STL10", "StanfordCars", "SVHN"], named_splits("train", "test")),
    "OxfordIIITPet": named_splits("trainval", "test"),
    **dict.fromkeys(
        ["DTD", "FGVCAircraft", "Flowers102", "Imagenette", "PCAM", "RenderedSST2"], named_splits("train", "val")
    ),
    "Country211": named_splits("train", "valid"),
    "Places365": {
        "train": {"split": "train-standard", "small": True},
        "val": {"split": "val", "small": True},
    },
    **dict.fromkeys(["Caltech101", "Caltech256", "EuroSAT", "SEMEION", "SUN397"], NO_SPLITS),
}


def test_torchvision_set_is_opened_by_its_own_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of torchvision's documentation: a set's validation images, else its test images. Nothing is downloaded."""
    import torchvision.datasets

    opened: dict[str, dict[str, object]] = {}

    def record(name: str, _stamp: int, found: dict[str, object]) -> None:
        opened[name] = found
        raise UserError("enough was seen")

    monkeypatch.setattr(torchvision_set, "_labelled", record)
    for name in OPENED:
        signature = inspect.signature(getattr(torchvision.datasets, name))

        def arguments(*given: object, signature: inspect.Signature = signature, **named: object) -> dict[str, object]:
            assert signature.bind(*given, **named).arguments.pop("root") == tmp_path
            return named

        monkeypatch.setattr(torchvision.datasets, name, arguments)
        with pytest.raises(UserError, match="enough was seen"):
            prepare(name, tmp_path / "out", options(tmp_path))
    assert opened == OPENED
    assert len(OPENED) == 28 and set(SMALL) < set(OPENED)
    with pytest.raises(UserError, match="not among the data sets that are read: " + ", ".join(sorted(OPENED))):
        prepare("none", tmp_path / "out", options(tmp_path))


class InMemory:
    """A data set whose images have the labels TRUTH, with further fields, as its class may have them."""

    def __init__(self, **known: object) -> None:
        vars(self).update(known)
        self.opened = 0

    def __len__(self) -> int:
        return len(TRUTH)

    def __getitem__(self, image: int) -> tuple[np.ndarray, int]:
        self.opened += 1
        return np.zeros((8, 8, 3), np.uint8), TRUTH[image]


TRUTH = [image * 7 % 3 for image in range(100)]
PAIRS = [("file", label) for label in TRUTH]


@pytest.mark.parametrize(
    ("known", "opened"),
    [
        ({"targets": TRUTH}, 16),  # some are compared with the images
        ({"_labels": np.array(TRUTH)}, 16),
        ({"targets": [*TRUTH[:-1], 2]}, 16 + 100),
        ({"targets": [2, *TRUTH[1:]], "y": TRUTH}, 1 + 16),
        ({"targets": [2, *TRUTH[1:]], "samples": PAIRS}, 1),
        ({"targets": [str(label) for label in TRUTH]}, 100),
        ({"targets": TRUTH[:50]}, 100),
        ({"samples": PAIRS}, 0),
        ({"_samples": PAIRS}, 0),
        ({"samples": PAIRS[:50]}, 100),
        ({}, 100),
    ],
)
def test_torchvision_labels_are_those_of_the_images(known: dict[str, object], opened: int) -> None:
    """A list of the set that disagrees with its images, or has another length, is not taken."""
    dataset = InMemory(**known)
    assert torchvision_set._labels("train", dataset).tolist() == TRUTH
    assert dataset.opened == opened


class Damaged(InMemory):
    """An image cannot be opened, as PIL says it."""

    def __getitem__(self, image: int) -> tuple[np.ndarray, int]:
        if image == 0:
            raise OSError("image file is truncated")
        return super().__getitem__(image)


def test_torchvision_labels_do_not_need_an_image_that_cannot_be_read() -> None:
    assert torchvision_set._labels("train", Damaged(targets=TRUTH)).tolist() == TRUTH
    with pytest.raises(UserError, match=r"DTD train\[0\] has no label, or cannot be read: download it again"):
        torchvision_set._labels("DTD train", Damaged())
