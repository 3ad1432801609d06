"""How the weights are learned: optimizers, losses, learning rate over time, averages, what is fine-tuned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trainer.recipe.check import check_below_one, check_not_negative, check_positive_int

# -------------------------------------------------------------------------------------------------------- optimizer


@dataclass(frozen=True, kw_only=True)
class _Decay:
    """What all optimizers share: the peak of the learning rate, and what weight decay reaches."""

    lr: float
    """learning rate at the peak of the schedule, for the global batch as it is"""
    weight_decay: float = 1e-4
    decay_norm: bool = True
    """also decay the gamma and beta of normalisation layers"""
    decay_bias: bool = True
    """also decay the biases of other layers"""

    def __post_init__(self) -> None:
        check_not_negative("optimizer.lr", self.lr)
        check_not_negative("optimizer.weight_decay", self.weight_decay)


@dataclass(frozen=True, kw_only=True)
class SGD(_Decay):
    """Stochastic gradient descent as PyTorch writes it: v = momentum * v + g; w = w - lr * v.

    `weight_decay` is an L2 penalty, added to the gradient.
    """

    momentum: float = 0.9
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_momentum(self.momentum, self.nesterov)


@dataclass(frozen=True, kw_only=True)
class DecoupledSGD(SGD):
    """SGD whose decay does not pass through the momentum (Loshchilov and Hutter 2017, arXiv:1711.05101), as Composer
    counts it: w = w - (lr / peak lr) * weight_decay * w at each step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weight_decay and not self.lr:
            raise ValueError("optimizer.weight_decay of decoupled SGD is relative to optimizer.lr, which is 0")


@dataclass(frozen=True, kw_only=True)
class LAMB(_Decay):
    """Adam with a rate per layer, in proportion to the layer's norm (You et al. 2019, arXiv:1904.00962); timm's.

    `weight_decay` is decoupled: added to Adam's update before the layer's rate is found.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-6
    max_grad_norm: float | None = 1.0
    """largest L2 norm of the whole gradient, which is scaled down to it; None: no clipping"""

    def __post_init__(self) -> None:
        super().__post_init__()
        for value in self.betas:
            check_below_one("optimizer.betas", value)
        check_not_negative("optimizer.eps", self.eps)
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:
            raise ValueError(f"optimizer.max_grad_norm={self.max_grad_norm} is not positive; None switches it off")


@dataclass(frozen=True, kw_only=True)
class LARS(_Decay):
    """SGD with a rate per layer, in proportion to the layer's norm (You et al. 2017, arXiv:1708.03888); timm's."""

    momentum: float = 0.9
    nesterov: bool = False
    trust_coefficient: float = 0.001
    """a layer's rate is this times norm of its weights / norm of its gradient"""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_momentum(self.momentum, self.nesterov)
        check_not_negative("optimizer.trust_coefficient", self.trust_coefficient)


def _check_momentum(momentum: float, nesterov: bool) -> None:
    check_below_one("optimizer.momentum", momentum)
    if nesterov and not momentum:
        raise ValueError("optimizer.nesterov needs optimizer.momentum above 0")


# ------------------------------------------------------------------------------------------------------------- loss


@dataclass(frozen=True, kw_only=True)
class CrossEntropy:
    """Softmax cross-entropy."""

    label_smoothing: float = 0.0
    """probability spread over all classes (Szegedy et al. 2015, arXiv:1512.00567, section 7)"""

    def __post_init__(self) -> None:
        check_below_one("loss.label_smoothing", self.label_smoothing)


@dataclass(frozen=True, kw_only=True)
class BinaryCrossEntropy:
    """Every class a question of its own: sigmoid cross-entropy (Wightman et al. 2021, arXiv:2110.00476, section 3)."""

    label_smoothing: float = 0.0
    """probability spread over all classes"""
    target_threshold: float | None = None
    """targets above it become 1 and the others 0, so that a mixture holds both its classes; None: as they are"""
    over_classes: Literal["mean", "sum"] = "mean"
    """how the classes' losses make an image's: timm takes the mean, Composer the sum"""

    def __post_init__(self) -> None:
        check_below_one("loss.label_smoothing", self.label_smoothing)
        if self.target_threshold is not None:
            check_below_one("loss.target_threshold", self.target_threshold)


# ---------------------------------------------------------------------------------------------------- learning rate


@dataclass(frozen=True, kw_only=True)
class Warmup:
    """The first epochs, before the schedule proper begins."""

    epochs: float
    lr: float
    """learning rate of the first step (Goyal et al. 2017, section 2.2: 0.1, whatever the batch)"""
    shape: Literal["linear", "constant"] = "linear"
    """linear: from `lr` to the peak by equal amounts (Goyal: gradual); constant: `lr` until the end of the warmup"""

    def __post_init__(self) -> None:
        check_not_negative("schedule.warmup.epochs", self.epochs)
        check_not_negative("schedule.warmup.lr", self.lr)


@dataclass(frozen=True, kw_only=True)
class _Schedule:
    warmup: Warmup | None = None
    changes_every: Literal["step", "epoch"] = "step"
    """epoch: all steps of an epoch have the rate of its first, as in many reference scripts"""


@dataclass(frozen=True, kw_only=True)
class Steps(_Schedule):
    """The peak rate, multiplied by `factor` at each milestone."""

    milestones: tuple[float, ...]
    """epochs at which the rate drops"""
    factor: float = 0.1

    def __post_init__(self) -> None:
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"schedule.milestones={self.milestones} are not in increasing order")
        check_not_negative("schedule.factor", self.factor)


@dataclass(frozen=True, kw_only=True)
class Cosine(_Schedule):
    """Half a cosine from the peak to `final_lr` at the end of training (Loshchilov 2016, arXiv:1608.03983)."""

    final_lr: float = 0.0
    start_epoch: float | None = None
    """where the cosine begins; None: at the end of the warmup; 0: at once, the warmup covers its beginning (timm)"""

    def __post_init__(self) -> None:
        check_not_negative("schedule.final_lr", self.final_lr)
        if self.start_epoch is not None:
            check_not_negative("schedule.start_epoch", self.start_epoch)


@dataclass(frozen=True, kw_only=True)
class Linear(_Schedule):
    """A straight line from the peak, at the end of the warmup, to `final_lr` at the end of training."""

    final_lr: float = 0.0

    def __post_init__(self) -> None:
        check_not_negative("schedule.final_lr", self.final_lr)


@dataclass(frozen=True, kw_only=True)
class Constant(_Schedule):
    """The peak rate throughout."""


# --------------------------------------------------------------------------------------- averages, what is fine-tuned


@dataclass(frozen=True, kw_only=True)
class EMA:
    """An exponential moving average of weights and running statistics, evaluated beside them; the result is its own."""

    decay: float
    """share of the old average that each update keeps"""
    every: int = 1
    """steps from one update to the next"""
    start_epoch: float = 0.0
    """until then the average is a copy of the weights"""

    def __post_init__(self) -> None:
        check_below_one("ema.decay", self.decay)
        check_positive_int("ema.every", self.every)
        check_not_negative("ema.start_epoch", self.start_epoch)


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """How far the weights that training starts from may move. The classifier always learns at the full rate."""

    backbone_lr: float = 1.0
    """rate of all layers but the classifier, as a multiple of the classifier's; 0: they are frozen"""
    freeze_norms: bool = False
    """norms keep their running statistics, gamma and beta"""

    def __post_init__(self) -> None:
        check_not_negative("fine_tuning.backbone_lr", self.backbone_lr)
