"""Gradient clipping: by the norm of the whole gradient, by value, or unit by unit (AGC)."""

from collections.abc import Callable

import torch
from torch import nn

from trainer.optim.optimizer import classifier_parameters
from trainer.recipe import Recipe


def build_clipping(recipe: Recipe, module: nn.Module) -> Callable[[], torch.Tensor]:
    """Returns a function that clips the gradients of `module` in place, as the recipe says.

    It returns the L2 norm of the whole gradient before clipping, a scalar on the module's device, and reads nothing
    from it. Adaptive clipping leaves out the classifier, as Brock et al. 2021 do (arXiv:2102.06171, section 4.1).
    """
    parameters = list(module.parameters())
    heads = set(classifier_parameters(module)) if recipe.clip_grad_agc is not None else set()
    units = [parameter for parameter in parameters if parameter not in heads]

    def clip() -> torch.Tensor:
        norm = nn.utils.get_total_norm([each.grad for each in parameters if each.grad is not None])
        if recipe.clip_grad_norm is not None:
            nn.utils.clip_grads_with_norm_(parameters, recipe.clip_grad_norm, norm)
        elif recipe.clip_grad_value is not None:
            nn.utils.clip_grad_value_(parameters, recipe.clip_grad_value)
        elif recipe.clip_grad_agc is not None:
            from timm.utils.agc import adaptive_clip_grad

            adaptive_clip_grad(units, clip_factor=recipe.clip_grad_agc)  # type: ignore[no-untyped-call]
        return norm

    return clip
