"""The log for people: a progress bar in a terminal, plain lines elsewhere and in RUN/log.txt."""

import platform
import re
import threading
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from trainer.errors import rate
from trainer.log.cadence import Cadence
from trainer.run.commit import commit
from trainer.run.state import Position

_SECONDS = 10.0  # between two plain lines
_FIRST_STEP_SECONDS = 3.0  # of silence before the first step, until a line says what is going on
_BAR_WIDTH = 10  # columns
_BAR_SECONDS = 0.1  # between two updates of the bar
_LOG_EVERY = 20  # the default of --log-every: a smaller value asks for each of its lines on the console
_FOLDERS = re.compile(r"(?<![\w.:/])/(?:[^\s/]+/)+([^\s/]*)")


@dataclass(frozen=True, kw_only=True)
class _Logged:
    """The values of the last line of metrics."""

    step: int
    lr: float
    loss: float
    images_per_second: float
    data_wait: float
    remark: str


class ConsoleLog:
    """Terminal and log file of one run, from a position on."""

    def __init__(self, folder: Path, at: Position, *, total_steps: int, log_every: int = _LOG_EVERY) -> None:
        """Appends a headline with date and versions to folder/log.txt. Raises OSError if it cannot be written."""
        self._folder, self._total_steps, self._log_every = folder, total_steps, log_every
        self._file = (folder / "log.txt").open("a", buffering=1, encoding="utf-8", errors="backslashreplace")
        self._file.write(f"{'' if self._file.tell() == 0 else chr(10)}{_headline()}\n")
        self._console = Console(highlight=False, soft_wrap=True)
        self._epochs = total_steps // at.steps_per_epoch
        self._first_steps = Cadence.of(log_every, at.steps_per_epoch).interval
        self._start_step, self._start_time = at.step, time.monotonic()
        self._line_time, self._bar_time = self._start_time, 0.0
        self._newest = at
        self._has_stepped = threading.Event()
        self._last: _Logged | None = None
        self.top1 = at.best_top1 if at.best_top1 >= 0 else None
        """of the last evaluation, in %; of a resumed run at first the best one"""
        self._bar: Progress | None = None
        if self._console.is_terminal:
            columns = BarColumn(bar_width=_BAR_WIDTH), TextColumn("{task.description}")
            self._bar = Progress(*columns, console=self._console)
            self._task = self._bar.add_task("starting", total=total_steps, completed=at.step)
            self._bar.start()

    def say(self, text: str) -> None:
        """Prints one line or several. The log file gets them without the folders of this machine."""
        self._console.print(text, markup=False)
        self._write(text)

    def steps(
        self, at: Position, *, lr: float, loss: float, images_per_second: float, data_wait: float, remark: str
    ) -> None:
        """Shows a line of metrics, which may be older than the last call of progress().

        The bar always shows it. As a plain line it is printed after the first steps, at every `log_every` steps if the
        user asked for fewer than the default, and otherwise at most every ten seconds.
        """
        self._has_stepped.set()
        first_line = self._last is None
        self._last = _Logged(
            step=at.step, lr=lr, loss=loss, images_per_second=images_per_second, data_wait=data_wait, remark=remark
        )
        if self._bar:
            self._update_bar(max(at, self._newest, key=lambda position: position.step))
        asked = self._log_every < _LOG_EVERY and at.step % self._log_every == 0
        if asked or first_line or at.step <= self._first_steps or time.monotonic() - self._line_time > _SECONDS:
            step = f"step {at.step}/{self._total_steps}"
            speed = f"{rate(images_per_second)} images/s  data wait {data_wait:.0%}  ETA {self._eta(at.step)}"
            line = f"epoch {at.epochs:6.2f}  {step}  loss {loss:.4f}  lr {lr:.4g}  {speed}{remark}"
            self._print_line(line, above_bar=asked)

    def progress(self, at: Position) -> None:
        """After a step without a line: moves the bar, or prints that training advances if ten seconds have passed.

        Reads nothing from the device, so the loss is that of the last line.
        """
        self._has_stepped.set()
        now, self._newest = time.monotonic(), replace(at)
        if self._bar and now - self._bar_time > _BAR_SECONDS:
            self._update_bar(at)
        if now - self._line_time > _SECONDS:
            loss = f"  loss {self._last.loss:.4f} at step {self._last.step}" if self._last else ""
            step = f"step {at.step}/{self._total_steps}"
            self._print_line(f"epoch {at.epochs:6.2f}  {step}{loss}  ETA {self._eta(at.step)}", above_bar=False)

    def evaluating(self, done: int, total: int) -> None:
        """Within an evaluation: shows it on the bar, and prints a line if ten seconds have passed."""
        now, parts = time.monotonic(), [(0, f"evaluating {done:,} of {total:,}"), (1, f"{done / total:.0%}")]
        if self._bar and (now - self._bar_time > _BAR_SECONDS or done == total):
            self._bar_time = now
            self._bar.update(self._task, description=fitting(parts, self._console.width - _BAR_WIDTH - 1))
        if now - self._line_time > _SECONDS:
            self._print_line("  ".join(text for _, text in parts), above_bar=False)

    def wait_for_first_step(self, compiles: str) -> None:
        """Shows from the third second on how long the first step has taken, until it is done or the log is closed.

        `compiles`: what it has to compile; empty: nothing, and only the bar shows the time. log.txt gets no line of it.
        """
        if not self._bar and not compiles:
            return
        start = time.monotonic()

        def report() -> None:
            seconds = _FIRST_STEP_SECONDS
            while not self._has_stepped.wait(seconds):
                text = f"first step: {time.monotonic() - start:.0f} s so far{f': {compiles}' if compiles else ''}"
                if self._bar:
                    self._bar.update(self._task, description=text)
                else:
                    self._console.print(text, markup=False)
                seconds = 1.0 if self._bar else _SECONDS

        threading.Thread(target=report, daemon=True, name="first step").start()

    def close(self) -> None:
        self._has_stepped.set()
        if self._bar:
            self._bar.stop()
        self._file.close()

    def _update_bar(self, at: Position) -> None:
        assert self._bar
        self._bar_time = time.monotonic()
        # in the order of the line, with their rank: where the window is narrow, the last ones are left out
        parts = [(0, f"epoch {at.epochs:.1f}/{self._epochs}"), (3, f"step {at.step}")]
        if last := self._last:
            parts += [(2, f"loss {last.loss:.3f}"), (6, f"lr {last.lr:.3g}")]
        if self.top1 is not None:
            parts.append((4, f"top-1 {self.top1:.2f} %"))
        if last:
            parts += [(5, f"{rate(last.images_per_second)} images/s"), (7, f"data wait {last.data_wait:.0%}")]
        parts.append((1, f"ETA {self._eta(at.step)}"))
        if last and last.remark:
            parts.append((8, last.remark.strip()))
        text = fitting(parts, self._console.width - _BAR_WIDTH - 1)
        self._bar.update(self._task, completed=at.step, description=text)

    def _print_line(self, line: str, *, above_bar: bool) -> None:
        self._line_time = time.monotonic()
        self._write(line)
        if above_bar or not self._bar:
            self._console.print(line, markup=False)

    def _write(self, text: str) -> None:
        self._file.write(without_folders(text.replace(str(self._folder), self._folder.name)) + "\n")

    def _eta(self, step: int) -> str:
        seconds = (time.monotonic() - self._start_time) * (self._total_steps - step) / max(1, step - self._start_step)
        return f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02}:{int(seconds) % 60:02}"


def fitting(parts: list[tuple[int, str]], columns: int) -> str:
    """The texts of the lowest ranks, in the order of `parts`, that together take at most this many columns."""
    kept = sorted(parts)
    while len(kept) > 1 and len("  ".join(text for _, text in kept)) > columns:
        kept.pop()
    return "  ".join(text for rank, text in parts if (rank, text) in kept)


def without_folders(text: str) -> str:
    """The text with every absolute path shortened to its last part."""
    return _FOLDERS.sub(r"\1", text)


def _headline() -> str:
    parts = [f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC", f"commit {commit()}", f"Python {platform.python_version()}"]
    for package in ("torch", "torchvision", "timm"):
        try:
            parts.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(parts)
