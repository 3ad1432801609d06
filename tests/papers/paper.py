"""What a test compares a recipe with, and what the papers' arithmetic needs.

Rates are written by optimizer step, so that both ends of a plateau can be named.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from trainer.recipe import (
    Augmentation,
    CenterCrop,
    Color,
    CrossEntropy,
    Distillation,
    FineTuning,
    Loss,
    Mixing,
    ProgressiveResizing,
    RandomErasing,
    RandomResizedCrop,
    TrainCrop,
)

IMAGENET_IMAGES = 1_281_167
CROSS_ENTROPY = CrossEntropy(label_smoothing=0.0)
SMOOTHED = CrossEntropy(label_smoothing=0.1)


class Net(NamedTuple):
    """An architecture in numbers."""

    parameters: int
    weights: int  # tensors: convolutions and the classifier
    norms: int  # each has gamma and beta
    blocks: int  # 0: there are no shortcuts
    biases: int = 1  # tensors: the classifier's, and two in each squeeze-and-excitation


@dataclass(frozen=True, kw_only=True)
class Images:
    """What happens to an image before the model sees it."""

    train_crop: TrainCrop
    eval_crop: CenterCrop
    also_eval_crop: CenterCrop | None = None
    progressive: ProgressiveResizing | None = None
    flip: bool = True
    color: Color | None = None
    augmentation: Augmentation | None = None
    erasing: RandomErasing | None = None
    mixing: Mixing | None = None
    repeats: int = 1
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Paper:
    """What the source of a recipe says, and what follows from it by hand."""

    source: str  # words that the published result's source holds
    named: str | None = None  # words that the docstring holds instead of `source`
    told: str  # how the docstring states the result
    top1: float | None
    sd: float | None = None
    runs: int | None = 1  # that top1 is the mean of; None: not stated
    statistic: str | None = None  # which epochs a run's result is of; None: not stated
    comparable: bool = True
    protocol: tuple[str, ...] = ()  # words of the published result's protocol, besides the resolution
    doubts: tuple[str, ...] = ()  # words of the docstring on what is not verified, or not as in the source

    dataset: str = "ImageNet-1k"
    images: int = IMAGENET_IMAGES  # of the published training set
    classes: int = 1000
    sees: Images
    resolutions: Mapping[int, int] = field(default_factory=dict)  # of the training crops in an epoch, if not one

    batch: int
    norm_batch: int  # images that batch normalisation sees together
    micro_batch: int | None = None  # of one forward pass; None: norm_batch
    processes: Mapping[int, int | str]  # for a number of them: forward passes per step, or the counts that fit
    precise_norm_images: int | None = None
    epochs: int
    steps: int  # in an epoch
    lr: Mapping[int, float]  # at the start of a step

    loss: Loss = CROSS_ENTROPY
    optimizer: str = "SGD"
    settings: Mapping[str, Any]  # of each group of the optimizer
    groups: list[tuple[int, float, float]]  # number of tensors, their weight decay, their share of the rate
    ema: tuple[float, int, float] | None = None  # decay, steps from one update to the next, epoch it starts at
    fine_tuning: FineTuning | None = None
    clip_grad_norm: float | None = None  # of the recipe, not the optimizer's own
    distillation: Distillation | None = None

    library: str | None = None  # the name of a library's model, if it is one
    net: Net
    gammas_zero: int = 0
    fc_std: float
    fc_bias: float | None = None  # None: PyTorch's default, uniform
    drop_path: float = 0.0
    variant: str = "b"  # of a ResNet for ImageNet
    dropout: float = 0.0  # before the classifier, or in the blocks of a network for CIFAR
    precision: str = "bf16"
    same_precision: bool = False  # as the source's
    blurs: tuple[int, int] = (0, 0)  # convolutions and poolings with a low-pass filter


# parameters: torchvision's weights metadata; bottlenecks have three convolutions, others two, each with a norm, and
# the stem one; shortcuts that change shape one: in three stages of basic blocks and in four of bottlenecks
RESNETS = {
    18: Net(11_689_512, 2 * 8 + 1 + 3 + 1, 2 * 8 + 1 + 3, 8),
    34: Net(21_797_672, 2 * 16 + 1 + 3 + 1, 2 * 16 + 1 + 3, 16),
    50: Net(25_557_032, 3 * 16 + 1 + 4 + 1, 3 * 16 + 1 + 4, 16),
    101: Net(44_549_160, 3 * 33 + 1 + 4 + 1, 3 * 33 + 1 + 4, 33),
    152: Net(60_192_808, 3 * 50 + 1 + 4 + 1, 3 * 50 + 1 + 4, 50),
}
FEATURES = {18: 512, 34: 512, 50: 2048, 101: 2048, 152: 2048}
PROJECTIONS = 64 * 128 + 128 * 256 + 256 * 512 + 2 * (128 + 256 + 512)  # of ResNet-18 and -34, with their norms


def plain(depth: int) -> Net:
    """ResNet-18 or -34 without its shortcuts."""
    net = RESNETS[depth]
    return Net(net.parameters - PROJECTIONS, net.weights - 3, net.norms - 3, 0)


def cifar_net(n: int, *, width: int = 1, residual: bool = True) -> Net:
    """He et al. 2015, section 4.2: 6n + 1 convolutions of 16, 32 and 64 channels, each with a norm; 10 classes."""
    first, second, third = 16 * width, 32 * width, 64 * width
    convolutions = 9 * first * (3 + 2 * n * first)
    convolutions += 9 * second * (first + (2 * n - 1) * second) + 9 * third * (second + (2 * n - 1) * third)
    norms = 2 * (first * (2 * n + 1) + second * 2 * n + third * 2 * n)
    return Net(convolutions + norms + (third + 1) * 10, 6 * n + 2, 6 * n + 1, 3 * n if residual else 0)


def uniform(inputs: int) -> float:
    """Deviation of PyTorch's classifier: uniform in +-1 / sqrt(inputs)."""
    return 1 / math.sqrt(3 * inputs)


