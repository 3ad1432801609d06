"""torchvision's classification data sets that are on disk already. Nothing is downloaded."""

import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.beton.journal import file_stamp
from trainer.data.beton.manifest import DataOrigin, Manifest
from trainer.data.beton.prepare import show_progress, write_splits
from trainer.data.sources.options import SplitOptions
from trainer.data.sources.splits import Labelled, Read, splits_of
from trainer.errors import UserError

_TRAIN_FLAG: tuple[dict[str, Any], ...] = ({"train": True}, {"train": False})
_NO_SPLITS: tuple[dict[str, Any], ...] = ({},)
_NAMED = {names: ({"split": names[0]}, {"split": names[1]})
          for names in (("train", "val"), ("train", "valid"), ("train", "test"), ("trainval", "test"))}  # fmt: skip
_SMALL: dict[str, tuple[dict[str, Any], ...]] = {  # how each is called for its training and its validation images
    **dict.fromkeys(("CIFAR10", "CIFAR100", "FashionMNIST", "KMNIST", "MNIST", "QMNIST", "USPS"), _TRAIN_FLAG),
    **dict.fromkeys(("FER2013", "STL10", "SVHN"), _NAMED["train", "test"]),
    "EMNIST": tuple({"split": "balanced", **flag} for flag in _TRAIN_FLAG),
    "SEMEION": _NO_SPLITS,
}
_LARGE: dict[str, tuple[dict[str, Any], ...]] = {
    **dict.fromkeys(
        ("DTD", "FGVCAircraft", "Flowers102", "Imagenette", "PCAM", "RenderedSST2"), _NAMED["train", "val"]
    ),
    **dict.fromkeys(("Food101", "GTSRB", "StanfordCars"), _NAMED["train", "test"]),
    **dict.fromkeys(("Caltech101", "Caltech256", "EuroSAT", "SUN397"), _NO_SPLITS),
    "Country211": _NAMED["train", "valid"],
    "OxfordIIITPet": _NAMED["trainval", "test"],
    "Places365": tuple({"split": split, "small": True} for split in ("train-standard", "val")),
}
SMALL = tuple(_SMALL)
"""sets of small images that were never JPEGs: stored as raw pixels unless the options say otherwise"""
_CALLS = _SMALL | _LARGE
_CHECKED = 16  # labels that are compared with those of the images
_LABELLED_FILES = {"FER2013": "fer2013.csv or icml_face_data.csv"}  # its test.csv has none
_LABELS = ("targets", "labels", "_labels", "y")  # what the sets call their list of labels


@dataclass(frozen=True, kw_only=True)
class TorchvisionOptions(SplitOptions):
    """How to store the images, and where they are."""

    root: Path | None = None
    """folder that torchvision has downloaded the data set into (required)"""


def prepare(name: str, out: Path, options: TorchvisionOptions) -> dict[str, Manifest]:
    """Converts torchvision.datasets.NAME(root) to OUT/train.beton and OUT/val.beton, in torchvision's order.

    Training and validation are the set's own splits: its validation split, else its test split. Raises UserError for an
    unknown name, and where the set is not in the folder.
    """
    if name not in _CALLS:
        raise UserError(f"torchvision's {name!r} is not among the data sets that are read: {', '.join(sorted(_CALLS))}")
    if options.root is None:
        raise UserError(f"where is {name}? Give --root DIR, the folder that torchvision has downloaded it into")
    root = options.root
    calls = dict(zip(("train", "val"), _CALLS[name], strict=False))
    stamp = _stamp(root)
    classes, listed = _labelled(name, stamp, {split: _open(name, root, call) for split, call in calls.items()})
    if calls.get("val", {}).get("split") == "test" or calls.get("val", {}).get("train") is False:
        print(f"{name}: its test images are used for validation, because it has no others")
    origin = DataOrigin(kind="torchvision", name=name)
    return write_splits(out, splits_of(listed["train"], listed.get("val"), classes, origin, options), options)


