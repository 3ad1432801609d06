"""The training loop, top to bottom: what is trained, from where, the loop.

Nothing on the device is read inside a step (but by fp16's scaler, for timm's optimizers): losses stay there until they
are logged. Every random choice is a function of (seed, epoch, sample) or (seed, step, micro-batch), so the state of a
run is its tensors and its position, and a run that was stopped anywhere ends with the weights of one that was not.
"""

from contextlib import ExitStack
from functools import partial
from typing import Any

import torch

from trainer.data.mixing import mix
from trainer.data.random import torch_seed
from trainer.data.stream import train_stream
from trainer.distributed import process_group
from trainer.distributed.process_group import gradient_sync, on_every_rank
from trainer.distributed.stop import Request, StopSignal
from trainer.distributed.watchdog import COMPUTING, EXCHANGING, Watchdog
from trainer.ema import Average
from trainer.evaluation.evaluate import evaluate, evaluate_protocols
from trainer.evaluation.result import averaged_in_words, report, result, trained_in_words
from trainer.fine_tuning import train_mode
from trainer.log.log import Log
from trainer.log.pictures import show_augmented, show_mistakes
from trainer.log.profile import profiler
from trainer.log.throughput import Throughput
from trainer.loss import build_loss
from trainer.nonfinite import dump_nonfinite_step
from trainer.optimizer import build_optimizer
from trainer.precise_bn import remeasure_norms
from trainer.precision import allow_tensor_float, autocast, build_scaler
from trainer.recipe import Recipe
from trainer.run.directory import Run
from trainer.run.state import Position, TrainingState
from trainer.schedule import lr_at
from trainer.settings import TrainSettings
from trainer.setup import (
    accumulation_steps,
    build_module,
    check_norm_images,
    newest_checkpoint,
    note_start,
    open_loaders,
    require_same_everywhere,
    started_from,
    steps_in_epoch,
    summary,
    warnings,
)
from trainer.step_metrics import StepMetrics, gradient_norm


