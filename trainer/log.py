"""What a run says: console, metrics.jsonl and TensorBoard, from rank 0 alone.

metrics.jsonl holds one JSON object per line: {"kind": "train", "step", "epoch", "lr", "loss", "images_per_second",
"data_wait"} every few steps and {"kind": "eval", "step", "epoch", "top1", "top5", "loss", ...} for each evaluation. A
resumed run cuts off what was written after its checkpoint, so that every step is told once.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from trainer.distributed import World
from trainer.errors import UserError
from trainer.result import Evaluation

T = TypeVar("T")
_PLAIN_SECONDS = 10.0  # between two lines where there is no terminal to draw a bar on


class Log:
    """The log of one run directory, continued after `step` completed steps. Silent on every rank but 0."""

    def __init__(self, run_dir: Path, world: World, *, step: int, total_steps: int, evaluated: bool) -> None:
        """`evaluated`: whether an evaluation after `step` steps is behind us; else it is about to be told again."""
        self._speaks = world.is_main
        if not self._speaks:
            return
        self._total_steps = total_steps
        self._console = Console(highlight=False, soft_wrap=True)
        self._last_line = 0.0
        self._progress: Progress | None = None
        try:
            _truncate(run_dir / "metrics.jsonl", step, evaluated)
            self._metrics = (run_dir / "metrics.jsonl").open("a", buffering=1)
            self._board = SummaryWriter(str(run_dir / "tensorboard"), purge_step=step + 1)
        except OSError as error:
            raise UserError(f"{run_dir}: cannot be written: {error.strerror}") from error
        if self._console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("steps, {task.fields[speed]}, ETA"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._task = self._progress.add_task("", total=total_steps, completed=step, speed="")
            self._progress.start()
        self._start_step, self._start_time = step, time.monotonic()

    def say(self, text: str) -> None:
        if self._speaks:
            self._console.print(text, markup=False)

    def steps(
        self, step: int, epoch: float, *, lr: float, loss: float, images_per_second: float, data_wait: float
    ) -> None:
        """The mean loss of the steps since the last call; `data_wait`: fraction of time spent waiting for images."""
        if not self._speaks:
            return
        values = {"lr": lr, "loss": loss, "images_per_second": images_per_second, "data_wait": data_wait}
        self._record("train", step, epoch, values)
        if self._progress:
            text = f"epoch {epoch:.1f}  loss {loss:.3f}  lr {lr:.3g}"
            speed = f"{images_per_second:,.0f} images/s, data wait {data_wait:.0%}"
            self._progress.update(self._task, completed=step, description=text, speed=speed)
        elif time.monotonic() - self._last_line > _PLAIN_SECONDS:
            self._last_line = time.monotonic()
            self.say(
                f"epoch {epoch:6.2f}  step {step}/{self._total_steps}  loss {loss:.4f}  lr {lr:.4g}  "
                f"{images_per_second:,.0f} images/s  data wait {data_wait:.0%}  ETA {self._eta(step)}"
            )

    def evaluation(self, result: Evaluation, *, step: int, epoch: float, best: bool) -> None:
        if not self._speaks:
            return
        self._record("eval", step, epoch, asdict(result))
        self.say(
            f"epoch {epoch:6.2f}  top-1 {result.top1:.2f} %  top-5 {result.top5:.2f} %  loss {result.loss:.4f}  "
            f"({result.coverage}){'  best so far' if best else ''}"
        )

    def close(self) -> None:
        if not self._speaks:
            return
        if self._progress:
            self._progress.stop()
        self._metrics.close()
        self._board.close()

    def _record(self, kind: str, step: int, epoch: float, values: dict[str, Any]) -> None:
        self._metrics.write(json.dumps({"kind": kind, "step": step, "epoch": round(epoch, 6), **values}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(f"{kind}/{name}", value, step)
        if kind == "eval":
            self._board.flush()

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


def _truncate(metrics: Path, step: int, evaluated: bool) -> None:
    """Removes what was told after `step` steps, and a last line that was not finished."""
    if not metrics.exists():
        return
    kept = []
    for line in metrics.read_text().splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if record["step"] < step or (record["step"] == step and (evaluated or record["kind"] == "train")):
            kept.append(line + "\n")
    partial = metrics.with_name(".metrics.jsonl.partial")
    partial.write_text("".join(kept))
    partial.replace(metrics)
