"""TensorBoard: one run directory is one run, in one history that holds every step once however often it was stopped.

train/*, eval/*, eval_ema/*    by step, as in metrics.jsonl
eval_by_{images,epoch,seconds}/top1    the same accuracy on other axes; seconds of training, without evaluations
schedule/lr    the learning rate of the whole run, written at its start
and: run and result (text), HParams, a layout for the custom scalars, images.

A run that goes on writes its history anew up to the checkpoint. TensorBoard's own means, purge_step, hides all points
beyond a step, and so those on the other axes too.
"""

import socket
import time
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import SummaryWriter

from trainer.atomic import atomic_write
from trainer.evaluation.result import crop_in_words
from trainer.log.hparams import columns, run_ended, run_started
from trainer.recipe import Recipe
from trainer.recipe_file import overrides_of, recipe_names, recipe_source
from trainer.run.state import Position
from trainer.schedule import lr_of

_KINDS = ("train", "eval", "eval_ema")
_NO_CURVES = {"kind", "step", "seen", "duplicates", "total", "spikes"}
_SCHEDULE_POINTS = 500
_EITHER = "eval(_ema)?"
_LAYOUT = {
    "Accuracy by images and by time": {
        "top-1 (%) by images": ["Multiline", [f"{_EITHER}_by_images/top1"]],
        "top-1 (%) by seconds of training": ["Multiline", [f"{_EITHER}_by_seconds/top1"]],
        "top-1 (%) by epoch": ["Multiline", [f"{_EITHER}_by_epoch/top1"]],
    },
    "Learning rate": {"by step": ["Multiline", ["train/lr"]], "whole schedule": ["Multiline", ["schedule/lr"]]},
    "Gradient norm": {"before clipping": ["Multiline", ["train/grad_norm(_max)?"]]},
    "Loss": {"training": ["Multiline", ["train/loss"]], "validation": ["Multiline", [f"{_EITHER}/loss"]]},
    "Throughput and data wait": {
        "images per second": ["Multiline", ["train/images_per_second"]],
        "seconds per step": ["Multiline", ["train/step_seconds"]],
        "share of time without images": ["Multiline", ["train/data_wait"]],
        "slowest rank, share above the median": ["Multiline", ["train/slowest_rank_share"]],
    },
}


class TensorBoardLog:
    """TensorBoard's file of one run directory, from a position on."""

    def __init__(self, folder: Path, recipe: Recipe, at: Position, records: list[dict[str, Any]]) -> None:
        """`records`: of metrics.jsonl, up to the position. Raises OSError where the folder cannot be written."""
        self._recipe = recipe
        self._clock = _TrainingClock(recipe.global_batch_size)
        told: set[tuple[str, int]] = set()
        if files := sorted(folder.glob("events.out.tfevents.*")):
            events = kept_events(files, at)
            told = {(value.tag, event.step) for event in events for value in event.summary.value}
            _write_history(folder, events)
            for file in files:
                file.unlink()
        self._writer = _writer(folder)
        if ("run/text_summary", 0) not in told:
            self._introduce(at)
        for record in records:
            seconds = self._clock.seconds_at(record)
            self._show(record, seconds, told)  # what a process that was killed had not written yet
        self._writer.flush()

    def record(self, record: dict[str, Any]) -> None:
        """A line of metrics.jsonl."""
        self._show(record, self._clock.seconds_at(record))
        self._writer.flush()

    def scalar(self, tag: str, value: float, step: int) -> None:
        self._writer.add_scalar(tag, value, step)

    def picture(self, name: str, pixels: np.ndarray, step: int) -> None:
        """uint8, shape (height, width, 3)."""
        self._writer.add_image(f"images/{name}", pixels, step, dataformats="HWC")
        self._writer.flush()

    def end(self, text: str, step: int) -> None:
        """The run is over: its result in words."""
        rows = [line.strip().partition(" ") for line in text.splitlines()]
        self._writer.add_text("result", _items((name, value.strip()) for name, _, value in rows), step)
        self._hparams(run_ended())
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()

    def _introduce(self, at: Position) -> None:
        recipe = self._recipe
        self._writer.add_text("run", introduction(recipe), 0)
        self._writer.add_custom_scalars(_LAYOUT)
        self._hparams(columns())
        self._hparams(run_started(recipe))
        total = recipe.epochs * at.steps_per_epoch
        for step in sorted({round(position) for position in np.linspace(0, total - 1, min(total, _SCHEDULE_POINTS))}):
            epoch = step / at.steps_per_epoch
            lr = lr_of(recipe, epoch)
            self._writer.add_scalar("schedule/lr", lr, step + 1)  # as train/lr: the step that is then complete

    def _show(self, record: dict[str, Any], seconds: float | None, told: Collection[tuple[str, int]] = ()) -> None:
        """The curves of one record, but for the points that are told already."""
        kind, step = record["kind"], record["step"]
        hidden = _NO_CURVES if kind == "train" else _NO_CURVES | {"epoch"}
        points = {(f"{kind}/{name}", step): record[name] for name in record.keys() - hidden}
        if kind == "train":
            points["train/step_seconds", step] = self._recipe.global_batch_size / record["images_per_second"]
        else:
            points[f"{kind}_by_images/top1", step * self._recipe.global_batch_size] = record["top1"]
            points[f"{kind}_by_epoch/top1", round(record["epoch"])] = record["top1"]
            if seconds is not None:
                points[f"{kind}_by_seconds/top1", round(seconds)] = record["top1"]
        for (tag, position), value in points.items():
            if (tag, position) not in told:
                self._writer.add_scalar(tag, value, position)

    def _hparams(self, summary: Summary) -> None:
        self._writer._get_file_writer().add_summary(summary, 0)  # SummaryWriter.add_hparams would make another run