def train(recipe: Recipe, settings: TrainSettings) -> None:
    """Trains to the end. Raises Stopped, with everything saved, after a signal; UserError for input it cannot use."""
    with ExitStack() as stack:
        world = stack.enter_context(process_group.world(settings.device, settings.timeout_minutes))
        stop_signal = stack.enter_context(StopSignal(world))
        patience = {
            "heartbeat_timeout_minutes": settings.heartbeat_timeout_minutes,
            "timeout_minutes": settings.timeout_minutes,
        }
        watchdog = stack.enter_context(Watchdog(world, **patience))
        require_same_everywhere(recipe, settings, world)
        accumulation = accumulation_steps(recipe, world)
        allow_tensor_float(recipe.precision)

        # What is trained
        train_loader, eval_loader = open_loaders(recipe, settings, world, stack)
        watchdog.follow(train_loader, eval_loader)
        at = Position(steps_per_epoch=steps_in_epoch(recipe, len(train_loader)))
        check_norm_images(recipe, len(train_loader), world)
        run = Run(settings.run_dir, settings.keep_last_checkpoints)
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
        optimizer = build_optimizer(recipe.optimizer, module, recipe.fine_tuning)
        average = Average(recipe.ema, module) if recipe.ema else None
        scaler = build_scaler(recipe.precision, world.device)
        loss_of = build_loss(recipe.loss)
        mixed = partial(mix, recipe.mixing, num_classes=recipe.num_classes, seed=recipe.seed) if recipe.mixing else None
        metrics = StepMetrics(settings.log_every, world, scaled=scaler.is_enabled())
        one = torch.ones((), device=world.device)

        # From where
        state = TrainingState(module, average, optimizer, scaler, metrics, at)
        if checkpoint:
            state.restore(checkpoint)
            notes.append(f"continued after step {at.step}{', the last one' if at.is_last(recipe.epochs) else ''}")
        model = process_group.wrap(module, world)
        if settings.compile:
            model.compile()
        train_mode(module, recipe.fine_tuning)
        example = torch.zeros(recipe.micro_batch_size, 3, *[recipe.train_crop.resolution] * 2, device=world.device)
        process_group.warm_up_ddp_buckets(model, example.to(memory_format=torch.channels_last), recipe.precision)
        log = stack.enter_context(Log(run.folder, world, at, recipe))
        notes += note_start(recipe, settings, run, world, at)
        notes = [summary(recipe, run, world, at, len(train_loader), len(eval_loader)), *warnings(recipe), *notes]
        log.say("\n".join(notes))
        show_augmented(log, recipe, settings, train_loader, world, at)
        stack.enter_context(dump_nonfinite_step(run.folder, recipe, world, at, len(train_loader)))
        profile = stack.enter_context(profiler(settings, run.folder, world, at, recipe.epochs, log.say))

        def save(norms_measured: bool = False) -> None:
            content = {**state.save(), **identity, "norms_measured": norms_measured}
            on_every_rank(world, lambda: run.save(content, at.step) if world.is_main else None)

        # The loop
        throughput = Throughput(world)
        while at.epoch < recipe.epochs:
            batches = train_stream(
                recipe, train_loader, world, epoch=at.epoch, accumulation=accumulation, first_step=at.batch
            )
            throughput.start()
            while at.batch < at.steps_per_epoch:
                lr = lr_at(recipe.schedule, peak=recipe.optimizer.lr, epoch=at.epochs, epochs=recipe.epochs)
                for group in optimizer.param_groups:
                    group["lr"] = lr * group["lr_factor"]
                metrics.start(at.step)
                for micro_step in range(accumulation):
                    images, targets, _ = throughput.wait_for(batches)
                    watchdog.at(at.step, COMPUTING)
                    micro_batch = world.rank * accumulation + micro_step
                    if mixed:
                        images, targets = mixed(images, targets, step=at.step, micro_batch=micro_batch)
                    torch.manual_seed(torch_seed(recipe.seed, at.step, micro_batch))  # for drop path and dropout
                    with gradient_sync(model, micro_step == accumulation - 1):
                        with autocast(recipe.precision, world.device):
                            loss = loss_of(model(images), targets) / accumulation
                        throughput.forward_done()
                        watchdog.at(at.step, EXCHANGING)
                        scaler.scale(loss).backward()
                    metrics.add_loss(at.step, loss)
                scaler.unscale_(optimizer)
                norm = gradient_norm(module, recipe.clip_grad_norm)
                metrics.add_gradient(at.step, norm, scale=scaler.scale(one))
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad(set_to_none=True)
                at.batch += 1
                if average:
                    average.update(module, at.step, at.epochs)
                throughput.images += recipe.global_batch_size
                profile.step_done(at.step)

                if at.step % settings.log_every == 0:
                    log.steps(at, lr=lr, steps=metrics.read(at.step), rates=throughput.read())
                overdue = world.is_main and run.checkpoints.minutes_since_save > settings.checkpoint_minutes
                agreed = stop_signal.all_reduce(Request.SAVE if overdue else Request.NOTHING)
                is_due = settings.checkpoint_steps and at.step % settings.checkpoint_steps == 0
                if (agreed or is_due) and (at.batch < at.steps_per_epoch or agreed is Request.STOP):
                    save()  # not at the end of an epoch, which saves what is complete
                if agreed is Request.STOP:
                    stop_signal.stop(f"stopped and saved after step {at.step}: the same command continues from there")

            if recipe.precise_norm_images:
                remeasure_norms(recipe, state.networks, train_loader, world, at.epoch)
            save(norms_measured=recipe.precise_norm_images is not None)
            # saved before the evaluation: one that is cut short then costs nothing but itself
            evaluations = {
                kind: evaluate(network, eval_loader, recipe, world, stop_signal=stop_signal)
                for kind, network in state.networks.items()
            }
            *_, final = evaluations.values()
            is_best = final.top1 > at.best_top1
            if is_best:
                on_every_rank(world, lambda: run.mark_best(at.step) if world.is_main else None)
            for kind, evaluation in evaluations.items():
                log.evaluation(kind, evaluation, at, best=is_best and evaluation is final)
            at.start_next_epoch(final.top1)

        trained = trained_in_words(
            recipe, at, identity["started_from"], norms_measured=recipe.precise_norm_images is not None
        )
        readings = []
        for kind, network in reversed(state.networks.items()):
            averaged = averaged_in_words(recipe.ema if kind == "eval_ema" else None, at.epochs)
            weights = f"{trained}, {averaged}"
            readings += evaluate_protocols(network, eval_loader, recipe, world, weights, evaluations[kind], stop_signal)
        if world.is_main:
            run.write_result(result(recipe, eval_loader.source, readings, identity["data"]))
        log.result(report(recipe, eval_loader.source, readings), at)
        show_mistakes(log, [*state.networks.values()][-1], eval_loader, recipe, settings, world, at)
