"""The training loop, top to bottom: what is trained, from where, the loop.

Nothing on the device is read inside a step: losses stay there until they are logged. Every random choice is a function
of (seed, epoch, image) or (seed, step, rank), so the state of a run is its tensors and its position, and a run that was
stopped anywhere ends with the weights of one that was not.
"""

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from trainer import distributed
from trainer.data.crop import train_view
from trainer.data.device import DeviceBatch, device_batches
from trainer.data.loader import Loader
from trainer.data.order import epoch_order, train_batches
from trainer.data.random import torch_seed
from trainer.distributed import Request, Requests, World, gradient_sync, on_every_rank, require_same
from trainer.evaluate import evaluate
from trainer.log import Log, Throughput
from trainer.loss import build_loss
from trainer.optimizer import build_optimizer
from trainer.precision import allow_tensor_float, autocast, build_scaler
from trainer.recipe import PaddedCrop, Recipe
from trainer.recipe_file import recipe_source
from trainer.result import report, result
from trainer.run import Run
from trainer.schedule import lr_at
from trainer.settings import TrainSettings
from trainer.setup import (
    accumulation_steps,
    build_module,
    newest_checkpoint,
    note_start,
    open_loaders,
    started_from,
    steps_in_epoch,
    summary,
    warnings,
)
from trainer.state import Position, StepLosses, TrainingState


def train(recipe: Recipe, settings: TrainSettings) -> signal.Signals | None:
    """Trains to the end, or until a signal: then saves and returns it. Raises UserError for input it cannot use."""
    with ExitStack() as stack:
        world = stack.enter_context(distributed.world(settings.device, settings.timeout_minutes))
        requests = stack.enter_context(Requests(world))
        require_same(world, "recipe", recipe_source(recipe))
        accumulation = accumulation_steps(recipe, world)
        allow_tensor_float(recipe.precision)

        # What is trained
        train_loader, eval_loader = open_loaders(recipe, settings, world, stack)
        at = Position(steps_per_epoch=steps_in_epoch(recipe, len(train_loader)))
        run = Run(settings.run_dir, settings.keep)
        on_every_rank(world, lambda: run.claim(recipe) if world.is_main else None)
        identity: dict[str, Any] = {
            "data": {"train": train_loader.source.checksum, "val": eval_loader.source.checksum},
            "data_folder": settings.data_folder,
            "classes": train_loader.source.classes,
            "started_from": started_from(recipe, settings),
        }
        checkpoint = newest_checkpoint(run, identity, world)
        torch.use_deterministic_algorithms(settings.deterministic)
        torch.backends.cudnn.benchmark = not settings.deterministic
        torch.manual_seed(recipe.seed)  # the same initialisation on every rank
        module, notes = build_module(recipe, settings, world, fresh=checkpoint is None)
        optimizer = build_optimizer(recipe.optimizer, module)
        scaler = build_scaler(recipe.precision, world.device)
        loss_of = build_loss(recipe.loss)
        losses = StepLosses(settings.log_every, world)

        # From where
        state = TrainingState(module, optimizer, scaler, losses, at)
        if checkpoint:
            state.restore(checkpoint)
            notes.append(f"continued after step {at.step}{', the last one' if at.is_last(recipe.epochs) else ''}")
        model = distributed.wrap(module, world)
        if settings.compile:
            model.compile()
        example = torch.zeros(recipe.micro_batch_size, 3, *[recipe.train_crop.resolution] * 2, device=world.device)
        distributed.settle(model, example.to(memory_format=torch.channels_last), recipe.precision)
        log = stack.enter_context(Log(run.folder, world, at, total_steps=recipe.epochs * at.steps_per_epoch))
        notes += note_start(recipe, settings, run, world, at)
        notes = [summary(recipe, run, world, at, len(train_loader), len(eval_loader)), *warnings(recipe), *notes]
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

        weights = f"weights after {at.step:,} of {at.step:,} steps{identity['started_from']}"
        if world.is_main:
            run.write_result(result(recipe, eval_loader.source, evaluation, weights, identity["data"]))
        log.say(report(recipe, eval_loader.source, evaluation, weights))
        return None


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
