"""The one door to a network: our own two families, torchvision's and timm's models, and weights to start from.

Reading order: block.py (what every block shares), resnet.py, cifar.py, blur.py, norm.py, library.py, weights.py; then
what makes CPUs faster: cpu_kernels.py, fused_norm.py and convolution.py with their kernels, openmp.py, amx.py.
"""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from trainer import recipe
from trainer.model.cifar import CifarResNet
from trainer.model.library import library_model
from trainer.model.norm import split_norms
from trainer.model.resnet import ResNet
from trainer.model.weights import load_initial_weights

__all__ = ["build_model", "load_initial_weights", "without_pretrained"]

Spec = recipe.ResNet | recipe.CifarResNet | recipe.LibraryModel


def build_model(spec: Spec, num_classes: int, norm_batch_size: int | None = None) -> nn.Module:
    """The network that `spec` describes: float32, on the default device, in training mode.

    It maps images [N, 3, H, W] to logits [N, num_classes]. Its initial weights come from torch's global random
    generator: seed that first, the same on every process. Where `norm_batch_size` is given, BatchNorm2d computes its
    statistics over groups of so many images, and training on batches that are no multiple of it raises ValueError.
    Raises UserError where the spec has no network.
    """
    model: nn.Module
    match spec:
        case recipe.ResNet():
            model = ResNet(spec, num_classes)
        case recipe.CifarResNet():
            model = CifarResNet(spec, num_classes)
        case recipe.LibraryModel():
            model = library_model(spec, num_classes)
    if norm_batch_size is not None:
        split_norms(model, norm_batch_size)
    return model


def without_pretrained(spec: Spec) -> Spec:
    """The same network, where its weights are about to come from a checkpoint: nothing to download."""
    return replace(spec, pretrained=False) if isinstance(spec, recipe.LibraryModel) else spec
