"""The training loop, top to bottom: what is trained, from where, the loop.

Nothing on the device is read inside a step: losses stay there until they are logged. Every random choice is a function
of (seed, epoch, image) or (seed, step, rank), so the state of a run is its tensors and its position, and a run that was
stopped anywhere ends with the weights of one that was not.
"""

import math
import signal
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass

import torch
from torch import nn

from trainer import distributed
from trainer.checkpoint import State
from trainer.data import Split, open_source
from trainer.data.crop import train_view
from trainer.data.device import device_batches
from trainer.data.loader import Loader, check_square, default_workers
from trainer.data.order import epoch_order, train_batches
from trainer.data.random import step_seed
from trainer.distributed import Request, Requests, World, gradient_sync, on_every_rank, require_same, sum_over_ranks
from trainer.environment import changed_rounding, environment
from trainer.errors import UserError
from trainer.evaluate import evaluate
from trainer.log import Log, Throughput
from trainer.loss import build_loss
from trainer.model import build_model, load_initial_weights, without_pretrained
from trainer.optimizer import audit, build_optimizer
from trainer.precision import autocast, build_scaler
from trainer.recipe import PaddedCrop, Recipe
from trainer.result import report, result
from trainer.run import Run
from trainer.schedule import lr_at
from trainer.settings import TrainSettings, recipe_source


@dataclass
class Position:
    """Where training is. After the last batch of an epoch comes its evaluation, then the next epoch's batch 0."""

    epoch: int = 0
    batch: int = 0  # optimizer steps complete in this epoch
    best_top1: float = -1.0  # of the epochs evaluated so far, in %