def all_decayed(net: Net, decay: float) -> list[tuple[int, float, float]]:
    return [(net.weights + net.biases + 2 * net.norms, decay, 1.0)]


def norms_exempt(net: Net, decay: float) -> list[tuple[int, float, float]]:
    return [(net.weights + net.biases, decay, 1.0), (2 * net.norms, 0.0, 1.0)]


def norms_and_biases_exempt(net: Net, decay: float) -> list[tuple[int, float, float]]:
    return [(net.weights, decay, 1.0), (2 * net.norms + net.biases, 0.0, 1.0)]


def drops(steps: int, epochs: int, rates: Mapping[int, float]) -> dict[int, float]:
    """Each rate holds from the first step of its epoch until the step before the next rate's."""
    ends = [*list(rates)[1:], epochs]
    return {
        step: lr
        for (epoch, lr), end in zip(rates.items(), ends, strict=True)
        for step in (epoch * steps, end * steps - 1)
    }


def plateaus(steps: int, rates: Mapping[int, float]) -> dict[int, float]:
    """Each rate holds from the first to the last step of its epoch."""
    return {step: lr for epoch, lr in rates.items() for step in (epoch * steps, (epoch + 1) * steps - 1)}


def half_cosine(peak: float, share: float, last: float = 0.0) -> float:
    return last + (peak - last) * (1 + math.cos(math.pi * share)) / 2


def szegedy(resolution: int) -> RandomResizedCrop:
    """8 % to 100 % of the area, 3:4 to 4:3."""
    return RandomResizedCrop(resolution=resolution, scale=(0.08, 1.0), ratio=(0.75, 4 / 3))


def centre(resolution: int, short_side: float) -> CenterCrop:
    return CenterCrop(resolution=resolution, crop_ratio=resolution / short_side, flip_tta=False)


EIGHT_OF_EIGHT: Mapping[int, int | str] = {1: 8, 8: 1, 64: "1, 2, 4, 8"}
