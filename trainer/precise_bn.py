"""Precise BN: norm statistics measured on training images with fixed weights, instead of running averages."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from trainer.data.loader import Loader
from trainer.data.stream import train_stream
from trainer.distributed.process_group import World
from trainer.distributed.run_ahead import RunAhead, wait_for_device
from trainer.precision import Precision, autocast
from trainer.recipe import Recipe


def remeasure_norms(recipe: Recipe, networks: dict[str, nn.Module], loader: Loader, world: World, epoch: int) -> None:
    """Measures each network's norms over the first recipe.precise_norm_images augmented samples of `epoch`."""
    assert recipe.precise_norm_images is not None
    micro_batches = recipe.precise_norm_images // recipe.micro_batch_size // world.size
    for network in networks.values():
        stream = train_stream(
            recipe, loader, world, epoch=epoch, accumulation=micro_batches, first_samples=recipe.precise_norm_images
        )
        measure_norms(network, (batch.images for batch in stream), world, recipe.precision)


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """Lists the norms of `model` that have running statistics."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]


@torch.no_grad()
def measure_norms(model: nn.Module, batches: Iterable[Tensor], world: World, precision: Precision) -> None:
    """Replaces the running mean and variance of every BatchNorm with those of its input over all images of all ranks.

    `model` is the module itself, not DDP's wrapper. `batches`: float32 [N, 3, H, W] on the model's device. N is that of
    training, because norms normalise each batch by its own statistics here too. Called by all ranks together, each with
    its share. Parameters, gradients, modes and num_batches_tracked do not change. Raises ValueError if a norm gets
    no image, and then changes nothing.

    The mean is E[m] and the variance E[m^2 + v] - E[m]^2 for batches with means m and variances v (Wu and Johnson 2021,
    arXiv:2105.07576, section 3; pycls' compute_precise_bn_stats): those of all values together. The variance is the
    unbiased one, as in PyTorch's running statistics. torch.optim.swa_utils.update_bn averages v alone, so it ignores
    how much the batch means differ. It also enables dropout and drop path; here they are off, as in evaluation.
    """
    norms = batch_norms(model)
    if not norms:
        return
    sums = [torch.zeros(3, norm.num_features, dtype=torch.float64, device=world.device) for norm in norms]
    modes = {module: module.training for module in model.modules()}
    run_ahead = RunAhead(world.device)
    hooks = [norm.register_forward_pre_hook(partial(_add, total)) for norm, total in zip(norms, sums, strict=True)]
    try:
        model.eval()
        for norm in norms:
            norm.training = True  # not train(), which would also change a library's submodules inside the norm
            norm.track_running_stats = False
        with autocast(precision, world.device):
            for images in batches:
                model.forward(images)  # not model(images): compiled code would skip the hooks
                run_ahead.after_batch()
    finally:
        for hook in hooks:
            hook.remove()
        for norm in norms:
            norm.track_running_stats = True
        for module, training in modes.items():
            module.training = training

    everything = torch.cat(sums, dim=1)
    if world.size > 1:
        dist.all_reduce(everything)
    wait_for_device(world.device)
    count, total, squares = everything
    if not count.all():
        raise ValueError("norms cannot be measured: no training image has reached all of them")
    mean = total / count
    var = (squares - total * mean).clamp(min=0) / (count - 1).clamp(min=1)
    sizes = [norm.num_features for norm in norms]
    for norm, norm_mean, norm_var in zip(norms, mean.split(sizes), var.split(sizes), strict=True):
        assert norm.running_mean is not None and norm.running_var is not None
        norm.running_mean.copy_(norm_mean)
        norm.running_var.copy_(norm_var)


def _add(sums: Tensor, _norm: nn.Module, inputs: tuple[Tensor]) -> None:
    """Adds a norm's input [N, C, ...] to its float64 sums [3, C]: the count, the sum and the sum of squares.

    float32 is exact enough for the moments of one batch about its own mean; only the sums need float64.
    """
    x = inputs[0].float()
    var, mean = torch.var_mean(x, dim=[0, *range(2, x.ndim)], correction=0)
    var, mean, count = var.double(), mean.double(), x.numel() // x.shape[1]
    sums += torch.stack([torch.full_like(mean, count), count * mean, count * (var + mean.square())])