def train(recipe: Recipe, settings: TrainSettings) -> signal.Signals | None:
    """Trains to the end, or until a signal: then saves and returns it. Raises UserError for input it cannot use."""
    with ExitStack() as stack:
        world = stack.enter_context(distributed.world(settings.device, settings.timeout_minutes))
        requests = stack.enter_context(Requests(world))
        require_same(world, "recipe", recipe_source(recipe))
        accumulation = recipe.accumulation(world.size)
        run = Run(settings.run_dir, settings.keep)

        # What is trained, and from where
        train_loader, eval_loader = _open_loaders(recipe, settings, world, stack)
        steps_per_epoch = len(train_loader) // recipe.global_batch_size
        if not steps_per_epoch:
            raise UserError(
                f"global_batch_size={recipe.global_batch_size} is more than the {len(train_loader)} training images: "
                f"use a smaller --global-batch-size"
            )
        on_every_rank(world, lambda: run.claim(recipe) if world.is_main else None)
        data = {"train": train_loader.source.checksum, "val": eval_loader.source.checksum}
        state = _newest(run, data, world)
        torch.use_deterministic_algorithms(settings.deterministic)
        torch.backends.cudnn.benchmark = not settings.deterministic
        torch.manual_seed(recipe.seed)  # the same initialisation on every rank
        module = build_model(without_pretrained(recipe.model) if state else recipe.model, recipe.num_classes)
        notes = [] if state else _load_initial_weights(module, settings, world)
        module.to(world.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = build_optimizer(recipe.optimizer, module)
        notes.append(str(audit(recipe.optimizer, module)))
        scaler = build_scaler(recipe.precision, world.device)
        loss_of = build_loss(recipe.loss)
        losses = torch.zeros(settings.log_every, dtype=torch.float64, device=world.device)  # of the latest steps
        losses_from = 0
        position = Position()
        if state:
            position = Position(**state["position"])
            module.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            scaler.load_state_dict(state["scaler"])
            if len(state["losses"]) != len(losses):  # another log_every: the first line has fewer steps to tell of
                losses_from = state["step"]
            elif world.is_main:  # they are already summed over the ranks
                losses.copy_(state["losses"])
        model = distributed.wrap(module, world)
        if settings.compile:
            model.compile()

        def save() -> None:
            """Called by all ranks together; rank 0's buffers and the losses of all are what is saved."""
            summed = sum_over_ranks(world, losses)
            _check_finite(summed, run)
            state: State = {
                "position": asdict(position),
                "model": module.state_dict(),
                "optimizer": optimizer.state_dict(),
                "scaler": scaler.state_dict(),
                "losses": summed,
                "step": _step(position, steps_per_epoch),
                "data": data,
                "data_folder": settings.data_folder,
            }
            on_every_rank(world, lambda: run.checkpoints.save(state, state["step"]) if world.is_main else None)

        # The loop
        step, total_steps = _step(position, steps_per_epoch), recipe.epochs * steps_per_epoch
        log = Log(run.folder, world, step=step, total_steps=total_steps, evaluated=position.batch < steps_per_epoch)
        stack.callback(log.close)
        if state:
            log.say(f"continued after step {step}")
        if world.is_main and step < total_steps:
            here = environment(world)
            notes += changed_rounding(run.starts, here)
            run.add_start(step, here)
        for note in notes:
            log.say(note)
        crop = recipe.train_crop
        example = torch.zeros(recipe.micro_batch_size, 3, crop.resolution, crop.resolution, device=world.device)
        distributed.settle(model, example.to(memory_format=torch.channels_last), recipe.precision)
        saved_at = time.monotonic()
        throughput = Throughput()
        while position.epoch < recipe.epochs:
            view = train_view(crop, recipe.flip, recipe.seed, position.epoch)
            indices = train_batches(
                epoch_order(recipe.seed, position.epoch, len(train_loader)),
                first_step=position.batch,
                micro_batch_size=recipe.micro_batch_size,
                accumulation=accumulation,
                rank=world.rank,
                world_size=world.size,
            )
            fill = crop.fill if isinstance(crop, PaddedCrop) else (0, 0, 0)
            crops = train_loader.batches(indices, view, crop.resolution, fill)
            batches = device_batches(crops, world.device, recipe.mean, recipe.std)
            throughput.start()
            while position.batch < steps_per_epoch:
                step = _step(position, steps_per_epoch)
                lr = lr_at(
                    recipe.schedule, peak=recipe.optimizer.lr, epoch=step / steps_per_epoch, epochs=recipe.epochs
                )
                for group in optimizer.param_groups:
                    group["lr"] = lr
                torch.manual_seed(step_seed(recipe.seed, step, world.rank))
                losses[step % settings.log_every] = 0
                for micro_step in range(accumulation):
                    images, labels, _ = throughput.wait_for(batches)
                    with gradient_sync(model, micro_step == accumulation - 1):
                        with autocast(recipe.precision, world.device):
                            loss = loss_of(model(images), labels) / accumulation
                        scaler.scale(loss).backward()
                    losses[step % settings.log_every] += loss.detach()
                if recipe.clip_grad_norm is not None:
                    scaler.unscale_(optimizer)
                    nn.utils.clip_grad_norm_(module.parameters(), recipe.clip_grad_norm)
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad(set_to_none=True)
                position.batch += 1
                step += 1
                throughput.images += recipe.global_batch_size

                if step % settings.log_every == 0:
                    summed = sum_over_ranks(world, losses)
                    _check_finite(summed, run)
                    mean_loss = math.fsum(summed.tolist()) / world.size / min(len(losses), step - losses_from)
                    log.steps(step, step / steps_per_epoch, lr=lr, loss=mean_loss, **throughput.read())
                minutes = (time.monotonic() - saved_at) / 60
                wanted = world.is_main and minutes > settings.checkpoint_minutes
                agreed = requests.agree(Request.SAVE if wanted else Request.NOTHING)
                if agreed or (settings.checkpoint_steps and step % settings.checkpoint_steps == 0):
                    save()
                    saved_at = time.monotonic()
                if agreed is Request.STOP:
                    log.say(f"stopped and saved after step {step}: the same command continues from there")
                    return requests.signal or signal.SIGTERM

            # The epoch's end: saved first, so that an evaluation cut short costs nothing but itself
            save()
            saved_at = time.monotonic()
            evaluation = evaluate(module, eval_loader, recipe, world)
            step = _step(position, steps_per_epoch)
            is_best = evaluation.top1 > position.best_top1
            if is_best and world.is_main:
                run.checkpoints.mark_best(step)
            log.evaluation(evaluation, step=step, epoch=step / steps_per_epoch, best=is_best)
            position = Position(position.epoch + 1, 0, max(evaluation.top1, position.best_top1))

        weights = f"weights of the last of {recipe.epochs} epochs"
        if world.is_main:
            run.write_result(result(recipe, eval_loader.source, evaluation, weights))
        log.say(report(recipe, eval_loader.source, evaluation, weights))
        return None


def _open_loaders(recipe: Recipe, settings: TrainSettings, world: World, stack: ExitStack) -> tuple[Loader, Loader]:
    """The training and validation images. One process of each machine checks the files before the others open them."""

    def open_one(split: Split, resolution: int) -> Loader:
        source = open_source(settings.data, split, num_classes=recipe.num_classes, resolution=resolution)
        workers = settings.workers or default_workers(world.local_size)
        return stack.enter_context(Loader(source, workers=workers, pin_memory=world.device.type == "cuda"))

    def open_both() -> tuple[Loader, Loader]:
        train_loader = open_one("train", recipe.train_crop.resolution)
        if isinstance(recipe.train_crop, PaddedCrop):
            check_square(train_loader.source, recipe.train_crop.resolution)
        return train_loader, open_one("val", recipe.eval_crop.resolution)

    first = on_every_rank(world, lambda: open_both() if world.local_rank == 0 else None)
    return on_every_rank(world, lambda: first or open_both())


def _load_initial_weights(module: nn.Module, settings: TrainSettings, world: World) -> list[str]:
    weights = settings.initial_weights
    return [on_every_rank(world, lambda: load_initial_weights(module, weights))] if weights else []


def _newest(run: Run, data: dict[str, str], world: World) -> State | None:
    """The newest checkpoint that is whole, the same on all ranks and of the same data; None for a new run."""
    found = on_every_rank(world, run.checkpoints.newest)
    require_same(world, "checkpoint", found[0].name if found else "none")
    if world.is_main:
        for reason in run.checkpoints.damaged:
            print(f"{reason}; falling back to the one before", file=sys.stderr)
    if not found:
        return None
    path, state = found
    if state["data"] != data:
        raise UserError(f"{path} was trained on other data: {state['data']}, not {data}: use another --run-dir")
    return state


def _check_finite(losses: torch.Tensor, run: Run) -> None:
    """Raises UserError, the same on all ranks, where the loss of a recent step is infinite or not a number."""
    if not losses.isfinite().all():
        raise UserError(
            f"the loss is not finite: lower --optimizer.lr, add warmup or use bf16; the checkpoints in "
            f"{run.checkpoints.folder} are from before"
        )


def _step(position: Position, steps_per_epoch: int) -> int:
    return position.epoch * steps_per_epoch + position.batch
