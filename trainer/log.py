"""What a run says: console, metrics.jsonl and TensorBoard, from rank 0 alone.

metrics.jsonl holds one JSON object per line: {"kind": "train", "step", "epoch", "lr", "loss", "images_per_second",
"data_wait"} every few steps and {"kind": "eval", "step", "epoch", "top1", "top5", "loss", ...} for each evaluation,
"eval_ema" for that of the averaged weights. A resumed run cuts off what was written after its checkpoint, so that every
step is told once.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from trainer.distributed import World
from trainer.errors import UserError
from trainer.files import replace_text
from trainer.result import Evaluation
from trainer.state import Position

T = TypeVar("T")
_NO_CURVES = {"kind", "step", "seen", "duplicates", "total"}
_PLAIN_SECONDS = 10.0  # between two lines where there is no terminal to draw a bar on


class Log:
    """The log of one run directory, from a position on. A context manager. Silent on every rank but 0."""

    def __init__(self, run_dir: Path, world: World, at: Position, *, total_steps: int) -> None:
        self._speaks = world.is_main
        if not self._speaks:
            return
        self._total_steps = total_steps
        self._console = Console(highlight=False, soft_wrap=True)
        self._last_line = 0.0
        self._progress: Progress | None = None
        try:
            kept = _truncate(run_dir / "metrics.jsonl", at)
            self._metrics = (run_dir / "metrics.jsonl").open("a", buffering=1)
            # also what was told at this very step, where an evaluation may be about to come again; the rest is put back
            self._board = SummaryWriter(str(run_dir), purge_step=at.step)
            for record in kept:
                if record["step"] == at.step:
                    self._show(record)
        except OSError as error:
            raise UserError(f"{run_dir}: cannot be written: {error.strerror}") from error
        if self._console.is_terminal:
            columns = (BarColumn(bar_width=10), TextColumn("{task.description}  ETA"), TimeRemainingColumn())
            self._progress = Progress(*columns, console=self._console)
            self._task = self._progress.add_task("starting", total=total_steps, completed=at.step)
            self._progress.start()
        self._start_step, self._start_time = at.step, time.monotonic()

    def say(self, text: str) -> None:
        if self._speaks:
            self._console.print(text, markup=False)

    def steps(self, at: Position, *, lr: float, loss: float, images_per_second: float, data_wait: float) -> None:
        """The mean loss of the steps since the last call; `data_wait`: fraction of time spent waiting for images."""
        if not self._speaks:
            return
        values = {"lr": lr, "loss": loss, "images_per_second": images_per_second, "data_wait": data_wait}
        self._record("train", at, values)
        if self._progress:
            text = (
                f"epoch {at.epochs:.1f}  loss {loss:.3f}  {images_per_second:,.0f} images/s  data wait {data_wait:.0%}"
            )
            self._progress.update(self._task, completed=at.step, description=text)
        elif time.monotonic() - self._last_line > _PLAIN_SECONDS:
            self._last_line = time.monotonic()
            self.say(
                f"epoch {at.epochs:6.2f}  step {at.step}/{self._total_steps}  loss {loss:.4f}  lr {lr:.4g}  "
                f"{images_per_second:,.0f} images/s  data wait {data_wait:.0%}  ETA {self._eta(at.step)}"
            )

    def evaluation(self, kind: str, result: Evaluation, at: Position, *, best: bool) -> None:
        """`kind`: eval, or eval_ema for the averaged weights."""
        if not self._speaks:
            return
        self._record(kind, at, asdict(result))
        weights = "EMA " if kind == "eval_ema" else ""
        self.say(
            f"epoch {at.epochs:6.2f}  {weights}top-1 {result.top1:.2f} %  top-5 {result.top5:.2f} %  "
            f"loss {result.loss:.4f}  ({result.coverage}){'  best so far' if best else ''}"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._speaks:
            return
        if self._progress:
            self._progress.stop()
        self._metrics.close()
        self._board.close()

    def _record(self, kind: str, at: Position, values: dict[str, Any]) -> None:
        record = {"kind": kind, "step": at.step, "epoch": round(at.epochs, 6), **values}
        self._metrics.write(json.dumps(record) + "\n")
        self._show(record)
        if kind != "train":
            self._board.flush()

    def _show(self, record: dict[str, Any]) -> None:
        hidden = _NO_CURVES if record["kind"] == "train" else _NO_CURVES | {"epoch"}
        for name in record.keys() - hidden:
            self._board.add_scalar(f"{record['kind']}/{name}", record[name], record["step"])

    def _eta(self, step: int) -> str:
        seconds = (time.monotonic() - self._start_time) * (self._total_steps - step) / max(1, step - self._start_step)
        return f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02}:{int(seconds) % 60:02}"


class Throughput:
    """Images per second and the share of time spent waiting for them, on the host's clock: no device is asked."""

    def __init__(self) -> None:
        self.images = 0
        self.start()

    def start(self) -> None:
        """From here on: what came before, such as an evaluation, does not count."""
        self.images, self._waited, self._since = 0, 0.0, time.perf_counter()

    def wait_for(self, batches: Iterator[T]) -> T:
        """The next batch."""
        start = time.perf_counter()
        batch = next(batches)
        self._waited += time.perf_counter() - start
        return batch

    def read(self) -> dict[str, float]:
        """The rates since the last read or start."""
        seconds = time.perf_counter() - self._since
        rates = {"images_per_second": self.images / seconds, "data_wait": self._waited / seconds}
        self.start()
        return rates


def _truncate(metrics: Path, at: Position) -> list[dict[str, Any]]:
    """Removes what was told of later steps, of an evaluation that is about to come, and a last line cut short."""
    if not metrics.exists():
        return []
    kept = []
    for line in metrics.read_text().splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if record["step"] < at.step or (record["step"] == at.step and record["kind"] == "train"):
            kept.append(record)
    replace_text(metrics, "".join(json.dumps(record) + "\n" for record in kept))
    return kept
