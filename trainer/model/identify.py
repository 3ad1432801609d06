"""Which network a file of weights is of, found by the shapes of its tensors: for the message where it does not fit."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor, nn

from trainer import recipe
from trainer.model.cifar import CifarResNet

Spec = recipe.Model
_FAMILIES = ("resnet", "resnext", "wide_resnet")  # of torchvision, whose names timm and our own networks use as well
_COUNTS = "num_batches_tracked"  # norms count batches since PyTorch 0.4.1


def network_of(state: Mapping[str, Tensor]) -> recipe.CifarResNet | recipe.LibraryModel | None:
    """The network with tensors of these names and shapes, whatever its number of classes; None: none that is known."""
    from torchvision import models

    theirs = {name: tensor.shape for name, tensor in state.items()}
    if not theirs.get("fc.weight") or not theirs.get("conv1.weight"):  # absent, or without a dimension
        return None
    classes = theirs["fc.weight"][0]
    blocks = {name.split(".")[1] for name in theirs if name.startswith("layer1.")}
    width = theirs["conv1.weight"][0] // 16
    theirs = {name: shape for name, shape in theirs.items() if not name.endswith(_COUNTS)}
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
