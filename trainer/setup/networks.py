"""Builds the network, its teacher and the state of training on their device, on all ranks together."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn

from trainer.cpu.accelerate import accelerate, replaced
from trainer.cpu.malloc import keep_freed_memory
from trainer.distillation import build_teacher, require_resolutions
from trainer.distributed.process_group import World, on_every_rank, require_same
from trainer.ema import WeightAverage
from trainer.errors import UserError
from trainer.fine_tuning import apply_fine_tuning
from trainer.model import build_model, load_initial_weights, without_pretrained
from trainer.model.library import pixel_mismatch
from trainer.model.weights_file import StateDict
from trainer.optim.optimizer import audit, build_optimizer
from trainer.precision import Precision, build_scaler
from trainer.recipe import CifarResNet, LibraryModel, Recipe, ResNet
from trainer.run.state import Position, TrainingState
from trainer.run.teacher import Teacher
from trainer.settings import TrainSettings
from trainer.step_metrics import StepMetrics


def open_teacher(
    recipe: Recipe, settings: TrainSettings, world: World, classes: list[str]
) -> tuple[nn.Module | None, Teacher | None]:
    """Builds the teacher of a distillation on its device, and says what it is; None if the recipe has none."""
    if recipe.distillation is None:
        if settings.teacher_weights:
            raise UserError(f"--teacher-weights {settings.teacher_weights}: {recipe.name} has no distillation")
        return None, None

    def build() -> tuple[nn.Module, Teacher]:
        return build_teacher(recipe, settings.teacher_weights, classes)

    first = on_every_rank(world, lambda: build() if world.local_rank == 0 else None)  # one download for each machine
    module, found = on_every_rank(world, lambda: first or build())
    require_same(world, "teacher", found)
    move_to_device(module, world.device, recipe.precision, cpu_kernels=False)
    on_every_rank(world, lambda: require_resolutions(module, found, recipe, world.device))
    return module, found


def build_module(
    recipe: Recipe,
    settings: TrainSettings,
    world: World,
    *,
    fresh: bool,
    weights: StateDict | None = None,
    classes: Sequence[str] = (),
) -> tuple[nn.Module, list[str]]:
    """Builds the network on its device; returns it and lines for the log.

    `fresh`: False if its weights will be restored. `weights`: those in settings.initial_weights, which are large: a
    file is read once. `classes`: of the data, whose classifier is new where that file states others.
    """
    spec = recipe.model if fresh else without_pretrained(recipe.model)

    def build() -> nn.Module:
        if not settings.initial_weights and (problem := pixel_mismatch(spec, recipe.mean, recipe.std)):
            raise UserError(f"the pretrained {problem}")
        return build_model(spec, recipe.num_classes, recipe.norm_batch_size, sync_norm=recipe.sync_norm)

    first = on_every_rank(world, lambda: build() if world.local_rank == 0 else None)  # one download for each machine
    module = on_every_rank(world, lambda: first or build())
    notes = []
    if fresh and settings.initial_weights:
        file, key = settings.initial_weights, settings.weights_key
        load = partial(load_initial_weights, module, file, key, spec, classes=classes, read=weights)
        notes.append(on_every_rank(world, load))
    if tuning := recipe.fine_tuning:
        if fresh and not settings.initial_weights and not (isinstance(spec, LibraryModel) and spec.pretrained):
            raise UserError("fine_tuning needs weights to start from: add --initial-weights FILE")
        notes.append(on_every_rank(world, lambda: apply_fine_tuning(module, tuning)))
    found = audit(recipe.optimizer, module)
    if isinstance(spec, ResNet | CifarResNet) and fresh:  # others may start as they like
        asked = spec.zero_init_residual and not settings.initial_weights
        notes += [f"note: {found}"] if found.unexpected(zero_gammas=asked) else []
    kernels = settings.cpu_kernels and not settings.compile
    notes += move_to_device(module, world.device, recipe.precision, cpu_kernels=kernels)
    return module, notes


def move_to_device(module: nn.Module, device: torch.device, precision: Precision, *, cpu_kernels: bool) -> list[str]:
    """Moves `module` in place, channels-last, and makes it fast on a CPU. Returns lines for the log."""
    module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if device.type != "cpu":
        return []
    keep_freed_memory()
    return [accelerate(module)] if cpu_kernels and precision == "bf16" else []


def first_step_compiles(settings: TrainSettings, module: nn.Module) -> str:
    """Says what the first step has to compile before it can run, for the log; empty: nothing."""
    if settings.compile:
        return "torch.compile compiles the network"
    return "Numba compiles the CPU kernels, once for this machine" if replaced(module) else ""


def build_state(
    recipe: Recipe, module: nn.Module, world: World, *, steps_per_epoch: int, log_every: int = 1
) -> TrainingState:
    """Builds the state before the first step. `module`: on its device, not yet compiled or wrapped."""
    scaler = build_scaler(recipe.precision, world.device)
    return TrainingState(
        module=module,
        average=WeightAverage(recipe.average, module) if recipe.average else None,
        optimizer=build_optimizer(recipe.optimizer, module, recipe.fine_tuning),
        scaler=scaler,
        metrics=StepMetrics(log_every, world, scaled=scaler.is_enabled()),
        position=Position(steps_per_epoch=steps_per_epoch),
    )
