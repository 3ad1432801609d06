"""TensorBoard: one run directory is one run. Its events hold every step exactly once, across restarts.

eval/*, train/*    by step, as in metrics.jsonl; eval/ema_* and eval/swa_* for averaged weights
train_gradients/*    their norm before clipping, mean and maximum since the last line
train_speed/*    images per second, waits, the slowest rank
visuals/*    pictures
versus/top1_by_{images,epoch,milliseconds}    the same accuracy on other axes; time of training, without evaluations
whole_run/lr    the learning rate of the whole run, written at its start
and: run and result (text), HParams, a layout for the custom scalars.

TensorBoard sorts the groups by name and unfolds the first two: they are the ones that matter.

A resumed run rewrites its history up to the checkpoint. TensorBoard's own mechanism, purge_step, cannot be used: it
hides all points beyond a step, including those on the other axes.
"""

import os
import re
import socket
import time
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import custom_scalars

from trainer.atomic import atomic_write
from trainer.evaluation.protocol import describe_crop
from trainer.evaluation.result import FEW_CLASSES
from trainer.log.hparams import columns, run_ended, run_started
from trainer.recipe import Recipe
from trainer.recipe_file import overrides_of, recipe_names, recipe_source
from trainer.run.state import Position
from trainer.schedule import lr_of

_BY_STEP = ("train", "train_gradients", "train_speed", "eval")  # groups
_NO_CURVES = {"kind", "step", "epoch", "seen", "duplicates", "total", "spikes"}
_SPEED = {"images_per_second", "data_wait"}
_SCHEDULE_POINTS = 500
_LAYOUT = {
    "Accuracy, loss and learning rate": {
        "top-1 (%)": ["eval/(ema_|swa_)?top1"],
        "training loss": ["train/loss"],
        "validation loss": ["eval/(ema_|swa_)?loss"],
        "learning rate": ["train/lr"],
    },
    "Throughput and data wait": {
        "images per second": ["train_speed/images_per_second"],
        "seconds per step": ["train_speed/step_seconds"],
        "share of time without images": ["train_speed/data_wait"],
        "slowest rank, share above the median": ["train_speed/slowest_rank_share"],
    },
    "Accuracy by images and by time": {
        "top-1 (%) by images": ["versus/(ema_|swa_)?top1_by_images"],
        "top-1 (%) by milliseconds of training": ["versus/(ema_|swa_)?top1_by_milliseconds"],
        "top-1 (%) by epoch": ["versus/(ema_|swa_)?top1_by_epoch"],
    },
    "Gradient norm": {"before clipping": ["train_gradients/norm(_max)?"]},
    "Whole schedule": {"learning rate": ["whole_run/lr"]},
}
_UNFOLDED = 2  # of these pages


class TensorBoardLog:
    """TensorBoard's file of one run directory, from a position on."""

    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        at: Position,
        records: list[dict[str, Any]],
        hparams: tuple[str, ...] = (),
    ) -> None:
        """`records`: metrics.jsonl up to the position. `hparams`: the settings that the table of runs shows first.

        Raises OSError if the folder cannot be written.
        """
        self._recipe = recipe
        self._opened, folder = _nameable(folder)
        self._clock = _TrainingClock(recipe.global_batch_size)
        written: set[tuple[str, int]] = set()
        if files := sorted(folder.glob("events.out.tfevents.*")):
            events = kept_events(files, at)
            written = {(value.tag, event.step) for event in events for value in event.summary.value}
            _write_history(folder, events)
            for file in files:
                file.unlink()
        self._writer = _writer(folder)
        if ("run/text_summary", 0) not in written:
            self._introduce(at, hparams)
        for record in records:
            seconds = self._clock.seconds_at(record)
            self._show(record, seconds, written)  # what a killed process had in metrics.jsonl but not here
        self._writer.flush()

    def record(self, record: dict[str, Any]) -> None:
        """Adds a line of metrics.jsonl."""
        self._show(record, self._clock.seconds_at(record))
        self._writer.flush()

    def scalar(self, tag: str, value: float, step: int) -> None:
        self._writer.add_scalar(tag, value, step)

    def picture(self, name: str, pixels: np.ndarray, step: int) -> None:
        """Adds an image: uint8, shape (height, width, 3)."""
        self._writer.add_image(f"visuals/{name}", pixels, step, dataformats="HWC")
        self._writer.flush()

    def end(self, text: str, step: int) -> None:
        """Adds the final report, as text."""
        whole = re.sub(r"\n {3,}", " ", text)  # lines that continue a row are indented further
        rows = [line.strip().partition(" ") for line in whole.splitlines()]
        self._writer.add_text("result", _items((name, value.strip()) for name, _, value in rows), step)
        self._hparams(run_ended())
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
        if self._opened is not None:
            os.close(self._opened)

    def _introduce(self, at: Position, hparams: tuple[str, ...]) -> None:
        recipe = self._recipe
        self._writer.add_text("run", introduction(recipe), 0)
        self._add(_layout())
        self._hparams(columns(hparams))
        self._hparams(run_started(recipe))
        total = recipe.epochs * at.steps_per_epoch
        for step in sorted({round(position) for position in np.linspace(0, total - 1, min(total, _SCHEDULE_POINTS))}):
            epoch = step / at.steps_per_epoch
            lr = lr_of(recipe, epoch)
            self._writer.add_scalar("whole_run/lr", lr, step + 1)  # like train/lr: at the number of complete steps

    def _show(self, record: dict[str, Any], seconds: float | None, written: Collection[tuple[str, int]] = ()) -> None:
        """Adds the points of one record, except those that are written already."""
        kind, step = record["kind"], record["step"]
        few = {"top5"} if self._recipe.num_classes <= FEW_CLASSES else set()
        points = {(_tag(kind, name), step): record[name] for name in sorted(record.keys() - _NO_CURVES - few)}
        if kind == "train":
            points["train_speed/step_seconds", step] = self._recipe.global_batch_size / record["images_per_second"]
        else:
            by = f"versus/{_average(kind)}top1_by"
            points[f"{by}_images", step * self._recipe.global_batch_size] = record["top1"]
            points[f"{by}_epoch", round(record["epoch"])] = record["top1"]
            if seconds is not None:
                points[f"{by}_milliseconds", round(1000 * seconds)] = record["top1"]
        for (tag, position), value in points.items():
            if (tag, position) not in written:
                self._writer.add_scalar(tag, value, position)

    def _hparams(self, summary: Summary) -> None:
        self._add(summary)  # SummaryWriter.add_hparams would add a second run

    def _add(self, summary: Summary) -> None:
        self._writer._get_file_writer().add_summary(summary, 0)


