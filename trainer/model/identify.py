"""Which network a file of weights is of, found by the shapes of its tensors: for the message where it does not fit."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from trainer import recipe
from trainer.model.cifar import CifarResNet

Spec = recipe.Model
_FAMILIES = ("resnet", "resnext", "wide_resnet")  # of torchvision, whose names timm and our own networks use as well


def network_of(state: Mapping[str, Tensor]) -> recipe.CifarResNet | recipe.LibraryModel | None:
    """The network with tensors of these names and shapes, whatever its number of classes; None: none that is known."""
    from torchvision import models

    theirs = {name: tensor.shape for name, tensor in state.items()}
    if not theirs.get("fc.weight") or not theirs.get("conv1.weight"):  # absent, or without a dimension
        return None
    classes = theirs["fc.weight"][0]
    blocks = {name.split(".")[1] for name in theirs if name.startswith("layer1.")}
    width = theirs["conv1.weight"][0] // 16
    with torch.device("meta"):  # shapes alone, no memory
        for name in models.list_models(module=models):
            if name.startswith(_FAMILIES) and _fits(models.get_model(name, num_classes=classes).state_dict(), theirs):
                return recipe.LibraryModel(name=f"torchvision/{name}")
        if blocks and width:
            spec = recipe.CifarResNet(depth=6 * len(blocks) + 2, width=width)
            if _fits(CifarResNet(spec, classes).state_dict(), theirs):
                return spec
    return None


def _fits(ours: Mapping[str, Tensor], theirs: Mapping[str, torch.Size]) -> bool:
    counts = "num_batches_tracked"  # norms count batches since PyTorch 0.4.1
    shapes = {name: tensor.shape for name, tensor in ours.items() if not name.endswith(counts)}
    return shapes == {name: shape for name, shape in theirs.items() if not name.endswith(counts)}


def advice(state: Mapping[str, Tensor], spec: Spec | None) -> str:
    """A sentence about the network of a file, with what to use in place of `spec`; empty where it is not known."""
    found = network_of(state)
    match found:
        case None:
            return ""
        case recipe.CifarResNet():
            name, recipes = f"ResNet-{found.depth} for CIFAR", f"resnet{found.depth}"
            width = f" of width {found.width}" * (found.width > 1)
            options = f"--model.depth {found.depth}" + f" --model.width {found.width}" * (found.width > 1)
            fits = isinstance(spec, recipe.CifarResNet)
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
