"""Fine-tuning: which weights stay as they are, and which norms keep their running statistics."""

from torch import nn

from trainer.errors import UserError
from trainer.model.weights import classifiers
from trainer.optim.layer_decay import lr_factors
from trainer.optim.optimizer import classifier_parameters, is_norm
from trainer.recipe import FineTuning


def apply_fine_tuning(model: nn.Module, spec: FineTuning) -> str:
    """Freezes what `spec` says by requires_grad=False, and returns a sentence for the log.

    backbone_lr=0 freezes every tensor outside the classifier, freeze_norms the gammas and betas of all norms. Call it
    before the optimizer and DistributedDataParallel are built: both look at requires_grad only then. Raises UserError
    for a model without a classifier, without layers for layer_decay, and where nothing is left to train.
    """
    heads = set(classifier_parameters(model))
    if not heads:
        raise UserError(
            f"fine_tuning: {type(model).__name__} has no classifier that can be distinguished from its backbone"
        )
    lr_factors(model, spec)  # raises UserError where it has no layers for spec.layer_decay
    if spec.backbone_lr == 0:
        for parameter in model.parameters():
            if parameter not in heads:
                parameter.requires_grad_(False)
    if spec.freeze_norms:
        for module in model.modules():
            if is_norm(module):
                for parameter in module.parameters(recurse=False):
                    parameter.requires_grad_(False)
    parameters = list(model.parameters())
    frozen = sum(not parameter.requires_grad for parameter in parameters)
    if frozen == len(parameters):
        raise UserError(f"fine_tuning: all {frozen} tensors of {type(model).__name__} are frozen, nothing is trained")
    norms = sum(is_norm(module) for module in model.modules())
    decay = f", times {spec.layer_decay:g} for each layer further down" if spec.layer_decay != 1 else ""
    held = [f"{frozen} of {len(parameters)} tensors are frozen"] if frozen else []
    if kept := len(_frozen_norms(model, spec)):
        held.append(f"{kept} of {norms} norms keep their statistics")
    return (
        f"fine-tuning: {', '.join(held)}{'; ' if held else ''}{' and '.join(classifiers(model))} at the full rate, "
        f"other layers at {spec.backbone_lr:g} of it{decay}"
    )


def train_mode(model: nn.Module, spec: FineTuning | None) -> None:
    """Calls model.train(), except for frozen norms: those use their running statistics and do not move them."""
    model.train()
    if spec is not None:
        for norm in _frozen_norms(model, spec):
            norm.eval()


def _frozen_norms(model: nn.Module, spec: FineTuning) -> list[nn.Module]:
    if not spec.freeze_norms and spec.backbone_lr != 0:
        return []
    heads = [model.get_submodule(name) for name in classifiers(model)]
    learning = set() if spec.freeze_norms else {module for head in heads for module in head.modules()}
    return [module for module in model.modules() if is_norm(module) and module not in learning]
