"""The learning rate as a pure function of the position in training."""

import math

from trainer.recipe import Constant, Cosine, Linear, Recipe, Schedule, Steps


def lr_of(recipe: Recipe, epoch: float) -> float:
    """Computes the recipe's learning rate of the step that starts at `epoch`; see lr_at."""
    return lr_at(recipe.schedule, peak=recipe.optimizer.lr, epoch=epoch, epochs=recipe.epochs)


def lr_at(schedule: Schedule, *, peak: float, epoch: float, epochs: int) -> float:
    """Computes the learning rate of the step that starts at `epoch`, a fractional number of epochs in [0, epochs).

    The gradual warmup adds a constant amount per step, from `warmup.lr` to `peak` (Goyal et al. 2017, section 2.2), or
    per epoch where the rate changes every epoch. After it the rate is the peak until its own curve begins.
    """
    if schedule.changes_every == "epoch":
        epoch = math.floor(epoch)
    warmup = schedule.warmup
    if warmup and epoch < warmup.epochs:
        if warmup.shape == "constant":
            return warmup.lr
        return warmup.lr + (peak - warmup.lr) * epoch / warmup.epochs
    start = warmup.epochs if warmup else 0.0
    if isinstance(schedule, Cosine) and schedule.start_epoch is not None:
        start = schedule.start_epoch
    progress = max(0.0, (epoch - start) / max(epochs - start, 1e-12))
    match schedule:
        case Steps(milestones=milestones, factor=factor):
            return peak * factor ** sum(epoch >= milestone for milestone in milestones)
        case Cosine(final_lr=final_lr):
            return final_lr + (peak - final_lr) * (1 + math.cos(math.pi * progress)) / 2
        case Linear(final_lr=final_lr):
            return peak + (final_lr - peak) * progress
        case Constant():
            return peak
