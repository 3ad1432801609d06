"""The log of a run: terminal, log.txt, metrics.jsonl and TensorBoard. Rank 0 alone writes it.

metrics.jsonl holds one JSON object per line: {"kind": "train", "step", "epoch", "lr", "loss", "images_per_second",
"data_wait", "grad_norm", "grad_norm_max"} at the steps that cadence.py names, with "spikes" of the loss and the number
of "skipped" steps if there were any, and {"kind": "eval", "step", "epoch", "top1", "top5", "loss", ...} for each
evaluation, "eval_ema" or "eval_swa" for that of the averaged weights; "images_per_second" there is of the epoch, with
saving and evaluation. A resumed run truncates metrics.jsonl and TensorBoard's events to its checkpoint, so that every
step is logged exactly once; log.txt only grows.
"""

import contextlib
import json
import math
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import numpy as np

from trainer.atomic import MAKE_ROOM
from trainer.distributed.process_group import World
from trainer.errors import DiskError, Stopped, rate
from trainer.evaluation.result import FEW_CLASSES, Evaluation
from trainer.log.cadence import Cadence
from trainer.log.console_log import ConsoleLog
from trainer.log.tensorboard_log import TensorBoardLog
from trainer.log.throughput import Rates, StragglerDetector
from trainer.recipe import BinaryCrossEntropy, Recipe
from trainer.run.directory import gone
from trainer.run.live import LiveFile
from trainer.run.metrics_file import truncate_metrics
from trainer.run.state import Position
from trainer.step_metrics import Summary

_UNLIKELY = 10  # times the loss of a uniform guess: more gets a remark


