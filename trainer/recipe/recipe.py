"""The whole recipe, and the result it is measured against."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from trainer.recipe.augmentation import Augmentation, Color, Mixing, RandomErasing
from trainer.recipe.check import check_finite
from trainer.recipe.crop import CenterCrop, PaddedCrop, ProgressiveResizing, TrainCrop
from trainer.recipe.distillation import Distillation
from trainer.recipe.ema import EMA, SWA
from trainer.recipe.fine_tuning import FineTuning
from trainer.recipe.loss import BinaryCrossEntropy, CrossEntropy, Loss
from trainer.recipe.model import LibraryModel, Model
from trainer.recipe.optimizer import Optimizer
from trainer.recipe.order import QuasiRandom
from trainer.recipe.schedule import Schedule

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Published", "Recipe"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published result, with what has to be known before a run can be compared with it."""

    top1: float  # accuracy in %
    sd: float | None = None  # standard deviation over the runs, in %
    runs: int | None  # top1 is their mean; None: the source does not state the number
    statistic: Literal["final", "median of the last 5", "best"] | None  # of a run's epochs; None: not stated
    protocol: str  # data set and split, resolution, crop, views
    source: str  # paper and table, or the file that states it
    incomparable: str | None = None  # why runs of the recipe cannot be compared with it; None: they can

    @property
    def comparable(self) -> bool:
        """Whether runs of the recipe can be compared with this result."""
        return self.incomparable is None

    @property
    def value(self) -> str:
        """The accuracy, with its deviation where there is one."""
        return f"{self.top1}{f' +- {self.sd:g}' if self.sd is not None else ''} %"

    @property
    def conditions(self) -> str:
        """The protocol, the epochs and the runs behind the accuracy."""
        epochs = {
            "final": "last epoch",
            "median of the last 5": "median of the last 5 epochs",
            "best": "best epoch",
            None: "epoch not stated",
        }[self.statistic]
        runs = "number of runs not stated" if self.runs is None else f"{self.runs} run{'s' if self.runs > 1 else ''}"
        reason = f"; not comparable: {self.incomparable}" if self.incomparable else ""
        return f"{self.protocol}, {epochs}, {runs}{reason}"

    def __str__(self) -> str:
        return f"{self.value} top-1 ({self.conditions}; {self.source})"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides which weights come out, and the result it is measured against."""

    name: str
    dataset: str
    """the data set it is written for, as people call it"""
    published: Published | None = None
    """None if nobody has published one"""

    model: Model
    num_classes: int
    """outputs of the classifier"""

    order: QuasiRandom | None = None
    """the order of the training images; None: one random permutation of all of them per epoch"""
    train_crop: TrainCrop
    progressive: ProgressiveResizing | None = None
    """training crops that grow; None: always of the crop's resolution"""
    flip: bool
    """mirror half of the training images, left to right"""
    color: Color | None = None
    """change of colours"""
    augmentation: Augmentation | None = None
    """policy applied to each crop"""
    erasing: RandomErasing | None = None
    """boxes cut out of the crops"""
    mixing: Mixing | None = None
    """mixup and cutmix"""
    repeats: int = 1
    """times that each image of an epoch appears in it, augmented each time, if possible in different micro-batches;
    an epoch then has 1/repeats of the images (repeated augmentation, Hoffer et al. 2019, arXiv:1901.09335)"""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """subtracted from the RGB values, which are in [0, 1]"""
    std: tuple[float, float, float] = IMAGENET_STD
    """what the difference is divided by"""

    eval_crop: CenterCrop
    """how the result is measured, after every epoch"""
    also_eval_crop: CenterCrop | None = None
    """a second evaluation of the final weights, beside the result"""

    loss: Loss = field(default_factory=CrossEntropy)
    distillation: Distillation | None = None
    """a teacher, whose predictions are targets beside the labels or in place of them; None: labels alone"""
    optimizer: Optimizer
    schedule: Schedule
    clip_grad_norm: float | None = None
    """largest L2 norm of the gradient of a step; None: not clipped by its norm"""
    clip_grad_value: float | None = None
    """largest absolute value of each element of the gradient; None: not clipped by value"""
    clip_grad_agc: float | None = None
    """largest gradient norm / weight norm of each output unit of each layer except the classifier: adaptive gradient
    clipping, Brock et al. 2021, arXiv:2102.06171, section 4; None: off"""
    ema: EMA | None = None
    """average of the weights over time; None, and no `swa`: the result is that of the last weights"""
    swa: SWA | None = None
    """mean of the weights after several epochs, in place of `ema`"""
    fine_tuning: FineTuning | None = None
    """for weights that were trained before; None: all layers learn at one rate"""

    epochs: int
    """epochs, each of as many images as the data set has; a last, partial batch is left out"""
    global_batch_size: int
    """images per optimizer step, over all processes"""
    micro_batch_size: int
    """images per forward pass in one process"""
    norm_batch_size: int | None = None
    """images that batch normalisation computes its statistics over, a part of the micro-batch; None: all of it"""
    sync_norm: bool = False
    """batch normalisation computes its statistics over the micro-batches of all processes in a forward pass"""
    precise_norm_images: int | None = None
    """training images over which batch norm's statistics are recomputed before each evaluation (precise BN, Wu and
    Johnson 2021, arXiv:2105.07576, section 3); None: the running averages are used"""
    precision: Literal["fp32", "tf32", "bf16", "fp16"]
    """number format of matrix products and convolutions; parameters, norms and the loss are always fp32. tf32: a GPU
    rounds their inputs to 10 mantissa bits, as most frameworks do unasked"""
    gradient_compression: Literal["bf16"] | None = None
    """number format of the gradients that processes exchange, for slow networks; None: fp32"""
    seed: int = 0
    """seed of the initialisation, the order and all random draws"""

    def __post_init__(self) -> None:
        check_finite(self, "")
        for name in ("num_classes", "repeats", "epochs", "global_batch_size", "micro_batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is not a positive number")
        if self.epochs > 1_000_000:
            raise ValueError(f"epochs={self.epochs} is more than a million")
        _check_multiple(self, "global_batch_size", "micro_batch_size")
        if self.norm_batch_size is not None:
            if self.sync_norm:
                raise ValueError(
                    "sync_norm is for more images per norm and norm_batch_size for fewer: use only one of them"
                )
            _check_multiple(self, "micro_batch_size", "norm_batch_size")
        frozen_norms = self.fine_tuning and self.fine_tuning.keeps_statistics
        if self.ema and self.swa:
            raise ValueError(
                "ema and swa both average the weights, and only one of them gives the result: use only one"
            )
        may_lack_norms = isinstance(self.model, LibraryModel)  # which is known once it is built
        if self.swa and self.precise_norm_images is None and not frozen_norms and not may_lack_norms:
            raise ValueError("swa needs norms of its own: set precise_norm_images, e.g. to 64 * micro_batch_size")
        if self.precise_norm_images is not None:
            _check_multiple(self, "precise_norm_images", "micro_batch_size")
            if frozen_norms:
                raise ValueError(
                    "precise_norm_images measures the statistics that fine_tuning keeps: use only one of them"
                )
        if not all(value > 0 for value in self.std):
            raise ValueError(f"std={self.std} has a value that is not positive")
        _check_clipping(self)
        if self.num_classes < 2:
            raise ValueError(f"num_classes={self.num_classes}: there is nothing to learn, use 2 or more")
        if self.mixing and self.micro_batch_size < 2:
            raise ValueError("mixing needs two images, and micro_batch_size=1: use 2 or more")
        if self.progressive and isinstance(self.train_crop, PaddedCrop):
            raise ValueError("progressive needs a train_crop that is resized, and PaddedCrop is not")
        if self.progressive and self.progressive.start_resolution > self.train_crop.resolution:
            raise ValueError(
                f"progressive.start_resolution={self.progressive.start_resolution} is more than "
                f"train_crop.resolution={self.train_crop.resolution}: crops grow, they do not shrink"
            )
        if isinstance(self.loss, BinaryCrossEntropy) and self.loss.target_threshold is not None:
            floor = self.loss.label_smoothing / self.num_classes
            if self.loss.target_threshold < floor:
                raise ValueError(f"loss.target_threshold={self.loss.target_threshold} is below {floor:g}, every target")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed={self.seed} is not within 0 and 2**63 - 1")

    @property
    def average(self) -> EMA | SWA | None:
        """The average of the weights, whose evaluation is the result; None: the result is that of the last weights."""
        return self.ema or self.swa

    def accumulation(self, world_size: int) -> int:
        """Forward passes per process and optimizer step, so that `world_size` processes fill the global batch.

        Raises ValueError, naming the process counts that fit, if the micro-batches cannot be shared evenly.
        """
        micro_batches = self.global_batch_size // self.micro_batch_size
        if micro_batches % world_size:
            most = min(micro_batches, 1_000_000)
            fitting = [str(count) for count in range(1, most + 1) if micro_batches % count == 0]
            raise ValueError(
                f"{world_size} processes cannot share global_batch_size={self.global_batch_size} in micro-batches of "
                f"{self.micro_batch_size}: use {', '.join(fitting)} processes, or change --global-batch-size or "
                f"--micro-batch-size"
            )
        return micro_batches // world_size


def _check_clipping(recipe: Recipe) -> None:
    limits = {name: getattr(recipe, name) for name in ("clip_grad_norm", "clip_grad_value", "clip_grad_agc")}
    used = [name for name, limit in limits.items() if limit is not None]
    for name in used:
        if not limits[name] > 0:
            raise ValueError(f"{name}={limits[name]} is not positive; None switches clipping off")
    if len(used) > 1:
        raise ValueError(f"{' and '.join(used)} are both set: clip in one way, and set the others to None")


def _check_multiple(recipe: Recipe, whole: str, part: str) -> None:
    total, size = getattr(recipe, whole), getattr(recipe, part)
    if size < 1 or total < size or total % size:
        raise ValueError(f"{whole}={total} is not a multiple of {part}={size}")
