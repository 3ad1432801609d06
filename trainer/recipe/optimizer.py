"""Optimizers, the peak of their learning rate, and what weight decay reaches."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from trainer.recipe.check import check_below_one, check_not_negative

__all__ = ["LAMB", "LARS", "SGD", "AdamW", "DecoupledSGD", "LibraryOptimizer", "Optimizer"]


@dataclass(frozen=True, kw_only=True)
class _Decay:
    """What all optimizers share: the peak of the learning rate, and what weight decay reaches."""

    lr: float
    """learning rate at the peak of the schedule; nothing rescales it with the batch size"""
    weight_decay: float = 1e-4
    """coefficient of weight decay; the class says how it enters the step"""
    decay_norm: bool = True
    """also decay the gamma and beta of norm layers, and other scales with one value per channel"""
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
    """how much of the last step's v remains"""
    nesterov: bool = False
    """Nesterov's momentum: the step is along g + momentum * v"""

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
class AdamW(_Decay):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2017, arXiv:1711.05101, algorithm 2); torch's.

    Decay at each step: w = w - lr * weight_decay * w, with the step's own rate.
    """

    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    """decay of the running means of the gradient and of its square"""
    eps: float = 1e-8
    """added to the root of the second mean"""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_moments(self.betas, self.eps)


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
        _check_moments(self.betas, self.eps)
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:
            raise ValueError(f"optimizer.max_grad_norm={self.max_grad_norm} is not positive; None switches it off")


@dataclass(frozen=True, kw_only=True)
class LARS(_Decay):
    """SGD with a rate per layer, in proportion to the layer's norm (You et al. 2017, arXiv:1708.03888); timm's."""

    momentum: float = 0.9
    nesterov: bool = False
    trust_coefficient: float = 0.001
    """a layer's rate is this times |w| / (|g| + weight_decay * |w|), of the L2 norms of its weights and gradient"""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_momentum(self.momentum, self.nesterov)
        check_not_negative("optimizer.trust_coefficient", self.trust_coefficient)


OptionValue = bool | int | float | str | tuple[float, ...] | None


@dataclass(frozen=True, kw_only=True)
class LibraryOptimizer(_Decay):
    """An optimizer of timm by its name there, e.g. timm/lion, timm/nadamw or timm/adan.

    The rate, `weight_decay` and what it reaches are set here; each optimizer uses the decay in its own way, coupled or
    decoupled. Left out: second-order optimizers, and PSGD Kron, which is not deterministic.
    """

    name: str
    options: dict[str, OptionValue] = field(default_factory=dict, hash=False)  # dicts have none, and recipes need one
    """values of the optimizer's own, e.g. {"betas": (0.95, 0.98)}; the others have timm's defaults"""

    def __post_init__(self) -> None:
        super().__post_init__()
        library, _, name = self.name.partition("/")
        if library != "timm" or not name:
            raise ValueError(f"optimizer.name={self.name!r} is not timm/NAME")
        for option, value in self.options.items():
            if option in ("lr", "weight_decay", "params"):
                raise ValueError(f"optimizer.options holds {option!r}: set optimizer.{option} instead")
            items = value if isinstance(value, tuple) else (value,)
            if not all(item is None or type(item) in (bool, int, float, str) for item in items):
                raise ValueError(f"optimizer.options: {option}={value!r} is not a number, a word or a tuple of numbers")
            if not all(math.isfinite(item) for item in items if isinstance(item, float)):
                raise ValueError(f"optimizer.options: {option}={value} is not finite")


def _check_moments(betas: tuple[float, float], eps: float) -> None:
    for value in betas:
        check_below_one("optimizer.betas", value)
    check_not_negative("optimizer.eps", eps)


def _check_momentum(momentum: float, nesterov: bool) -> None:
    check_below_one("optimizer.momentum", momentum)
    if nesterov and not momentum:
        raise ValueError("optimizer.nesterov needs optimizer.momentum above 0")


Optimizer = SGD | DecoupledSGD | AdamW | LAMB | LARS | LibraryOptimizer
