"""The training loop: when to step, log, save, evaluate and stop.

A step reads nothing from the device, except in some of timm's optimizers (optim.build_optimizer) and in the one check
of a CUDA graph: losses stay there until they are logged. Every random choice is a function of (seed, epoch, sample) or
(seed, step, micro-batch). So the state of a run is its tensors and its position, and a run that was stopped anywhere
ends with the same weights as one that was not.
"""

from contextlib import ExitStack

from trainer.data.stream import prepare_order, train_stream
from trainer.distributed import process_group
from trainer.distributed.process_group import on_main_rank
from trainer.distributed.stop import Request, StopSignal
from trainer.distributed.watchdog import EXCHANGING, Watchdog
from trainer.evaluation.evaluate import evaluate_networks, evaluate_protocols
from trainer.evaluation.result import report, result
from trainer.log.cadence import Cadence
from trainer.log.lines import LogLines
from trainer.log.log import Log
from trainer.log.pictures import show_augmented, show_mistakes
from trainer.log.profile import profiler
from trainer.nonfinite import dump_nonfinite_step
from trainer.precise_bn import remeasure_norms
from trainer.recipe import Recipe
from trainer.settings import TrainSettings
from trainer.setup.prepare import note_start, prepare


def train(recipe: Recipe, settings: TrainSettings) -> None:
    """Trains to the end. Raises Stopped, with everything saved, after a signal; UserError for invalid input."""
    with ExitStack() as stack:
        world = stack.enter_context(process_group.initialize(settings.device, settings.timeout_minutes))
        stop_signal = stack.enter_context(StopSignal(world))
        watchdog = stack.enter_context(
            Watchdog(world, stop_signal, settings.heartbeat_timeout_minutes, settings.timeout_minutes)
        )
        ready = prepare(recipe, settings, world, stack)
        run, state, step, at = ready.run, ready.state, ready.step, ready.state.position
        train_loader, eval_loader = ready.train_loader, ready.eval_loader
        if ready.report_if_finished(recipe):
            return
        watchdog.follow(train_loader, eval_loader)
        log = stack.enter_context(Log(run.folder, world, at, recipe, settings.log_every, settings.hparams))
        log.say("\n".join([*ready.notes, *note_start(recipe, settings, run, world, at, state.module)]))
        show_augmented(log, recipe, settings, train_loader, world, at)
        stack.enter_context(dump_nonfinite_step(run.folder, recipe, world, at, len(train_loader)))
        log.wait_for_first_step(at, ready.compiles)
        profile = stack.enter_context(profiler(settings, run.folder, world, at, recipe.epochs, log.say))
        lines = LogLines(log, Cadence.of(settings.log_every, at.steps_per_epoch), state.metrics, world)
        throughput = lines.throughput

        def save(norms_measured: bool = False) -> None:
            lines.flush()
            content = ready.checkpoint(norms_measured=norms_measured)
            on_main_rank(world, lambda: run.save(content, at.step))

        def enter(phase: str) -> None:
            watchdog.at(at.step, phase)
            if phase == EXCHANGING and not settings.cuda_graph:  # in a graph no forward pass can be told apart
                throughput.forward_done()

        stop_signal.begin(at.step)
        while at.epoch < recipe.epochs:
            throughput.start()
            micro_batches = train_stream(
                recipe, train_loader, world, epoch=at.epoch, accumulation=step.accumulation, first_step=at.batch
            )
            while at.batch < at.steps_per_epoch:
                for micro_step in range(step.accumulation):  # the last one updates the weights and `at`
                    step(throughput.wait_for(micro_batches), micro_step, enter)
                throughput.images += recipe.global_batch_size
                profile.step_done(at.step)
                lines.after_step(at, step.lr)

                overdue = world.is_main and run.save_is_due(settings.checkpoint_minutes)
                agreed = stop_signal.after_step(at.step, save=overdue)
                is_due = settings.checkpoint_steps and at.step % settings.checkpoint_steps == 0
                if (agreed or is_due) and (at.batch < at.steps_per_epoch or agreed is Request.STOP):
                    save()  # the end of an epoch is saved below, with its norms
                if agreed is Request.STOP:
                    on_main_rank(world, run.finish_saving)
                    stop_signal.stop(f"stopped and saved after step {at.step}: run the same command again to resume")

            if recipe.precise_norm_images:
                remeasure_norms(recipe, state.networks, train_loader, world, at.epoch)
            save(norms_measured=recipe.precise_norm_images is not None)  # an interrupted evaluation loses no training
            prepare_order(recipe, train_loader, at.epoch + 1)
            evaluations = evaluate_networks(state.networks, eval_loader, recipe, world, stop_signal, log.evaluating)
            *_, final = evaluations.values()
            is_best = final.top1 > at.best_top1
            if is_best:
                on_main_rank(world, lambda: run.mark_best(at.step))
            speed = throughput.images_per_second_of_epoch
            for kind, evaluation in evaluations.items():
                log.evaluation(kind, evaluation, at, best=is_best and evaluation is final, images_per_second=speed)
            at.start_next_epoch(final.top1)

        on_main_rank(world, run.finish_saving)
        networks = dict(reversed(state.networks.items()))
        weights = {kind: ready.trained_weights(recipe, kind) for kind in networks}
        results = evaluate_protocols(
            networks, eval_loader, recipe, world, weights, evaluations, stop_signal, log.evaluating
        )
        log.result(report(recipe, eval_loader.source, results), at)
        show_mistakes(log, [*state.networks.values()][-1], eval_loader, recipe, settings, world, at)
        if world.is_main:  # last: a run with a result has nothing left to do
            run.write_result(result(recipe, eval_loader.source, results, ready.identity["data"]))
