"""Parameter groups by what a parameter is, the optimizer over them, and what else depends on its kind.

Every `match` over the union is exhaustive: mypy names each of them for an optimizer that is new in trainer.recipe.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from trainer.model.weights import classifiers
from trainer.optim.layer_decay import lr_factors
from trainer.optim.library_optimizer import library_optimizer, tensors_per_parameter
from trainer.process.compiler_import import eager_optimizer
from trainer.recipe import LAMB, LARS, SGD, AdamW, DecoupledSGD, FineTuning, LibraryOptimizer, Optimizer

NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@dataclass(frozen=True, kw_only=True)
class ParameterAudit:
    """What weight decay reaches, and which blocks start as the identity: `plan` prints it."""

    norm_tensors: int  # gammas, betas, and gains without a norm
    norm_tensors_decayed: int
    biases: int  # of other layers
    biases_decayed: int
    weights: int  # all other tensors, always decayed
    gammas: int
    gammas_zero: int

    def __str__(self) -> str:
        return (
            f"weight decay on {self.weights} weights, {self.biases_decayed} of {self.biases} biases, "
            f"{self.norm_tensors_decayed} of {self.norm_tensors} norm tensors; "
            f"{self.gammas_zero} of {self.gammas} gammas start at zero"
        )

    def unexpected(self, *, zero_gammas: bool) -> bool:
        """Whether gammas start at zero although the recipe does not ask for it, or none does although it does."""
        return zero_gammas != bool(self.gammas_zero)


def sort_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
    """Returns the model's trainable parameters as (weights, biases, norm tensors).

    A norm tensor is one that belongs to a normalisation module, whatever its name: trainers that look for "bn" in the
    name miss those of the shortcuts, 8 of ResNet-50's 106. A gain without a norm counts as one: LayerScale's gammas,
    those of an NFNet's convolutions, and every other tensor with one value per channel but a convolution's kernel.
    timm exempts those of one dimension only. MultiheadAttention's in_proj_bias and the q_bias of timm's transformers
    are biases.
    """
    weights: list[nn.Parameter] = []
    biases: list[nn.Parameter] = []
    norms: list[nn.Parameter] = []
    seen: set[nn.Parameter] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter in seen or not parameter.requires_grad:
                continue
            seen.add(parameter)
            per_channel = parameter.ndim <= 1 or parameter.shape[1:] == (1, 1)  # [C], or [C, 1, 1] times an image
            if parameter.shape[1:] == (1, 1, 1):  # times a kernel, unless it is one: depthwise, of 1 x 1
                per_channel = name != "weight"
            if is_norm(module):
                norms.append(parameter)
            elif per_channel and "bias" in name:
                biases.append(parameter)
            else:
                (norms if per_channel else weights).append(parameter)
    return weights, biases, norms


def is_norm(module: nn.Module) -> bool:
    """Whether this is a normalisation layer: torch's, or a library's own, such as timm's RmsNorm and EvoNorm2dS0.

    The latter share no class. They have norm in their name, and no tensors but some with one value per channel.
    """
    if isinstance(module, NORMS):
        return True
    tensors = list(module.parameters()) if "norm" in type(module).__name__.lower() else []
    return bool(tensors) and all(tensor.ndim == 1 for tensor in tensors)


def classifier_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Returns the tensors of the layers that the logits come from; empty if the model has no such layer."""
    return [parameter for name in classifiers(model) for parameter in model.get_submodule(name).parameters()]


def audit(spec: Optimizer, model: nn.Module) -> ParameterAudit:
    """Counts the trainable tensors of each kind, and all gammas; reads them, so call it before training."""
    weights, biases, norms = sort_parameters(model)
    gammas = [
        parameter
        for module in model.modules()
        if is_norm(module)
        for name, parameter in module.named_parameters(recurse=False)
        if name == "weight"
    ]
    return ParameterAudit(
        norm_tensors=len(norms),
        norm_tensors_decayed=len(norms) if spec.decay_norm else 0,
        biases=len(biases),
        biases_decayed=len(biases) if spec.decay_bias else 0,
        weights=len(weights),
        gammas=len(gammas),
        gammas_zero=sum(not gamma.any() for gamma in gammas),
    )


