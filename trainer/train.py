"""The training loop, top to bottom: what is trained, from where, the loop.

Nothing on the device is read inside a step: losses stay there until they are logged. Every random choice is a function
of (seed, epoch, image) or (seed, step, rank), so the state of a run is its tensors and its position, and a run that was
stopped anywhere ends with the weights of one that was not.
"""

import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from trainer import distributed
from trainer.checkpoint import State
from trainer.data import Split, open_source
from trainer.data.crop import train_view
from trainer.data.device import DeviceBatch, device_batches
from trainer.data.loader import Loader, check_square, default_workers
from trainer.data.order import epoch_order, train_batches
from trainer.data.random import torch_seed
from trainer.distributed import Request, Requests, World, gradient_sync, on_every_rank, require_same
from trainer.environment import changed_rounding, environment
from trainer.errors import UserError
from trainer.evaluate import evaluate
from trainer.log import Log, Throughput
from trainer.loss import build_loss
from trainer.model import build_model, load_initial_weights, without_pretrained
from trainer.optimizer import audit, build_optimizer
from trainer.precision import allow_tensor_float, autocast, build_scaler
from trainer.recipe import LibraryModel, PaddedCrop, Recipe
from trainer.recipe_file import recipe_source
from trainer.result import report, result
from trainer.run import Run
from trainer.schedule import lr_at
from trainer.settings import TrainSettings
from trainer.state import Position, StepLosses, TrainingState


def train(recipe: Recipe, settings: TrainSettings) -> signal.Signals | None:
    """Trains to the end, or until a signal: then saves and returns it. Raises UserError for input it cannot use."""
    with ExitStack() as stack:
        world = stack.enter_context(distributed.world(settings.device, settings.timeout_minutes))
        requests = stack.enter_context(Requests(world))
        require_same(world, "recipe", recipe_source(recipe))
        accumulation = _accumulation(recipe, world)
        allow_tensor_float(recipe.precision)

        # What is trained
        train_loader, eval_loader = _open_loaders(recipe, settings, world, stack)
        at = Position(steps_per_epoch=_steps_per_epoch(recipe, len(train_loader)))
        run = Run(settings.run_dir, settings.keep)
        on_every_rank(world, lambda: run.claim(recipe) if world.is_main else None)
        identity = {
            "data": {"train": train_loader.source.checksum, "val": eval_loader.source.checksum},
            "data_folder": settings.data_folder,
            "classes": train_loader.source.classes,
            "started_from": _started_from(recipe, settings),
        }
        checkpoint = _newest_checkpoint(run, identity, world)
        torch.use_deterministic_algorithms(settings.deterministic)
        torch.backends.cudnn.benchmark = not settings.deterministic
        torch.manual_seed(recipe.seed)  # the same initialisation on every rank
        module, notes = _build(recipe, settings, world, fresh=checkpoint is None)
        optimizer = build_optimizer(recipe.optimizer, module)
        scaler = build_scaler(recipe.precision, world.device)
        loss_of = build_loss(recipe.loss)
        losses = StepLosses(settings.log_every, world)

        # From where
        state = TrainingState(module, optimizer, scaler, losses, at)
        if checkpoint:
            state.restore(checkpoint)
            notes.append(f"continued after step {at.step}")
        model = distributed.wrap(module, world)
        if settings.compile:
            model.compile()
        example = torch.zeros(recipe.micro_batch_size, 3, *[recipe.train_crop.resolution] * 2, device=world.device)
        distributed.settle(model, example.to(memory_format=torch.channels_last), recipe.precision)
        log = stack.enter_context(Log(run.folder, world, at, total_steps=recipe.epochs * at.steps_per_epoch))
        notes += _note_start(recipe, settings, run, world, at)
        for note in notes:
            log.say(note)

        def save() -> None:
            content = {**state.save(), **identity}
            on_every_rank(world, lambda: run.checkpoints.save(content, at.step) if world.is_main else None)

        # The loop
        throughput = Throughput()
        while at.epoch < recipe.epochs:
            batches = _batches(recipe, at, train_loader, accumulation, world)
            throughput.start()
            while at.batch < at.steps_per_epoch:
                lr = lr_at(recipe.schedule, peak=recipe.optimizer.lr, epoch=at.epochs, epochs=recipe.epochs)
                for group in optimizer.param_groups:
                    group["lr"] = lr
                losses.start(at.step)
                for micro_step in range(accumulation):
                    images, labels, _ = throughput.wait_for(batches)
                    micro_batch = world.rank * accumulation + micro_step
                    torch.manual_seed(torch_seed(recipe.seed, at.step, micro_batch))  # for drop path and dropout
                    with gradient_sync(model, micro_step == accumulation - 1):
                        with autocast(recipe.precision, world.device):
                            loss = loss_of(model(images), labels) / accumulation
                        scaler.scale(loss).backward()
                    losses.add(at.step, loss)
                if recipe.clip_grad_norm is not None:
                    scaler.unscale_(optimizer)
                    nn.utils.clip_grad_norm_(module.parameters(), recipe.clip_grad_norm)
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad(set_to_none=True)
                at.batch += 1
                throughput.images += recipe.global_batch_size

                if at.step % settings.log_every == 0:
                    log.steps(at, lr=lr, loss=losses.mean(at.step), **throughput.read())
                overdue = world.is_main and run.checkpoints.minutes_since_save > settings.checkpoint_minutes
                agreed = requests.agree(Request.SAVE if overdue else Request.NOTHING)
                if agreed or (settings.checkpoint_steps and at.step % settings.checkpoint_steps == 0):
                    save()
                if agreed is Request.STOP:
                    log.say(f"stopped and saved after step {at.step}: the same command continues from there")
                    return requests.signal or signal.SIGTERM

            save()  # before the evaluation: one that is cut short then costs nothing but itself
            evaluation = evaluate(module, eval_loader, recipe, world)
            is_best = evaluation.top1 > at.best_top1
            if is_best:
                on_every_rank(world, lambda: run.checkpoints.mark_best(at.step) if world.is_main else None)
            log.evaluation(evaluation, at, best=is_best)
            at.start_next_epoch(evaluation.top1)

        weights = f"weights of the last of {recipe.epochs} epochs{identity['started_from']}"
        if world.is_main:
            run.write_result(result(recipe, eval_loader.source, evaluation, weights))
        log.say(report(recipe, eval_loader.source, evaluation, weights))
        return None


