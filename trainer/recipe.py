"""The vocabulary of a recipe: every setting that a paper could name, with its type, unit, default and source.

A recipe says what is trained, never where: no path, no number of processes. Time is counted in epochs, which may be
fractional; images are counted per optimizer step. Nothing is derived behind the reader's back: overriding the batch
does not move the learning rate. Standard library only, so that recipes can be listed and checked without torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, is_dataclass
from typing import Literal

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Published:
    """A result somebody published, with the protocol that makes it a number."""

    top1: float  # accuracy in %
    protocol: str  # data, resolution, crop, which epoch, how many runs
    source: str  # paper and table, or the file that states it
    sd: float | None = None  # standard deviation over the runs, in %


# ---------------------------------------------------------------------------------------------------------- model


@dataclass(frozen=True, kw_only=True)
class ResNet:
    """ResNet for ImageNet (He et al. 2015, arXiv:1512.03385, Table 1), with torchvision's parameter names."""

    depth: Literal[18, 34, 50, 101, 152]
    stem: Literal["imagenet", "cifar"] = "imagenet"
    """imagenet: 7x7 stride 2 and max-pool; cifar: 3x3 stride 1 and no pool, for inputs of about 32 px"""
    residual: bool = True
    """False gives the plain network of the same depth: the paper's control, without shortcuts"""
    zero_init_residual: bool = False
    """start the last norm of every residual block at gamma = 0 (Goyal et al. 2017, section 5.1)"""
    fc_std: float | None = None
    """standard deviation of the classifier's normal initialisation (Goyal: 0.01); None: PyTorch's default"""


@dataclass(frozen=True, kw_only=True)
class CifarResNet:
    """He's CIFAR family (arXiv:1512.03385, section 4.2): depth 6n + 2, 16/32/64 channels, parameter-free shortcuts."""

    depth: int
    residual: bool = True
    """False gives the plain network of the same depth: the paper's control, without shortcuts"""
    zero_init_residual: bool = False
    """start the last norm of every residual block at gamma = 0 (Goyal et al. 2017, section 5.1)"""
    fc_std: float | None = None
    """standard deviation of the classifier's normal initialisation; None: PyTorch's default"""

    def __post_init__(self) -> None:
        if self.depth < 8 or self.depth % 6 != 2:
            raise ValueError(
                f"model.depth={self.depth} is not 6n + 2: the CIFAR family has 20, 32, 44, 56, 110, 1202, ..."
            )


@dataclass(frozen=True, kw_only=True)
class LibraryModel:
    """A model of torchvision or timm by its name there, e.g. torchvision/resnext50_32x4d or timm/resnet50d."""

    name: str
    pretrained: bool = False
    """start from the library's published weights; the classifier is new where the number of classes differs"""

    def __post_init__(self) -> None:
        library, _, name = self.name.partition("/")
        if library not in ("torchvision", "timm") or not name:
            raise ValueError(f"model.name={self.name!r} is neither torchvision/NAME nor timm/NAME")


# --------------------------------------------------------------------------------------------------------- images


@dataclass(frozen=True, kw_only=True)
class RandomResizedCrop:
    """A crop of random area and aspect ratio, resized (Szegedy et al. 2014, arXiv:1409.4842, section 6)."""

    resolution: int
    """height and width of the crop as the model sees it, in pixels"""
    scale: tuple[float, float] = (0.08, 1.0)
    """range of the crop's area, as a fraction of the image's"""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """range of the crop's width / height"""

    def __post_init__(self) -> None:
        _check_resolution("train_crop.resolution", self.resolution)
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"train_crop.scale={self.scale} is not a range within (0, 1]")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"train_crop.ratio={self.ratio} is not a range of positive numbers")


@dataclass(frozen=True, kw_only=True)
class PaddedCrop:
    """A random crop of the image padded on all sides (He et al. 2015, section 4.2). Images must be of this size."""

    resolution: int
    """height and width of image and crop, in pixels"""
    padding: int = 4
    """pixels added on each side"""
    fill: tuple[int, int, int] = (0, 0, 0)
    """RGB of the padding, 0 to 255; He pads with zero after subtracting the mean, which is the mean's own colour"""

    def __post_init__(self) -> None:
        _check_resolution("train_crop.resolution", self.resolution)
        if not 0 <= self.padding < self.resolution:
            raise ValueError(f"train_crop.padding={self.padding} is not within 0 and resolution={self.resolution}")
        if not all(0 <= value <= 255 for value in self.fill):
            raise ValueError(f"train_crop.fill={self.fill} is not an RGB value of 0 to 255")


@dataclass(frozen=True, kw_only=True)
class CenterCrop:
    """The centre square of an image, resized: `crop_ratio` x short side -> resolution. 224/256 is the common test."""

    resolution: int
    """height and width of the crop as the model sees it, in pixels"""
    crop_ratio: float
    """side of the centre square as a fraction of the image's short side"""

    def __post_init__(self) -> None:
        _check_resolution("eval_crop.resolution", self.resolution)
        if not 0 < self.crop_ratio <= 1:
            raise ValueError(f"eval_crop.crop_ratio={self.crop_ratio} is not within (0, 1]")


def _check_resolution(name: str, resolution: int) -> None:
    if resolution < 1:
        raise ValueError(f"{name}={resolution} is not a positive number of pixels")


# -------------------------------------------------------------------------------------- optimizer, loss, schedule