class Log:
    """The log of one run directory, from a position on. A context manager. Only rank 0 writes."""

    def __init__(
        self,
        run_dir: Path,
        world: World,
        at: Position,
        recipe: Recipe,
        log_every: int = 20,
        hparams: tuple[str, ...] = (),
    ) -> None:
        """`hparams`: the settings that TensorBoard's table of runs shows first."""
        self.speaks = world.is_main
        if not self.speaks:
            return
        self._run_dir, self._recipe = run_dir, recipe
        self._straggler = StragglerDetector(world.size)
        self._interval = Cadence.of(log_every, at.steps_per_epoch).interval
        try:
            kept, damaged = truncate_metrics(run_dir / "metrics.jsonl", at.step)
            self._metrics = (run_dir / "metrics.jsonl").open("a", buffering=1, encoding="utf-8")
            self._opened = os.fstat(self._metrics.fileno())
            self._tensorboard = TensorBoardLog(run_dir, recipe, at, kept, hparams)
            total_steps = recipe.epochs * at.steps_per_epoch
            self._console = ConsoleLog(run_dir, at, total_steps=total_steps, log_every=log_every)
            self._live = LiveFile(run_dir, recipe.global_batch_size)
        except OSError as error:
            raise _cannot_be_written(run_dir, error) from error
        if damaged:
            self.say(f"note: damaged lines of metrics.jsonl were removed and their values are lost: {len(damaged)}")

    def say(self, text: str) -> None:
        if self.speaks:
            with self._writing():
                self._console.say(text)

    def wait_for_first_step(self, at: Position, compiles: str) -> None:
        """Reports on the console that the step after `at` is not done yet. `compiles`: what it has to compile."""
        if self.speaks and at.batch < at.steps_per_epoch and not at.is_last(self._recipe.epochs):
            self._console.wait_for_first_step(compiles)

    def steps(self, at: Position, *, lr: float, steps: Summary, rates: Rates) -> None:
        """Logs the metrics of the steps since the last line, and their speed."""
        if not self.speaks:
            return
        speed = {"images_per_second": rates.images_per_second, "data_wait": rates.data_wait}
        # the lines of the first steps are too short for a claim about a rank
        straggler = self._straggler.update(rates) if at.step >= self._interval else None
        self._require_in_place()
        self._record("train", at, {"lr": lr, "loss": steps.loss, **speed, **_gradients(steps)})
        with self._writing():
            if rates.slowest_rank is not None:
                self._tensorboard.scalar("train_speed/slowest_rank", rates.slowest_rank, at.step)
                self._tensorboard.scalar("train_speed/slowest_rank_share", rates.slower_by, at.step)
            remarks = [*([straggler] if straggler else []), *self._remarks_on(steps.loss, guess=_guess(self._recipe))]
            self._console.steps(at, lr=lr, loss=steps.loss, **speed, remark="".join(f"  {text}" for text in remarks))
        for spike in steps.spikes:
            self.say(
                f"note: the loss of step {spike.step} spikes: {spike.loss:.4g}; the median of the steps around it is "
                f"{steps.median:.4g}; gradient norm {spike.grad_norm:.4g}"
            )

    def progress(self, at: Position) -> None:
        """Shows that training advances, after a step without a line of metrics. Reads nothing from the device."""
        if self.speaks:
            with self._writing():
                self._console.progress(at)
                self._live.after_step(at.step, at.epochs)

    def evaluating(self, done: int, total: int) -> None:
        """Shows how many of its images an evaluation has taken. Reads nothing from the device."""
        if self.speaks:
            with self._writing():
                self._console.evaluating(done, total)

    def evaluation(
        self, kind: str, result: Evaluation, at: Position, *, best: bool, images_per_second: float = 0.0
    ) -> None:
        """Logs an evaluation. `kind`: eval, or for the averaged weights eval_ema or eval_swa.

        `images_per_second`: of training in the epoch before it, with saving and this evaluation; 0: no training.
        """
        if not self.speaks:
            return
        speed = {"images_per_second": images_per_second} if images_per_second else {}
        self._live.pause()
        self._record(kind, at, {**asdict(result), **speed})
        self._console.top1 = result.top1
        weights = {"eval_ema": "EMA ", "eval_swa": "SWA "}.get(kind, "")
        top5 = f"  top-5 {result.top5:.2f} %" if self._recipe.num_classes > FEW_CLASSES else ""
        is_exact = result.seen == result.total and not result.duplicates
        remarks = self._remarks_on(result.loss, guess=math.log(self._recipe.num_classes))
        self.say(
            f"epoch {at.epochs:6.2f}  {weights}top-1 {result.top1:.2f} %{top5}  loss {result.loss:.4f}"
            f"{'' if is_exact else f'  ({result.coverage})'}{'  best so far' if best else ''}"
            f"{f'  {rate(images_per_second)} images/s with evaluation and saving' if images_per_second else ''}"
            f"{''.join(f'  ({text})' for text in remarks)}"
        )

    def _remarks_on(self, loss: float, *, guess: float) -> list[str]:
        """What to say of a loss far above that of a uniform guess."""
        if loss <= _UNLIKELY * guess:
            return []
        why = "learning rate too high, or too few steps for batch norm's averages"
        return [f"a uniform guess has loss {guess:.2f}: {why}"]

    def picture(self, name: str, pixels: np.ndarray, at: Position) -> None:
        """Adds an image to TensorBoard: uint8, shape (height, width, 3)."""
        if self.speaks:
            with self._writing():
                self._tensorboard.picture(name, pixels, at.step)

    def result(self, text: str, at: Position) -> None:
        """Logs the final report."""
        if self.speaks:
            self.say(text)
            with self._writing():
                self._tensorboard.end(text, at.step)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self.speaks:
            if isinstance(error, Stopped):
                self.say(str(error))
            with self._writing(), contextlib.ExitStack() as stack:  # close all, even if one raises
                stack.callback(self._tensorboard.close)
                stack.callback(self._metrics.close)
                stack.callback(self._console.close)
                stack.callback(self._live.close)

    def _require_in_place(self) -> None:
        """Raises DiskError if the folder was removed or moved: its open files could still be written to."""
        path = self._run_dir / "metrics.jsonl"
        if not path.exists() or not os.path.samestat(os.stat(path), self._opened):
            raise gone(self._run_dir)

    def _record(self, kind: str, at: Position, values: dict[str, Any]) -> None:
        record = {"kind": kind, "step": at.step, "epoch": round(at.epochs, 6), **values}
        with self._writing():
            self._metrics.write(json.dumps(record) + "\n")
            self._tensorboard.record(record)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:  # of the terminal
            raise
        except OSError as error:
            self._require_in_place()
            raise _cannot_be_written(self._run_dir, error) from error


def _cannot_be_written(run_dir: Path, error: OSError) -> DiskError:
    return DiskError(f"{run_dir}: cannot be written: {error.strerror}: {MAKE_ROOM}")


def _guess(recipe: Recipe) -> float:
    """The training loss of a network whose outputs are all zero."""
    if not isinstance(recipe.loss, BinaryCrossEntropy):
        return math.log(recipe.num_classes)
    return math.log(2) * (recipe.num_classes if recipe.loss.over_classes == "sum" else 1)


def _gradients(steps: Summary) -> dict[str, Any]:
    """What there is to say of them."""
    spikes = [{"step": spike.step, "loss": spike.loss} for spike in steps.spikes]
    norms = {"grad_norm": steps.grad_norm, "grad_norm_max": steps.grad_norm_max} if steps.grad_norm is not None else {}
    return norms | ({"skipped": steps.skipped} if steps.skipped else {}) | ({"spikes": spikes} if spikes else {})