def _open(name: str, root: Path, arguments: dict[str, Any]) -> Any:
    import torchvision.datasets

    try:
        return getattr(torchvision.datasets, name)(root, **arguments)  # download=False is the default
    except Exception as error:  # RuntimeError, FileNotFoundError, ImportError, ...: each set has its own
        called = ", ".join(["root", *(f"{key}={value!r}" for key, value in arguments.items())])
        reason = " ".join(str(error).split())
        raise UserError(
            f"{name} cannot be read from {root}: {reason}: download it with torchvision.datasets.{name}({called}, "
            f"download=True)"
        ) from error


def _stamp(root: Path) -> int:
    """A number that changes when a file below the folder is replaced or written to, but for what `prepare` writes."""
    stamps = [
        (path, file_stamp(Path(path, name)))
        for path, _, names in sorted(os.walk(root))
        for name in names
        if not name.startswith(("train.beton", "val.beton"))
    ]
    return zlib.crc32(repr(sorted(stamps)).encode(errors="surrogateescape"))


def _labelled(name: str, stamp: int, found: dict[str, Any]) -> tuple[list[str], dict[str, Labelled]]:
    labels = {split: _labels(f"{name} {split}", dataset) for split, dataset in found.items()}
    present = np.unique(np.concatenate(list(labels.values())))
    named = _class_names(found["train"])
    if named is None or len(named) <= present[-1]:
        first = int(present[0])  # some count from 1
        named = [str(value) for value in range(first, int(present[-1]) + 1)]
        labels = {split: values - first for split, values in labels.items()}
    listed = {}
    for split, dataset in found.items():
        names = [f"{name} {split}[{image}]" for image in range(len(dataset))]
        listed[split] = Labelled(labels=labels[split], names=names, read=_reader(dataset), stamp=lambda image: stamp)
    return named, listed


def _reader(dataset: Any) -> Read:
    return lambda image: dataset[image][0]  # type: ignore[no-any-return]


def _labels(title: str, dataset: Any) -> np.ndarray:
    """The label of every image: from the set's own list, or by reading every image where there is none to trust.

    Raises UserError if an image has no label, or cannot be read for it.
    """
    for attribute in _LABELS:
        values = getattr(dataset, attribute, None)
        if values is not None and len(values) == len(dataset):
            labels = np.asarray(values)
            checked = np.linspace(0, len(dataset) - 1, _CHECKED).astype(int)
            if labels.ndim == 1 and labels.dtype.kind in "iu" and _agree(dataset, labels, checked):
                return labels.astype(np.int64)
    samples = getattr(dataset, "samples", None) or getattr(dataset, "_samples", None)
    if isinstance(samples, Sequence) and len(samples) == len(dataset):
        found = [label for _, label in samples]
    else:
        found = []
        with show_progress(f"labels of {title}", len(dataset)) as show:
            for image in range(len(dataset)):
                found.append(_label(dataset, image))
                show(image + 1)
    if None in found:
        file = _LABELLED_FILES.get(title.partition(" ")[0])
        remedy = f"put {file}, which has labels, beside its other files" if file else "download it again"
        raise UserError(f"{title}[{found.index(None)}] has no label, or cannot be read: {remedy}")
    return np.array(found, np.int64)


def _agree(dataset: Any, labels: np.ndarray, images: np.ndarray) -> bool:
    return all(_label(dataset, int(image)) in (int(labels[image]), None) for image in images)


def _label(dataset: Any, image: int) -> Any:
    """None if the set has none, or the image cannot be read."""
    try:
        return dataset[image][1]
    except Exception:  # a decoder may raise anything
        return None


def _class_names(dataset: Any) -> list[str] | None:
    for attribute in ("classes", "categories"):
        names = getattr(dataset, attribute, None)
        if isinstance(names, Sequence) and names:
            first = [name[0] if isinstance(name, tuple) and name else name for name in names]  # Imagenette: synonyms
            if all(isinstance(name, str) for name in first):
                return first
    return None
