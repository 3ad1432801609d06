"""Identifies the network of a weights file by its tensor shapes, for the error if it does not fit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor, nn

from trainer import recipe
from trainer.model.cifar import CifarResNet

_TIMM_MODULES = ("resnet", "res2net", "resnest", "sknet")  # also ResNeXt, SE, ECA, wide, and those with a deep stem
_FAMILIES = ("resnet", "resnext", "wide_resnet")  # of torchvision, whose names timm and our own networks use as well
_COUNTS = "num_batches_tracked"  # norms count batches since PyTorch 0.4.1


def network_of(state: Mapping[str, Tensor]) -> recipe.CifarResNet | recipe.LibraryModel | None:
    """Finds the network with tensors of these names and shapes, whatever its number of classes; None: no known one.

    Of networks that share their shapes, the one without a filter before its strides.
    """
    theirs = {name: tensor.shape for name, tensor in state.items() if not name.endswith(_COUNTS)}
    if not theirs.get("fc.weight"):  # absent, or without a dimension
        return None
    found = _of_torchvision_or_ours(theirs) if theirs.get("conv1.weight") else None
    return found or _of_timm(theirs)


def _of_torchvision_or_ours(theirs: Mapping[str, torch.Size]) -> recipe.CifarResNet | recipe.LibraryModel | None:
    from torchvision import models

    classes = theirs["fc.weight"][0]
    blocks = {name.split(".")[1] for name in theirs if name.startswith("layer1.")}
    width = theirs["conv1.weight"][0] // 16
    for name in models.list_models(module=models):
        if name.startswith(_FAMILIES) and _shapes_in_torchvision(name, classes) == theirs:
            return recipe.LibraryModel(name=f"torchvision/{name}")
    if blocks and width:
        spec = recipe.CifarResNet(depth=6 * len(blocks) + 2, width=width)
        with torch.device("meta"):
            if _shapes(CifarResNet(spec, classes)) == theirs:
                return spec
    return None


@cache  # building all of them takes seconds
def _shapes_in_torchvision(name: str, classes: int) -> dict[str, torch.Size]:
    from torchvision import models

    with torch.device("meta"):  # shapes alone, no memory
        return _shapes(models.get_model(name, num_classes=classes))


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items() if not name.endswith(_COUNTS)}


def _of_timm(theirs: Mapping[str, torch.Size]) -> recipe.LibraryModel | None:
    """One of timm's networks of the family. Those whose names have the file's depth are built, about ten."""
    import timm

    blocks = {match[0] for name in theirs if (match := re.match(r"layer[1-4]\.\d+\.", name))}
    depth = len(blocks) * (3 if "layer1.0.conv3.weight" in theirs else 2) + 2
    names = {name for module in _TIMM_MODULES for name in timm.list_models(module=module)}
    candidates = [name for name in names if re.search(rf"(?<!\d){depth}(?!\d)", name)]
    for name in sorted(candidates, key=lambda name: (len(name), name)):
        if _shapes_in_timm(name, theirs["fc.weight"][0]) == theirs:
            return recipe.LibraryModel(name=f"timm/{name}")
    return None


@cache
def _shapes_in_timm(name: str, classes: int) -> dict[str, torch.Size]:
    import timm

    with torch.device("meta"):
        return _shapes(timm.create_model(name, num_classes=classes))


def advice(state: Mapping[str, Tensor], spec: recipe.Model | None) -> str:
    """Returns a sentence about the network of a file, with what to use in place of `spec`; empty if it is not known."""
    found = network_of(state)
    match found:
        case None:
            return ""
        case recipe.CifarResNet():
            name, recipes = f"ResNet-{found.depth} for CIFAR", f"resnet{found.depth}"
            width = f" of width {found.width}" * (found.width > 1)
            options = f"--model.depth {found.depth}" + f" --model.width {found.width}" * (found.width > 1)
            fits = isinstance(spec, recipe.CifarResNet)
        case recipe.LibraryModel() if found.name.startswith("timm/"):
            fits = isinstance(spec, recipe.LibraryModel)
            use = f"--model.name {found.name}" if fits else f"model=LibraryModel(name={found.name!r}) in a recipe file"
            return f". The file is a {found.name.partition('/')[2]} of timm: use {use}"
        case recipe.LibraryModel():
            recipes = found.name.partition("/")[2]
            depth = recipes.removeprefix("resnet")
            name, width = (f"ResNet-{depth}", "") if depth.isdigit() else (recipes, "")
            options = f"--model.name {found.name}"
            fits = isinstance(spec, recipe.LibraryModel)
            if isinstance(spec, recipe.ResNet) and depth.isdigit() and depth != str(spec.depth):
                options, fits = f"--model.depth {depth}", True
    remedy = f"use {options}" if fits else f"use a recipe of it, see python -m trainer recipes {recipes}"
    return f". The file is a {name}{width}: {remedy}"