def _open_loaders(recipe: Recipe, settings: TrainSettings, world: World, stack: ExitStack) -> tuple[Loader, Loader]:
    """The training and validation images. One process of each machine checks the files before the others open them."""

    def open_one(split: Split, resolution: int) -> Loader:
        source = open_source(
            settings.data,
            split,
            num_classes=recipe.num_classes,
            resolution=resolution,
            check_content=world.local_rank == 0,
        )
        workers = settings.workers or default_workers(world.local_size)
        return stack.enter_context(Loader(source, workers=workers, pin_memory=world.device.type == "cuda"))

    def open_both() -> tuple[Loader, Loader]:
        train_loader = open_one("train", recipe.train_crop.resolution)
        if isinstance(recipe.train_crop, PaddedCrop):
            check_square(train_loader.source, recipe.train_crop.resolution)
        eval_loader = open_one("val", recipe.eval_crop.resolution)
        if train_loader.source.classes != eval_loader.source.classes:
            raise UserError(f"train and val in {settings.data} have other classes: prepare them together")
        return train_loader, eval_loader

    first = on_every_rank(world, lambda: open_both() if world.local_rank == 0 else None)
    return on_every_rank(world, lambda: first or open_both())


def _accumulation(recipe: Recipe, world: World) -> int:
    try:
        return recipe.accumulation(world.size)
    except ValueError as error:
        raise UserError(str(error)) from error


def _steps_per_epoch(recipe: Recipe, images: int) -> int:
    if images < recipe.global_batch_size:
        raise UserError(
            f"global_batch_size={recipe.global_batch_size} is more than the {images} training images: "
            f"use a smaller --global-batch-size"
        )
    return images // recipe.global_batch_size


def _started_from(recipe: Recipe, settings: TrainSettings) -> str:
    """Words for the protocol, where training did not start from the recipe's own initialisation."""
    if settings.initial_weights:
        return f", started from {settings.initial_weights.name}"
    if isinstance(recipe.model, LibraryModel) and recipe.model.pretrained:
        return ", started from the library's pretrained weights"
    return ""


def _newest_checkpoint(run: Run, identity: dict[str, Any], world: World) -> State | None:
    """The newest checkpoint that is whole, the same on all ranks and of the same data; None for a new run."""
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
    if state["data"] != identity["data"]:
        raise UserError(
            f"{path} was trained on other data: {state['data']}, not {identity['data']}: use another --run-dir"
        )
    identity["started_from"] = state["started_from"]  # a start that goes on does not use --initial-weights
    return state


def _build(recipe: Recipe, settings: TrainSettings, world: World, *, fresh: bool) -> tuple[nn.Module, list[str]]:
    """The network on its device, and what there is to say of it. Not `fresh`: its weights are about to be restored."""
    spec = recipe.model if fresh else without_pretrained(recipe.model)
    module = on_every_rank(world, lambda: build_model(spec, recipe.num_classes))
    notes = []
    if fresh and settings.initial_weights:
        weights = settings.initial_weights
        notes.append(on_every_rank(world, lambda: load_initial_weights(module, weights)))
    notes.append(str(audit(recipe.optimizer, module)))
    return module.to(world.device, memory_format=torch.channels_last), notes  # type: ignore[call-overload]


def _note_start(recipe: Recipe, settings: TrainSettings, run: Run, world: World, at: Position) -> list[str]:
    """Records what this start runs on, unless nothing is left to train; says where that changes the rounding."""
    if not world.is_main or at.step == recipe.epochs * at.steps_per_epoch:
        return []
    here = environment(world, settings)
    notes = changed_rounding(run.starts, here) if at.step else []
    run.add_start(at.step, here)
    return notes


def _batches(recipe: Recipe, at: Position, loader: Loader, accumulation: int, world: World) -> Iterator[DeviceBatch]:
    """This rank's micro-batches of the rest of the epoch."""
    crop = recipe.train_crop
    indices = train_batches(
        epoch_order(recipe.seed, at.epoch, len(loader)),
        first_step=at.batch,
        micro_batch_size=recipe.micro_batch_size,
        accumulation=accumulation,
        rank=world.rank,
        world_size=world.size,
    )
    view = train_view(crop, recipe.flip, recipe.seed, at.epoch)
    fill = crop.fill if isinstance(crop, PaddedCrop) else (0, 0, 0)
    return device_batches(loader.batches(indices, view, crop.resolution, fill), world.device, recipe.mean, recipe.std)
