"""What a run needs before its first step, each part checked and the same on all ranks."""

import hashlib
import sys
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import nn

from trainer.data import Split, open_source
from trainer.data.loader import Loader, check_square, default_workers
from trainer.distributed.process_group import World, on_every_rank, require_same
from trainer.errors import UserError
from trainer.evaluation.result import short
from trainer.fine_tuning import apply_fine_tuning
from trainer.model import build_model, load_initial_weights, without_pretrained
from trainer.optimizer import audit
from trainer.recipe import Cosine, LibraryModel, PaddedCrop, Recipe, Steps
from trainer.recipe_file import recipe_source
from trainer.run.checkpoint import State
from trainer.run.directory import Run
from trainer.run.environment import changed_rounding, code, environment
from trainer.run.state import Position
from trainer.settings import TrainSettings


def open_loader(data: str, split: Split, recipe: Recipe, resolution: int, workers: int | None, world: World) -> Loader:
    """One split's images at this resolution; the content is compared with its checksum by one process per machine."""
    source = open_source(
        data, split, num_classes=recipe.num_classes, resolution=resolution, check_content=world.local_rank == 0
    )
    return Loader(source, workers=workers or default_workers(world.local_size), pin_memory=world.device.type == "cuda")


def open_loaders(recipe: Recipe, settings: TrainSettings, world: World, stack: ExitStack) -> tuple[Loader, Loader]:
    """The training and validation images. One process of each machine checks the files before the others open them."""

    def open_one(split: Split, resolution: int) -> Loader:
        loader = open_loader(settings.data, split, recipe, resolution, settings.workers, world)
        return stack.enter_context(loader)

    def open_both() -> tuple[Loader, Loader]:
        train_loader = open_one("train", recipe.train_crop.resolution)
        if isinstance(recipe.train_crop, PaddedCrop):
            check_square(train_loader.source, recipe.train_crop.resolution)
        eval_loader = open_one("val", recipe.eval_crop.resolution)
        eval_loader.source.sizes(np.arange(len(eval_loader)))  # what cannot be opened shows now, not after an epoch
        if train_loader.source.classes != eval_loader.source.classes:
            raise UserError(f"train and val in {settings.data} have other classes: prepare them together")
        return train_loader, eval_loader

    first = on_every_rank(world, lambda: open_both() if world.local_rank == 0 else None)
    train_loader, eval_loader = on_every_rank(world, lambda: first or open_both())
    for split, loader in (("training", train_loader), ("validation", eval_loader)):
        require_same(world, f"{split} data", loader.source.checksum)
    return train_loader, eval_loader


def require_same_everywhere(recipe: Recipe, settings: TrainSettings, world: World) -> None:
    """Raises SharedError where ranks were started with another code, recipe, seed or option, before it can matter.

    Where data and runs are, and how many threads read, is each machine's own matter; what it reads is compared later.
    """
    require_same(world, "code", code())
    require_same(world, "recipe", recipe_source(recipe))
    own = ("data", "run_dir", "initial_weights", "workers", "device")
    options = {f"--{name.replace('_', '-')}": value for name, value in asdict(settings).items() if name not in own}
    require_same(world, "option", "\n".join(f"{name} {value}" for name, value in options.items()))


def accumulation_steps(recipe: Recipe, world: World) -> int:
    try:
        return recipe.accumulation(world.size)
    except ValueError as error:
        raise UserError(str(error)) from error


def check_norm_images(recipe: Recipe, images: int, world: World) -> None:
    """Raises UserError where precise_norm_images cannot be taken from the data or shared by the processes."""
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


def steps_in_epoch(recipe: Recipe, images: int) -> int:
    if images < recipe.global_batch_size:
        raise UserError(
            f"global_batch_size={recipe.global_batch_size} is more than the {images} training images: "
            f"use a smaller --global-batch-size"
        )
    return images // recipe.global_batch_size


def summary(recipe: Recipe, run: Run, world: World, at: Position, train_images: int, eval_images: int) -> str:
    """The first line of a run: what is about to happen, and on what."""
    processes = "1 process" if world.size == 1 else f"{world.size} processes"
    device = torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else "CPU"
    return (
        f"{recipe.name}: {train_images:,} training and {eval_images:,} validation images, {at.steps_per_epoch:,} steps "
        f"x {recipe.epochs} epochs, {processes} on {device}, {recipe.precision} -> {run.folder}"
    )