def _tag(kind: str, name: str) -> str:
    """The curve of a value of metrics.jsonl."""
    if kind != "train":
        return f"eval/{_average(kind)}{name}"
    if name.startswith("grad_norm"):
        return f"train_gradients/{name.removeprefix('grad_')}"
    return f"train_speed/{name}" if name in _SPEED else f"train/{name}"


def _average(kind: str) -> str:
    """ "ema_" for eval_ema, "swa_" for eval_swa, "" for eval."""
    average = kind.removeprefix("eval").lstrip("_")
    return f"{average}_" if average else ""


def _layout() -> Summary:
    """The pages of the custom scalars. torch's summary folds none of them, so it is changed here."""
    pages = {title: {name: ["Multiline", tags] for name, tags in charts.items()} for title, charts in _LAYOUT.items()}
    summary = custom_scalars(pages)
    content = summary.value[0].tensor.string_val
    layout = Layout.FromString(content[0])
    for category in layout.category[_UNFOLDED:]:
        category.closed = True
    content[0] = layout.SerializeToString()
    return summary


class _TrainingClock:
    """Seconds of training, without evaluation, saving and interruptions, from the rates in metrics.jsonl."""

    def __init__(self, global_batch_size: int) -> None:
        self._batch, self._seconds, self._step, self._rate = global_batch_size, 0.0, 0, 0.0

    def seconds_at(self, record: dict[str, Any]) -> float | None:
        """Called with each record in order. None until a rate is known."""
        if record["kind"] == "train":
            self._rate = float(record["images_per_second"])
            self._seconds += (record["step"] - self._step) * self._batch / self._rate
            self._step = record["step"]
        if not self._rate:
            return None
        return self._seconds + float(record["step"] - self._step) * self._batch / self._rate


def introduction(recipe: Recipe) -> str:
    """A description of the run, as Markdown."""
    crop = recipe.eval_crop
    views = "two views, the crop and its mirror image" if crop.flip_tta else "one view"
    mean = "mean of the weights after several epochs" if recipe.swa else "no averaging"
    weights = "exponential moving average of the weights" if recipe.ema else mean
    changed = "; ".join(f"`{change}`" for change in overrides_of(recipe)) or "nothing"
    rows = {
        "recipe": recipe.name,
        "seed": str(recipe.seed),
        "changed": changed if recipe.name in recipe_names() else "a recipe outside recipes/",
        "protocol": f"{recipe.dataset}, {describe_crop(crop)}, {views}; {weights}; {recipe.precision}",
    }
    if published := recipe.published:
        rows["published"] = str(published)
    return f"{_items(rows.items())}\n\n```python\n{recipe_source(recipe)}\n```"


def _items(rows: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"- **{name}**: {text}" for name, text in rows)


def kept_events(files: list[Path], at: Position) -> list[Event]:
    """The events of these files up to a position, without an evaluation at exactly that step.

    Events are in the order of training: everything after the first later event is later as well.
    """
    kept: list[Event] = []
    for event in _events(files):
        match event.WhichOneof("what"):
            case "session_log":  # a start that purges, as in TensorBoard
                kept = [earlier for earlier in kept if earlier.step < event.step]
            case "summary":
                kept.append(event)
    for number, event in enumerate(kept):
        if any(_is_later(value.tag, event.step, at) for value in event.summary.value):
            return kept[:number]
    return kept


def _is_later(tag: str, step: int, at: Position) -> bool:
    kind = tag.partition("/")[0]
    return kind in _BY_STEP and (step > at.step or (step == at.step and kind == "eval"))


def _events(files: list[Path]) -> Iterator[Event]:
    for file in files:
        for content in RawEventFileLoader(str(file)).Load():  # ends at a record cut short
            yield Event.FromString(content)


def _nameable(folder: Path) -> tuple[int | None, Path]:
    """The folder, for TensorBoard, which takes names in UTF-8 only: others by a descriptor that is to be closed."""
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        opened = os.open(folder, os.O_RDONLY)
        return opened, Path(f"/proc/self/fd/{opened}")
    return None, folder


def _writer(folder: Path) -> SummaryWriter:
    """A SummaryWriter whose file name does not contain the machine's name."""
    ours = socket.gethostname
    socket.gethostname = lambda: "run"
    try:
        return SummaryWriter(str(folder))
    finally:
        socket.gethostname = ours


def _write_history(folder: Path, events: list[Event]) -> None:
    """Writes one complete file atomically. Its first event makes a running TensorBoard forget what it has read.

    TensorBoard reads files in the order of their names. This is the shortest name of the current second, so it comes
    after the files it replaces and before the next one.
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
