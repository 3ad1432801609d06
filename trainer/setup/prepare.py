"""prepare(): everything the training loop needs, built and checked once, in one place."""

import os
import sys
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from trainer.cpu.accelerate import replaced
from trainer.cuda_graph import check_compile_mode, check_recordable
from trainer.data.listing import class_order_of
from trainer.data.loader import Loader
from trainer.distributed.process_group import (
    World,
    if_all_end,
    on_every_rank,
    on_main_rank,
    require_same,
    true_on_all_ranks,
)
from trainer.distributed.same_weights import require_same_weights
from trainer.errors import UserError, counted
from trainer.evaluation.protocol import TrainedWeights, short
from trainer.evaluation.result import trained_weights
from trainer.model.weights import read_initial_weights
from trainer.model.weights_file import StateDict
from trainer.precision import emulation_note, set_tf32
from trainer.process.garbage import collected_by_steps
from trainer.recipe import LibraryModel, Recipe
from trainer.recipe_file import changes_since, recipe_source, settings_of
from trainer.run.checkpoint import CheckpointContent, RunIdentity
from trainer.run.directory import Run
from trainer.run.environment import changed_rounding, environment
from trainer.run.init_weights import InitWeights
from trainer.run.progress import finished
from trainer.run.state import Position, TrainingState
from trainer.run.teacher import Teacher
from trainer.settings import TrainSettings
from trainer.setup.checks import (
    accumulation_steps,
    check_batch_norm,
    check_norm_images,
    likely_mistakes,
    order_mistakes,
    require_same_everywhere,
    slow_start,
    steps_in_epoch,
)
from trainer.setup.loaders import open_loaders, source_notes
from trainer.setup.networks import build_module, build_state, first_step_compiles, open_teacher
from trainer.step import TrainingStep


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What the loop needs."""

    world: World
    run: Run
    train_loader: Loader
    eval_loader: Loader
    state: TrainingState  # new, or restored from the newest checkpoint
    step: TrainingStep
    identity: RunIdentity  # part of every checkpoint
    notes: list[str]  # lines for the log
    compiles: str  # what the first step has to compile, for the log; empty: nothing

    @property
    def init_weights(self) -> InitWeights:
        return InitWeights.from_dict(self.identity["init_weights"])

    @property
    def teacher(self) -> Teacher | None:
        return Teacher.from_dict(self.identity["teacher"])

    def checkpoint(self, *, norms_measured: bool) -> CheckpointContent:
        """Returns the content of a checkpoint of the state as it is now. Called by all ranks together.

        Raises SharedError if their weights differ.
        """
        weights = [weight for network in self.state.networks.values() for weight in network.parameters()]
        require_same_weights(self.world, weights, self.state.position.step)
        return {**self.state.save(), **self.identity, "norms_measured": norms_measured}

    def report_if_finished(self, recipe: Recipe) -> bool:
        """Whether the run needs no more training, which rank 0 then prints. Called by all ranks together."""
        note = finished(self.run.folder, recipe_source(recipe))
        everywhere = true_on_all_ranks(self.world, note is not None)
        if everywhere and self.world.is_main:
            print(note)
        return everywhere

    def trained_weights(self, recipe: Recipe, kind: str) -> TrainedWeights:
        """Returns the facts about the weights of the network with this name, at the end of an epoch."""
        return trained_weights(
            recipe,
            self.state.position,
            self.init_weights,
            norms_measured=recipe.precise_norm_images is not None,
            averaged=kind != "eval",
            teacher=self.teacher,
        )


def prepare(recipe: Recipe, settings: TrainSettings, world: World, stack: ExitStack) -> Prepared:
    """Checks and builds everything before the first step. Called by all ranks together.

    `stack` closes the loaders and the run directory. Raises UserError for invalid input, on all ranks together.
    """
    require_same_everywhere(recipe, settings, world)
    accumulation = accumulation_steps(recipe, world)
    if settings.cuda_graph:
        check_recordable(recipe, world)
    check_compile_mode(recipe, world, settings.compile_mode)
    set_tf32(recipe.precision)
    choose_kernels(deterministic=settings.deterministic)
    train_loader, eval_loader = open_loaders(recipe, settings, world, stack)
    steps_per_epoch = steps_in_epoch(recipe, len(train_loader))
    check_norm_images(recipe, len(train_loader), world)
    run = stack.enter_context(Run(settings.run_dir, settings.keep_last_checkpoints))
    on_main_rank(world, lambda: run.claim(recipe))
    teacher, taught_by = open_teacher(recipe, settings, world, train_loader.source.classes)
    start, weights = on_every_rank(world, lambda: init_weights(recipe, settings))
    identity: RunIdentity = {
        "data": {"train": train_loader.source.checksum, "val": eval_loader.source.checksum},
        "data_folder": settings.data_folder,
        "classes": train_loader.source.classes,
        "init_weights": start.to_dict(),
        "teacher": taught_by.to_dict() if taught_by else None,
        "recipe": settings_of(recipe),
    }
    checkpoint = newest_checkpoint(run, identity, world)
    if checkpoint:
        identity["init_weights"] = checkpoint["init_weights"]
    torch.manual_seed(recipe.seed)  # the same initialisation on every rank
    module, notes = build_module(
        recipe, settings, world, fresh=checkpoint is None, weights=weights, classes=train_loader.source.classes
    )
    check_batch_norm(recipe, module)
    state = build_state(recipe, module, world, steps_per_epoch=steps_per_epoch, log_every=settings.log_every)
    if checkpoint:
        state.restore(checkpoint)
        at = state.position
        notes.append(f"continued after step {at.step}{', the last one' if at.is_last(recipe.epochs) else ''}")
    compile_mode = settings.compile_mode if settings.compile else None
    step = TrainingStep(
        recipe,
        state,
        world,
        accumulation=accumulation,
        teacher=teacher,
        compile_mode=compile_mode,
        cuda_graph=settings.cuda_graph,
        bucket_mb=settings.bucket_mb,
    )
    stack.push(if_all_end(world, step.close))
    stack.enter_context(collected_by_steps())
    return Prepared(
        world=world,
        run=run,
        train_loader=train_loader,
        eval_loader=eval_loader,
        state=state,
        step=step,
        identity=identity,
        compiles=first_step_compiles(settings, module),
        notes=[
            summary(recipe, run, world, state.position, len(train_loader), len(eval_loader)),
            f"images: {train_loader.source.name} for training; {eval_loader.source.name} for validation",
            *(f"note: {note}" for note in source_notes(train_loader.source, eval_loader.source)),
            *(f"note: {mistake}" for mistake in likely_mistakes(recipe)),
            *(f"note: {mistake}" for mistake in order_mistakes(recipe, train_loader.source.labels)),
            *(f"note: {note}" for note in [emulation_note(recipe.precision, world.device)] if note),
            *(f"note: {slow}" for slow in slow_start(settings)),
            *([f"distillation: the teacher is {taught_by}"] if taught_by else []),
            *notes,
        ],
    )


def choose_kernels(*, deterministic: bool) -> None:
    """Chooses deterministic kernels only, or the fastest ones.

    Call it before the first matrix product and the first sum of NCCL.
    """
    if deterministic != torch.are_deterministic_algorithms_enabled():  # the call imports a part of torch's compiler
        torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # torch before 2.10 requires it
        os.environ.setdefault("NCCL_ALGO", "Ring")  # which sums in one order; read at the first exchange
        # it would fill the memory of each batch before decoding
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def init_weights(recipe: Recipe, settings: TrainSettings) -> tuple[InitWeights, StateDict | None]:
    """Says where the initial weights come from, and reads those of a file. Raises UserError if it cannot be read."""
    if settings.initial_weights:
        found = InitWeights.of_file(settings.initial_weights)
        weights = read_initial_weights(settings.initial_weights, settings.weights_key)
        return replace(found, key=weights.key or None), weights
    if isinstance(recipe.model, LibraryModel) and recipe.model.pretrained:
        return InitWeights(kind="pretrained"), None
    return InitWeights(kind="recipe"), None


def newest_checkpoint(run: Run, identity: RunIdentity, world: World) -> CheckpointContent | None:
    """Reads the newest intact checkpoint, the same on all ranks and of the same recipe and data; None for a new run.

    A run that started from other weights than the recipe's continues without --initial-weights.
    """
    asked = InitWeights.from_dict(identity["init_weights"])
    require_same(world, "start", asked)
    found = on_every_rank(world, run.checkpoints.newest)
    require_same(world, "checkpoint", found[0].name if found else "none")
    damaged = run.checkpoints.damaged
    if damaged and not found:
        raise UserError(f"no checkpoint can be read ({damaged[0]}): bring one back, or use another --run-dir")
    if damaged and world.is_main:
        print(f"{'; '.join(damaged)}; falling back to the one before", file=sys.stderr)
    if not found:
        return None
    path, content = found
    if changes := changes_since(content["recipe"], identity["recipe"]):
        stored = run.folder / "recipe.py"  # has been edited: require_usable() has compared it with the recipe given
        raise UserError(
            f"{path} was trained with another recipe than {stored} now is: {'; '.join(map(str, changes))}. Change it "
            f"back, or use another --run-dir"
        )
    if content["classes"] != identity["classes"] and sorted(content["classes"]) == sorted(identity["classes"]):
        raise UserError(
            f"{path} was trained with its classes in another order: add --class-order "
            f"{class_order_of(content['classes'])}, or use another --run-dir"
        )
    for split, checksum in content["data"].items():
        if checksum != identity["data"][split]:
            raise UserError(
                f"{path} was trained on other data: {split} of {content['data_folder']} ({short(checksum)}), not of "
                f"{identity['data_folder']} ({short(identity['data'][split])}): use another --run-dir, "
                f"or the images as they were"
            )
    taught, teacher = (Teacher.from_dict(each["teacher"]) for each in (content, identity))
    if taught != teacher:
        remedy = "give that --teacher-weights again" if taught and taught.file else "leave --teacher-weights out"
        if taught and teacher and not taught.file and not teacher.file:
            remedy = "the published weights have changed: install the library's version of before (see starts.json)"
        before, now = taught or "no teacher", teacher or "no teacher"
        raise UserError(f"{path} was distilled from {before}, not from {now}: {remedy}, or use another --run-dir")
    started = InitWeights.from_dict(content["init_weights"])
    if asked.kind == "file" and asked != started:
        raise UserError(
            f"{path} was not started from {asked}, but from {started}: leave --initial-weights out to continue, "
            f"or use another --run-dir"
        )
    return content


def start_record(world: World, settings: TrainSettings, module: nn.Module) -> dict[str, Any]:
    """Returns the environment of one start, with what trains `module` in it."""
    return environment(world, settings, cpu_kernels=replaced(module))


def summary(recipe: Recipe, run: Run, world: World, at: Position, train_images: int, eval_images: int) -> str:
    """Returns the first line of the log: what is trained, and on what."""
    device = torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else "CPU"
    return (
        f"{recipe.name}: {train_images:,} training and {eval_images:,} validation images, "
        f"{counted(at.steps_per_epoch, 'step')} x {counted(recipe.epochs, 'epoch')}, {counted(world.size, 'process')} "
        f"on {device}, {recipe.precision} -> {run.folder}"
    )


def note_start(
    recipe: Recipe, settings: TrainSettings, run: Run, world: World, at: Position, module: nn.Module
) -> list[str]:
    """Adds this start's environment to starts.json, unless training is complete; returns a note where it differs."""
    if not world.is_main or at.is_last(recipe.epochs):
        return []
    here = start_record(world, settings, module)
    notes = changed_rounding(run.starts, here) if at.step else []
    run.add_start(at.step, here)
    return notes