class _TrainingClock:
    """Seconds spent on steps, not on evaluating, saving or being stopped: from the rates that metrics.jsonl holds."""

    def __init__(self, global_batch_size: int) -> None:
        self._batch, self._seconds, self._step, self._rate = global_batch_size, 0.0, 0, 0.0

    def seconds_at(self, record: dict[str, Any]) -> float | None:
        """StepRecord of every record in turn. None until a rate is known."""
        if record["kind"] == "train":
            self._rate = float(record["images_per_second"])
            self._seconds += (record["step"] - self._step) * self._batch / self._rate
            self._step = record["step"]
        if not self._rate:
            return None
        return self._seconds + float(record["step"] - self._step) * self._batch / self._rate


def introduction(recipe: Recipe) -> str:
    """What this run is, as Markdown."""
    crop = recipe.eval_crop
    views = "two views, the crop and its mirror image" if crop.flip_tta else "one view"
    weights = "exponential moving average of the weights" if recipe.ema else "no averaging"
    changed = "; ".join(f"`{change}`" for change in overrides_of(recipe)) or "nothing"
    rows = {
        "recipe": recipe.name,
        "seed": str(recipe.seed),
        "changed": changed if recipe.name in recipe_names() else "a recipe of its own",
        "protocol": f"{recipe.dataset}, {crop_in_words(crop)}, {views}; {weights}; {recipe.precision}",
    }
    if published := recipe.published:
        sd = f" ± {published.sd:.2f}" if published.sd is not None else ""
        rows["published"] = f"{published.top1:.2f}{sd} % top-1 ({published.protocol}; {published.source})"
    return f"{_items(rows.items())}\n\n```python\n{recipe_source(recipe)}\n```"


def _items(rows: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"- **{name}**: {text}" for name, text in rows)


def kept_events(files: list[Path], at: Position) -> list[Event]:
    """What these files, in this order, tell of the run up to a position, but not of an evaluation at its very step.

    Events are in the order of training, so everything from the first that is later is later too.
    """
    kept: list[Event] = []
    for event in _events(files):
        match event.WhichOneof("what"):
            case "session_log":  # a start that purges, as TensorBoard would
                kept = [earlier for earlier in kept if earlier.step < event.step]
            case "summary":
                kept.append(event)
    for number, event in enumerate(kept):
        if any(_is_later(value.tag, event.step, at) for value in event.summary.value):
            return kept[:number]
    return kept


def _is_later(tag: str, step: int, at: Position) -> bool:
    kind = tag.partition("/")[0]
    return kind in _KINDS and (step > at.step or (step == at.step and kind != "train"))


def _events(files: list[Path]) -> Iterator[Event]:
    for file in files:
        for content in RawEventFileLoader(str(file)).Load():  # ends at a record cut short
            yield Event.FromString(content)


def _writer(folder: Path) -> SummaryWriter:
    """TensorBoard's own, but for the machine's name, which it would write into the name of its file."""
    ours = socket.gethostname
    socket.gethostname = lambda: "run"
    try:
        return SummaryWriter(str(folder))
    finally:
        socket.gethostname = ours


def _write_history(folder: Path, events: list[Event]) -> None:
    """One whole file, at once. Its first event tells a TensorBoard that is looking to forget what it has read.

    Its name is the shortest of this second, so that it comes after the files it replaces and before the next one.
    """
    now = time.time()
    start = [
        Event(wall_time=now, file_version="brain.Event:2"),
        Event(wall_time=now, step=0, session_log=SessionLog(status=SessionLog.START)),
    ]
    with atomic_write(folder / "history") as partial, partial.open("wb") as file:
        writer = RecordWriter(file)
        for event in (*start, *events):
            writer.write(event.SerializeToString())
    (folder / "history").rename(folder / f"events.out.tfevents.{int(now)}")
