"""Parameter groups by what a parameter is, and the optimizer over them."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from trainer.recipe import SGD

_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@dataclass(frozen=True, kw_only=True)
class ParameterAudit:
    """What weight decay reaches, and which blocks start as the identity: printed before training."""

    norm_tensors: int  # gammas and betas
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


def sort_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
    """The model's trainable parameters as (weights, biases, norm tensors).

    A norm tensor is one that belongs to a normalisation module, whatever its name: trainers that look for "bn" in the
    name miss those of the shortcuts, 8 of ResNet-50's 106.
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
            group = norms if isinstance(module, _NORMS) else biases if name == "bias" else weights
            group.append(parameter)
    return weights, biases, norms


def audit(spec: SGD, model: nn.Module) -> ParameterAudit:
    """Counts the tensors of each kind; reads the gammas, so call it before training, not during."""
    weights, biases, norms = sort_parameters(model)
    gammas = [
        parameter
        for module in model.modules()
        if isinstance(module, _NORMS)
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


def build_optimizer(spec: SGD, model: nn.Module) -> torch.optim.SGD:
    """SGD in two groups, decayed and not. Fused, so that a step with fp16's scaler never waits for the device."""
    weights, biases, norms = sort_parameters(model)
    decayed = weights + (biases if spec.decay_bias else []) + (norms if spec.decay_norm else [])
    exempt = ([] if spec.decay_bias else biases) + ([] if spec.decay_norm else norms)
    groups: list[dict[str, Any]] = [{"params": decayed}]
    if exempt:
        groups.append({"params": exempt, "weight_decay": 0.0})
    return torch.optim.SGD(
        groups,
        lr=spec.lr,
        momentum=spec.momentum,
        nesterov=spec.nesterov,
        weight_decay=spec.weight_decay,
        fused=True,
    )
