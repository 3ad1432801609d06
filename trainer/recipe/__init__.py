"""The vocabulary of a recipe: every setting that a paper could name, with its type, unit, default and source.

A recipe says what is trained, never where: no path, no number of processes. Time is counted in epochs, which may be
fractional; images are counted per optimizer step. Nothing is derived behind the reader's back: overriding the batch
does not move the learning rate. Standard library only, so that recipes can be listed and checked without torch.

Reading order: recipe.py (the whole), model.py, images.py (what the model sees), optimization.py (how it learns).
"""

from trainer.recipe.images import (
    CenterCrop,
    ColorJitter,
    Mixing,
    PaddedCrop,
    PcaLighting,
    ProgressiveResizing,
    RandAugment,
    RandomErasing,
    RandomResizedCrop,
    ScaleJitterCrop,
    TrivialAugmentWide,
)
from trainer.recipe.model import CifarResNet, LibraryModel, ResNet
from trainer.recipe.optimization import (
    EMA,
    LAMB,
    LARS,
    SGD,
    BinaryCrossEntropy,
    Constant,
    Cosine,
    CrossEntropy,
    DecoupledSGD,
    FineTuning,
    Linear,
    Steps,
    Warmup,
)
from trainer.recipe.recipe import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Augmentation,
    Color,
    Loss,
    Model,
    Optimizer,
    Published,
    Recipe,
    Schedule,
    TrainCrop,
)

__all__ = [
    "EMA",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "LAMB",
    "LARS",
    "SGD",
    "Augmentation",
    "BinaryCrossEntropy",
    "CenterCrop",
    "CifarResNet",
    "Color",
    "ColorJitter",
    "Constant",
    "Cosine",
    "CrossEntropy",
    "DecoupledSGD",
    "FineTuning",
    "LibraryModel",
    "Linear",
    "Loss",
    "Mixing",
    "Model",
    "Optimizer",
    "PaddedCrop",
    "PcaLighting",
    "ProgressiveResizing",
    "Published",
    "RandAugment",
    "RandomErasing",
    "RandomResizedCrop",
    "Recipe",
    "ResNet",
    "ScaleJitterCrop",
    "Schedule",
    "Steps",
    "TrainCrop",
    "TrivialAugmentWide",
    "Warmup",
]
