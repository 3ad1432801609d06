"""A folder that timm.create_model("local-dir:FOLDER", pretrained=True) loads: config.json and model.safetensors."""

import contextlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainer.atomic import rename
from trainer.commands.weights import Weights
from trainer.errors import UserError, first_few
from trainer.evaluation.imagenet import class_name
from trainer.recipe import LibraryModel, Recipe, ResNet

CONFIG, TENSORS = "config.json", "model.safetensors"
_FAMILY = (
    "resnet{}", "resnet{}c", "resnet{}d", "seresnet{}", "resnetrs{}", "resnext{}_32x4d", "resnext{}_32x8d",
    "resnext{}_64x4d", "wide_resnet{}_2",
)  # fmt: skip
"""timm's relatives of ResNet, by depth"""


def timm_network(
    model: nn.Module, recipe: Recipe, differ: Callable[[nn.Module, nn.Module], bool]
) -> tuple[str, nn.Module]:
    """The name of timm's network with the parameters of `model` that computes the same, and it with its weights.

    `differ`: whether the logits of two networks differ. Raises UserError if timm has no such network.
    """
    import timm

    match recipe.model:
        case LibraryModel():
            names = [recipe.model.name.partition("/")[2].partition(".")[0]]  # without the tag of published weights
        case ResNet():
            names = [name.format(recipe.model.depth) for name in _FAMILY]
        case _:
            names = []
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    for name in filter(timm.is_model, names):
        with torch.device("meta"):
            candidate = timm.create_model(name, num_classes=recipe.num_classes)
        if {other: tensor.shape for other, tensor in candidate.state_dict().items()} != shapes:
            continue
        theirs: nn.Module = timm.create_model(name, num_classes=recipe.num_classes)
        theirs.load_state_dict(model.state_dict(), strict=True)
        if not differ(model, theirs.eval()):
            return name, theirs
    raise UserError(f"timm has no network like that of {recipe.name}: use --to safetensors, onnx or torch-export")


def write_config(theirs: nn.Module, weights: Weights, description: str, file: Path) -> None:
    """Writes config.json for timm's network: how to build it, its classes, and how the evaluation reads images."""
    recipe, crop = weights.recipe, weights.recipe.eval_crop
    original: Any = theirs.pretrained_cfg  # of the library's own weights: only what describes the network is kept
    config: dict[str, Any] = {
        "architecture": original["architecture"],
        "num_classes": recipe.num_classes,
        "pretrained_cfg": {
            **{name: original.get(name) for name in ("first_conv", "classifier", "fixed_input_size")},
            "input_size": (3, crop.resolution, crop.resolution),
            "interpolation": "bilinear",
            "crop_pct": crop.crop_ratio,
            "crop_mode": "center",
            "mean": recipe.mean,
            "std": recipe.std,
            "tag": "local",
            "description": f"{recipe.name}: {description}",
        },
    }
    if weights.classes:
        config["label_names"] = weights.classes
        config["label_descriptions"] = {name: class_name(name) for name in weights.classes}
    file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load_folder(folder: Path, weights: Weights) -> nn.Module:
    """What timm makes of the folder. Raises UserError if its classes or its reading of images are not the run's."""
    import timm
    import timm.data

    data: Any = timm.data  # without types
    log = logging.getLogger("timm")
    level = log.level
    log.setLevel(logging.ERROR)  # it logs where it loads from
    try:
        theirs: Any = timm.create_model(f"local-dir:{folder}", pretrained=True)
    finally:
        log.setLevel(level)
    recipe, crop = weights.recipe, weights.recipe.eval_crop
    read, labels = data.resolve_data_config(model=theirs), theirs.pretrained_cfg.get("label_names")
    found = (tuple(read["input_size"][1:]), read["crop_pct"], tuple(read["mean"]), tuple(read["std"]))
    wanted = ((crop.resolution, crop.resolution), crop.crop_ratio, tuple(recipe.mean), tuple(recipe.std))
    if found != wanted or (labels and list(labels)) != weights.classes:
        raise UserError(f"timm reads {found} and classes {labels} from what was written, not {wanted}")
    network: nn.Module = theirs.eval()
    return network


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yields a temporary folder to write to, renamed to `folder` when the block ends, removed if it raises.

    An earlier export in that place is replaced. Raises UserError if other files would be removed with it, and if
    the folder is a link, which no folder can replace.
    """
    if folder.is_symlink():
        raise UserError(f"{folder} is a link: name the folder it leads to, {folder.resolve()}")
    others = [folder.name] if folder.is_file() else []
    if folder.is_dir():
        others = sorted(path.name for path in folder.iterdir() if path.name not in (CONFIG, TENSORS))
    if others:
        raise UserError(f"{folder} holds other files than an export ({first_few(others)}): choose another folder")
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        if folder.is_dir():
            shutil.rmtree(folder)
        rename(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
