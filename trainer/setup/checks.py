"""What must hold before training starts: the same input on all ranks, and a recipe that fits processes and data."""

from dataclasses import asdict, replace

import numpy as np
from torch import nn

from trainer.data.order import classes_in_window
from trainer.distributed.process_group import World, require_same
from trainer.errors import UserError, counted
from trainer.precise_bn import batch_norms
from trainer.recipe import Cosine, Recipe, Steps
from trainer.recipe_file import recipe_source
from trainer.run.environment import code
from trainer.settings import TrainSettings

_OWN = ("data", "run_dir", "initial_weights", "teacher_weights", "workers", "device")  # may differ between machines


def require_same_everywhere(recipe: Recipe, settings: TrainSettings, world: World) -> None:
    """Raises SharedError if ranks were started with different code, recipes, seeds or options.

    Paths and the number of loader threads may differ between machines; the contents of the files are compared later.
    """
    require_same(world, "code", code())
    require_same(world, "recipe", recipe_source(recipe))
    options = {f"--{name.replace('_', '-')}": value for name, value in asdict(settings).items() if name not in _OWN}
    require_same(world, "option", "\n".join(f"{name} {value}" for name, value in options.items()))


def accumulation_steps(recipe: Recipe, world: World) -> int:
    """Computes the micro-batches of each process in one step.

    Raises UserError if the processes cannot share a step evenly.
    """
    try:
        return recipe.accumulation(world.size)
    except ValueError as error:
        raise UserError(str(error)) from error


def misfit(recipe: Recipe, processes: int) -> str | None:
    """Returns the reason why this number of processes cannot share a step; None if they can."""
    micro_batches = recipe.global_batch_size // recipe.micro_batch_size
    if processes > micro_batches:
        smaller, rest = divmod(recipe.global_batch_size, processes)
        fits = smaller and not rest and smaller % (recipe.norm_batch_size or 1) == 0
        norms = "" if recipe.norm_batch_size else f", with norms over {smaller} images"
        remedy = f"; --micro-batch-size {smaller} would fit{norms}" if fits else ""
        plural = "" if micro_batches == 1 else "es"
        return f"a step has {micro_batches:,} micro-batch{plural}{remedy}"
    if micro_batches % processes:
        return f"{micro_batches:,} micro-batches cannot be shared evenly"
    wanted = recipe.precise_norm_images or 0
    if wanted % (recipe.micro_batch_size * processes):
        return f"precise_norm_images={wanted:,} cannot be shared evenly"
    return None


def steps_in_epoch(recipe: Recipe, images: int) -> int:
    """Computes the whole steps that `images` training images are enough for. Raises UserError if that is none."""
    if images < recipe.global_batch_size:
        raise UserError(
            f"global_batch_size={recipe.global_batch_size} is more than the {images} training images: "
            f"use a smaller --global-batch-size"
        )
    return images // recipe.global_batch_size


def check_norm_images(recipe: Recipe, images: int, world: World) -> None:
    """Raises UserError if precise_norm_images are more than the data, or cannot be shared evenly."""
    wanted, shared = recipe.precise_norm_images or 0, recipe.micro_batch_size * world.size
    if wanted > images:
        raise UserError(
            f"precise_norm_images={wanted} is more than the {images} training images: use a smaller "
            f"--precise-norm-images, a multiple of {shared}, or None"
        )
    if wanted % shared:
        raise UserError(
            f"precise_norm_images={wanted} cannot be shared by {world.size} processes in micro-batches of "
            f"{recipe.micro_batch_size}: use a multiple of {shared}, or None"
        )


def check_batch_norm(recipe: Recipe, module: nn.Module) -> None:
    """Raises UserError if batch norm is to be measured and there is none, and if SWA needs it to be measured.

    Only a network that is built knows: a library's may have norms of any kind.
    """
    has_norms, tuning = bool(batch_norms(module)), recipe.fine_tuning
    if recipe.precise_norm_images is not None and not has_norms:
        raise UserError(
            f"precise_norm_images={recipe.precise_norm_images} measures the statistics of batch norm, and "
            f"{type(module).__name__} has none: use --precise-norm-images None"
        )
    if recipe.swa and recipe.precise_norm_images is None and has_norms and not (tuning and tuning.keeps_statistics):
        raise UserError(
            f"swa needs norms of its own, and {type(module).__name__} has batch norm: set precise_norm_images, e.g. to "
            f"{64 * recipe.micro_batch_size}"
        )


def slow_start(settings: TrainSettings) -> list[str]:
    """Options that delay the first step, one line each."""
    return ["--compile: the first step compiles the model, which can take minutes"] if settings.compile else []


def order_mistakes(recipe: Recipe, labels: np.ndarray) -> list[str]:
    """Returns a line where the windows of a quasi-random order lack classes.

    `labels`: as the images lie in the file.
    """
    if not recipe.order:
        return []
    found, random = classes_in_window(labels, recipe.order)
    if found > 0.9 * random:
        return []
    enough, share = recipe.order, found
    while enough.stretch > 1 and share <= 0.99 * random:
        smaller = next(size for size in range(enough.stretch // 2, 0, -1) if enough.window % size == 0)
        enough = replace(enough, stretch=smaller)
        share, _ = classes_in_window(labels, enough)
    return [
        f"a window of {recipe.order.window} images holds {found:.0%} of the classes, because the file is sorted by "
        f"class: accuracy suffers. Use --order.stretch {enough.stretch}, a larger --order.window, or files written "
        f"by prepare --shuffle"
    ]


def likely_mistakes(recipe: Recipe) -> list[str]:
    """Values that are valid but probably not intended, one line each."""
    notes = []
    if isinstance(recipe.schedule, Steps):
        late = [milestone for milestone in recipe.schedule.milestones if milestone >= recipe.epochs]
        if late:
            notes.append(f"schedule.milestones {late} come after the last of {counted(recipe.epochs, 'epoch')}")
    ends = {
        "schedule.warmup.epochs": recipe.schedule.warmup.epochs if recipe.schedule.warmup else 0,
        "schedule.start_epoch": (recipe.schedule.start_epoch or 0) if isinstance(recipe.schedule, Cosine) else 0,
        "progressive.end_epoch": recipe.progressive.end_epoch if recipe.progressive else 0,
        "ema.start_epoch": recipe.ema.start_epoch if recipe.ema else 0,
        "swa.start_epoch": recipe.swa.start_epoch if recipe.swa else 0,
    }
    for name, epoch in ends.items():
        if epoch >= recipe.epochs:
            end = counted(recipe.epochs, "epoch")
            notes.append(f"{name}={epoch:g} is not before the end of {end}: it is never reached")
    if recipe.eval_crop.resolution > 2 * recipe.train_crop.resolution:
        notes.append(
            f"trained at {recipe.train_crop.resolution} px, but evaluated at {recipe.eval_crop.resolution} px: "
            f"see --eval-crop.resolution"
        )
    return notes