@dataclass(frozen=True, kw_only=True)
class SGD:
    """Stochastic gradient descent as PyTorch writes it: v = momentum * v + g; w = w - lr * v."""

    lr: float
    """learning rate at the peak of the schedule, for the global batch as it is"""
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    """L2 penalty, added to the gradient"""
    decay_norm: bool = True
    """also decay the gamma and beta of normalisation layers"""
    decay_bias: bool = True
    """also decay the biases of other layers"""

    def __post_init__(self) -> None:
        _check_not_negative("optimizer.lr", self.lr)
        _check_not_negative("optimizer.weight_decay", self.weight_decay)
        if not 0 <= self.momentum < 1:
            raise ValueError(f"optimizer.momentum={self.momentum} is not within [0, 1)")
        if self.nesterov and not self.momentum:
            raise ValueError("optimizer.nesterov needs optimizer.momentum above 0")


@dataclass(frozen=True, kw_only=True)
class CrossEntropy:
    """Softmax cross-entropy."""

    label_smoothing: float = 0.0
    """probability spread over all classes (Szegedy et al. 2015, arXiv:1512.00567, section 7)"""

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"loss.label_smoothing={self.label_smoothing} is not within [0, 1)")


@dataclass(frozen=True, kw_only=True)
class Warmup:
    """The first epochs, before the schedule proper begins. The rate changes at every step, not at every epoch."""

    epochs: float
    lr: float
    """learning rate of the first step (Goyal et al. 2017, section 2.2: 0.1, whatever the batch)"""
    shape: Literal["linear", "constant"] = "linear"
    """linear: from `lr` to the peak by equal amounts (Goyal: gradual); constant: `lr` until the end of the warmup"""

    def __post_init__(self) -> None:
        _check_not_negative("schedule.warmup.epochs", self.epochs)
        _check_not_negative("schedule.warmup.lr", self.lr)


@dataclass(frozen=True, kw_only=True)
class Steps:
    """The peak rate, multiplied by `factor` at each milestone."""

    milestones: tuple[float, ...]
    """epochs at which the rate drops"""
    factor: float = 0.1
    warmup: Warmup | None = None

    def __post_init__(self) -> None:
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"schedule.milestones={self.milestones} are not in increasing order")


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """Half a cosine from the peak, at the end of the warmup, to `final_lr` (Loshchilov 2016, arXiv:1608.03983)."""

    final_lr: float = 0.0
    warmup: Warmup | None = None


@dataclass(frozen=True, kw_only=True)
class Linear:
    """A straight line from the peak, at the end of the warmup, to `final_lr` at the end of training."""

    final_lr: float = 0.0
    warmup: Warmup | None = None


@dataclass(frozen=True, kw_only=True)
class Constant:
    """The peak rate throughout."""

    warmup: Warmup | None = None


def _check_finite(value: object, name: str) -> None:
    """Raises ValueError where there is a nan or an infinity, which no paper means and no file of Python can hold."""
    if is_dataclass(value):
        for field in fields(value):
            _check_finite(getattr(value, field.name), f"{name}.{field.name}" if name else field.name)
    elif isinstance(value, tuple):
        for item in value:
            _check_finite(item, name)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name}={value} is not a finite number")


def _check_not_negative(name: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name}={value} is negative or not a number")


# --------------------------------------------------------------------------------------------------------- recipe


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides which weights come out, and the result it is measured against."""

    name: str
    dataset: str
    """the data set it is written for, as people call it"""
    published: Published | None = None
    """None where nobody has published one"""
    model: ResNet | CifarResNet | LibraryModel
    num_classes: int
    train_crop: RandomResizedCrop | PaddedCrop
    flip: bool
    """mirror half of the training images, left to right"""
    eval_crop: CenterCrop
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """subtracted from the RGB values, which are in [0, 1]"""
    std: tuple[float, float, float] = IMAGENET_STD
    """what the difference is divided by"""
    loss: CrossEntropy = CrossEntropy()
    optimizer: SGD
    schedule: Steps | Cosine | Linear | Constant
    clip_grad_norm: float | None = None
    """largest L2 norm of the gradient of a step; None: no clipping"""
    epochs: int
    """passes over the training images; the tail of a pass that does not fill a batch is left out"""
    global_batch_size: int
    """images per optimizer step, over all processes"""
    micro_batch_size: int
    """images per forward pass in one process: what batch normalisation computes its statistics over"""
    precision: Literal["fp32", "bf16", "fp16"]
    """of matrix products and convolutions; parameters, norms and the loss are always fp32"""
    seed: int = 0

    def __post_init__(self) -> None:
        _check_finite(self, "")
        for name in ("num_classes", "epochs", "global_batch_size", "micro_batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is not a positive number")
        if self.global_batch_size % self.micro_batch_size:
            raise ValueError(
                f"global_batch_size={self.global_batch_size} is not a multiple of "
                f"micro_batch_size={self.micro_batch_size}"
            )
        if not all(value > 0 for value in self.std):
            raise ValueError(f"std={self.std} has a value that is not positive")
        if self.clip_grad_norm is not None and not self.clip_grad_norm > 0:
            raise ValueError(f"clip_grad_norm={self.clip_grad_norm} is not positive; None switches clipping off")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed={self.seed} is not within 0 and 2**63 - 1")

    def accumulation(self, world_size: int) -> int:
        """Forward passes per process and optimizer step, so that `world_size` processes fill the global batch.

        Raises ValueError, naming the process counts that fit, where the micro-batches cannot be shared evenly.
        """
        micro_batches = self.global_batch_size // self.micro_batch_size
        if micro_batches % world_size:
            fitting = [str(count) for count in range(1, micro_batches + 1) if micro_batches % count == 0]
            raise ValueError(
                f"{world_size} processes cannot share global_batch_size={self.global_batch_size} in micro-batches of "
                f"{self.micro_batch_size}: use {', '.join(fitting)} processes, or change --global-batch-size or "
                f"--micro-batch-size"
            )
        return micro_batches // world_size
