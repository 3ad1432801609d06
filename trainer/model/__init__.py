"""The one door to a network: our own two families, torchvision's and timm's models, and weights to start from.

Reading order: block.py (what every block shares), resnet.py, cifar.py, library.py, weights.py.
"""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from trainer import recipe
from trainer.model.cifar import CifarResNet
from trainer.model.library import library_model
from trainer.model.resnet import ResNet
from trainer.model.weights import load_initial_weights

__all__ = ["build_model", "load_initial_weights", "without_pretrained"]

Spec = recipe.ResNet | recipe.CifarResNet | recipe.LibraryModel


def build_model(spec: Spec, num_classes: int) -> nn.Module:
    """The network that `spec` describes: float32, on the default device, in training mode.

    It maps images [N, 3, H, W] to logits [N, num_classes]. Its initial weights come from torch's global random
    generator: seed that first, the same on every process. Raises UserError where the spec has no network.
    """
    match spec:
        case recipe.ResNet():
            return ResNet(spec, num_classes)
        case recipe.CifarResNet():
            return CifarResNet(spec, num_classes)
        case recipe.LibraryModel():
            return library_model(spec, num_classes)


def without_pretrained(spec: Spec) -> Spec:
    """The same network, where its weights are about to come from a checkpoint: nothing to download."""
    return replace(spec, pretrained=False) if isinstance(spec, recipe.LibraryModel) else spec
