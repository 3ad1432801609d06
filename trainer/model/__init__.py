"""The model factory: our own families, torchvision's and timm's models, and initial weights. All plain PyTorch.

Reading order: block.py (the two residual blocks), resnet.py, cifar.py, preactivation.py, squeeze_excitation.py,
blur.py, norm.py, sync_norm.py, library.py, weights.py, weights_file.py, identify.py. On CPUs trainer/cpu makes a built
model faster from outside.
"""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from trainer import recipe
from trainer.model.cifar import CifarResNet
from trainer.model.library import library_model
from trainer.model.norm import convert_ghost_batchnorm
from trainer.model.preactivation import PreActivationResNet
from trainer.model.resnet import ResNet
from trainer.model.weights import load_initial_weights

__all__ = ["build_model", "load_initial_weights", "set_norm_batch", "without_pretrained"]


def build_model(
    spec: recipe.Model, num_classes: int, norm_batch_size: int | None = None, *, sync_norm: bool = False
) -> nn.Module:
    """Builds the network that `spec` describes: float32, on the default device, in training mode.

    It maps images [N, 3, H, W] to logits [N, num_classes]. Its initial weights come from torch's global random
    generator: seed that first, with the same seed on every process. With `norm_batch_size`, BatchNorm2d computes its
    statistics over groups of that many images, and training raises ValueError for a batch that is not a multiple of
    it. With `sync_norm` it computes them over the batches of all processes. Raises UserError for a spec that describes
    no network.
    """
    model: nn.Module
    match spec:
        case recipe.ResNet():
            model = ResNet(spec, num_classes)
        case recipe.CifarResNet(preactivation=False):
            model = CifarResNet(spec, num_classes)
        case recipe.CifarResNet() | recipe.WideResNet():
            model = PreActivationResNet(spec, num_classes)
        case recipe.LibraryModel():
            model = library_model(spec, num_classes)
    set_norm_batch(model, norm_batch_size, sync_norm=sync_norm)
    return model


def set_norm_batch(model: nn.Module, norm_batch_size: int | None, *, sync_norm: bool) -> None:
    """Sets the images that each BatchNorm2d of `model` computes its statistics over: see build_model."""
    if norm_batch_size is not None:
        convert_ghost_batchnorm(model, norm_batch_size)
    if sync_norm:
        from trainer.model.sync_norm import sync_norms  # imports torch's compiler, which takes seconds

        sync_norms(model)


def without_pretrained(spec: recipe.Model) -> recipe.Model:
    """Returns the same network without pretrained weights to download: its weights will come from a checkpoint."""
    return replace(spec, pretrained=False) if isinstance(spec, recipe.LibraryModel) else spec