def warnings(recipe: Recipe) -> list[str]:
    """What is allowed, and yet hardly meant."""
    notes = []
    if isinstance(recipe.schedule, Steps):
        late = [milestone for milestone in recipe.schedule.milestones if milestone >= recipe.epochs]
        if late:
            notes.append(f"note: schedule.milestones {late} come after the last of {recipe.epochs} epochs")
    ends = {
        "schedule.warmup.epochs": recipe.schedule.warmup.epochs if recipe.schedule.warmup else 0,
        "schedule.start_epoch": (recipe.schedule.start_epoch or 0) if isinstance(recipe.schedule, Cosine) else 0,
        "progressive.end_epoch": recipe.progressive.end_epoch if recipe.progressive else 0,
        "ema.start_epoch": recipe.ema.start_epoch if recipe.ema else 0,
    }
    for name, epoch in ends.items():
        if epoch >= recipe.epochs:
            notes.append(f"note: {name}={epoch:g} is not before the end of {recipe.epochs} epochs: it is never reached")
    if recipe.eval_crop.resolution > 2 * recipe.train_crop.resolution:
        notes.append(
            f"note: trained at {recipe.train_crop.resolution} px, but evaluated at {recipe.eval_crop.resolution} px: "
            f"see --eval-crop.resolution"
        )
    return notes


def started_from(recipe: Recipe, settings: TrainSettings) -> str:
    """Words for the protocol, where training did not start from the recipe's own initialisation.

    Raises UserError where the file of initial weights cannot be read.
    """
    if settings.initial_weights:
        try:
            with settings.initial_weights.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise UserError(f"{settings.initial_weights} cannot be read: {error.strerror}") from error
        return f", started from {settings.initial_weights.name} (sha256:{digest[:12]})"
    if isinstance(recipe.model, LibraryModel) and recipe.model.pretrained:
        return ", started from the library's pretrained weights"
    return ""


def newest_checkpoint(run: Run, identity: dict[str, Any], world: World) -> State | None:
    """The newest checkpoint that is whole, the same on all ranks and of the same data; None for a new run."""
    require_same(world, "start", identity["started_from"] or "from the recipe's own initialisation")
    found = on_every_rank(world, run.checkpoints.newest)
    require_same(world, "checkpoint", found[0].name if found else "none")
    damaged = run.checkpoints.damaged
    if damaged and not found:
        raise UserError(f"no checkpoint can be read ({damaged[0]}): remove {run.checkpoints.folder} to start anew")
    if damaged and world.is_main:
        print(f"{'; '.join(damaged)}; falling back to the one before", file=sys.stderr)
    if not found:
        return None
    path, state = found
    if missing := {"data", "data_folder", "started_from", "position"} - state.keys():
        raise UserError(f"{path} has no {', '.join(sorted(missing))}: it is of another program, use another --run-dir")
    for split, checksum in state["data"].items():
        if checksum != identity["data"][split]:
            raise UserError(
                f"{path} was trained on other data: {split} of {state['data_folder']} ({short(checksum)}), not of "
                f"{identity['data_folder']} ({short(identity['data'][split])}): use another --run-dir"
            )
    if identity["started_from"] not in ("", state["started_from"]):
        asked = identity["started_from"].removeprefix(", ")
        raise UserError(f"{path} was not {asked}: leave --initial-weights out to go on, or use another --run-dir")
    identity["started_from"] = state["started_from"]
    return state


def build_module(recipe: Recipe, settings: TrainSettings, world: World, *, fresh: bool) -> tuple[nn.Module, list[str]]:
    """The network on its device, and what there is to say of it. Not `fresh`: its weights are about to be restored."""
    spec = recipe.model if fresh else without_pretrained(recipe.model)

    def build() -> nn.Module:
        return build_model(spec, recipe.num_classes, recipe.norm_batch_size)

    first = on_every_rank(world, lambda: build() if world.local_rank == 0 else None)  # one download for each machine
    module = on_every_rank(world, lambda: first or build())
    notes = []
    if fresh and settings.initial_weights:
        weights = settings.initial_weights
        notes.append(on_every_rank(world, lambda: load_initial_weights(module, weights)))
    if tuning := recipe.fine_tuning:
        if fresh and not settings.initial_weights and not (isinstance(spec, LibraryModel) and spec.pretrained):
            raise UserError("fine_tuning needs weights to start from: add --initial-weights FILE")
        notes.append(on_every_rank(world, lambda: apply_fine_tuning(module, tuning)))
    notes.append(str(audit(recipe.optimizer, module)))
    return module.to(world.device, memory_format=torch.channels_last), notes  # type: ignore[call-overload]


def note_start(recipe: Recipe, settings: TrainSettings, run: Run, world: World, at: Position) -> list[str]:
    """Records what this start runs on, unless nothing is left to train; says where that changes the rounding."""
    if not world.is_main or at.is_last(recipe.epochs):
        return []
    here = environment(world, settings)
    notes = changed_rounding(run.starts, here) if at.step else []
    run.add_start(at.step, here)
    return notes