def build_optimizer(spec: Optimizer, model: nn.Module, fine_tuning: FineTuning | None = None) -> torch.optim.Optimizer:
    """Builds the optimizer over the model's trainable parameters, in groups of one weight decay and one rate.

    Every group has an "lr_factor": the schedule's rate times that is the group's "lr", which the caller sets before
    each step. It is 1, or in fine-tuning that of layer_decay.lr_factors, which slows weight decay too. Its
    "param_names" are for saved_state. No step reads from the device, except by a few of timm's (AdamP, SGDP, NovoGrad);
    but with fp16's scaler and timm's optimizers the scaler does, once per step.
    """
    groups = _groups(spec, model, fine_tuning)
    match spec:
        case DecoupledSGD():
            from timm.optim.sgdw import SGDW

            return SGDW(groups, lr=spec.lr, momentum=spec.momentum, nesterov=spec.nesterov)
        case SGD():  # fused, so that a step with fp16's scaler never waits for the device
            sgd = eager_optimizer(torch.optim.SGD)
            optimizer = sgd(groups, lr=spec.lr, momentum=spec.momentum, nesterov=spec.nesterov, fused=True)
            if spec.momentum:
                _start_at_rest(optimizer)
            return optimizer
        case AdamW():  # fused, as SGD
            return eager_optimizer(torch.optim.AdamW)(groups, lr=spec.lr, betas=spec.betas, eps=spec.eps, fused=True)
        case LAMB():
            from timm.optim.lamb import Lamb

            return Lamb(groups, lr=spec.lr, betas=spec.betas, eps=spec.eps, max_grad_norm=spec.max_grad_norm)
        case LARS():
            from timm.optim.lars import Lars

            momentum, trust = spec.momentum, spec.trust_coefficient
            return Lars(groups, lr=spec.lr, momentum=momentum, nesterov=spec.nesterov, trust_coeff=trust)
        case LibraryOptimizer():
            return library_optimizer(spec, groups)


def _start_at_rest(optimizer: torch.optim.SGD) -> None:
    """Gives every parameter a velocity of zero, from which the first step is the same as without one.

    The fused step makes them itself, but in memory as it finds it where fp16's scaler leaves the first step out, and
    every later step adds to that (seen in torch 2.15, on a CPU).
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def state_tensors(spec: Optimizer) -> int:
    """Counts the tensors of a parameter's size that the optimizer keeps for each parameter."""
    match spec:
        case AdamW() | LAMB():
            return 2  # first and second moment
        case SGD() | DecoupledSGD() | LARS():
            return 1 if spec.momentum else 0
        case LibraryOptimizer():
            return tensors_per_parameter(spec)


class BatchScaling(NamedTuple):
    """How the literature changes the learning rate with the batch: lr is proportional to batch ** exponent."""

    exponent: float
    name: str  # with its source


def batch_scaling(spec: Optimizer) -> BatchScaling | None:
    """Returns the usual rule for this optimizer; `plan` warns where a recipe's batch was changed and its rate was not.

    None: the literature has no rule for it.
    """
    match spec:
        case AdamW():
            return BatchScaling(0.5, "square-root scaling of Adam (Malladi et al. 2022, arXiv:2205.10287)")
        case LAMB():
            return BatchScaling(0.5, "LAMB's square-root scaling (You et al. 2019, section 4)")
        case SGD() | DecoupledSGD() | LARS():
            return BatchScaling(1.0, "linear scaling (Goyal et al. 2017, section 2.1)")
        case LibraryOptimizer():
            return None


def _groups(spec: Optimizer, model: nn.Module, fine_tuning: FineTuning | None) -> list[dict[str, Any]]:
    """One group for each pair of weight decay and lr_factor that a trainable parameter has.

    LAMB and LARS scale the rate of each layer that the recipe decays, even at a decay of 0. Exempt ones keep the
    rate of the group: norms and biases are small or zero, and so would be a rate in proportion to them.
    """
    weights, biases, norms = sort_parameters(model)
    decayed = weights + (biases if spec.decay_bias else []) + (norms if spec.decay_norm else [])
    exempt = ([] if spec.decay_bias else biases) + ([] if spec.decay_norm else norms)
    weight_decay = spec.weight_decay
    if isinstance(spec, DecoupledSGD) and weight_decay:
        weight_decay /= spec.lr  # timm multiplies it by the step's rate, Composer by its share of the peak's
    factors = lr_factors(model, fine_tuning) if fine_tuning else {}
    adapts = isinstance(spec, LAMB | LARS)
    found: dict[tuple[float, bool, float], list[nn.Parameter]] = {}
    for decay, adapted, parameters in ((weight_decay, adapts, decayed), (0.0, False, exempt)):
        for parameter in parameters:
            found.setdefault((decay, adapted, factors.get(parameter, 1.0)), []).append(parameter)
    names = {parameter: name for name, parameter in model.named_parameters()}
    return [
        {"params": parameters, "param_names": [names[parameter] for parameter in parameters]}
        | {"weight_decay": decay, "lr": spec.lr * lr_factor, "lr_factor": lr_factor}
        | ({"always_adapt": adapted} if adapts else {})  # timm's default adapts only where the decay is not 0
        for (decay, adapted, lr_factor), parameters in found.items()
    ]
