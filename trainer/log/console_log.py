"""What a person reads while training: a line with a bar in a terminal, plain lines anywhere else and in RUN/log.txt."""

import platform
import re
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from trainer.run.commit import commit
from trainer.run.state import Position

_PLAIN_SECONDS = 10.0  # between two plain lines
_FOLDERS = re.compile(r"(?<![\w.:/])/(?:[^\s/]+/)+([^\s/]*)")


class ConsoleLog:
    """Terminal and log file of one run, from a position on."""

    def __init__(self, folder: Path, at: Position, *, total_steps: int) -> None:
        """Begins a new part of folder/log.txt with date and versions. Raises OSError where it cannot be written."""
        self._folder, self._total_steps = folder, total_steps
        self._file = (folder / "log.txt").open("a", buffering=1, encoding="utf-8")
        self._file.write(f"{'' if self._file.tell() == 0 else chr(10)}{_headline()}\n")
        self._console = Console(highlight=False, soft_wrap=True)
        self._epochs = total_steps // at.steps_per_epoch
        self._start_step, self._start_time, self._last_line = at.step, time.monotonic(), 0.0
        self.top1 = at.best_top1 if at.best_top1 >= 0 else None
        """of the last evaluation, in %; of a continued run at first the best one"""
        self._bar: Progress | None = None
        if self._console.is_terminal:
            self._bar = Progress(BarColumn(bar_width=10), TextColumn("{task.description}"), console=self._console)
            self._task = self._bar.add_task("starting", total=total_steps, completed=at.step)
            self._bar.start()

    def say(self, text: str) -> None:
        """One line, or several. Folders of this machine are left out of the log file."""
        self._console.print(text, markup=False)
        self._write(text)

    def steps(
        self, at: Position, *, lr: float, loss: float, images_per_second: float, data_wait: float, remark: str
    ) -> None:
        """The state of training; without a terminal, and in the log file, at most every ten seconds."""
        speed = f"{images_per_second:,.0f} images/s  data wait {data_wait:.0%}  ETA {self._eta(at.step)}{remark}"
        if self._bar:
            top1 = f"  top-1 {self.top1:.2f} %" if self.top1 is not None else ""
            text = f"epoch {at.epochs:.1f}/{self._epochs}  step {at.step}  loss {loss:.3f}  lr {lr:.3g}{top1}  {speed}"
            self._bar.update(self._task, completed=at.step, description=text)
        if time.monotonic() - self._last_line > _PLAIN_SECONDS:
            self._last_line = time.monotonic()
            line = f"epoch {at.epochs:6.2f}  step {at.step}/{self._total_steps}  loss {loss:.4f}  lr {lr:.4g}  {speed}"
            self._write(line)
            if not self._bar:
                self._console.print(line, markup=False)

    def close(self) -> None:
        if self._bar:
            self._bar.stop()
        self._file.close()

    def _write(self, text: str) -> None:
        self._file.write(without_folders(text.replace(str(self._folder), self._folder.name)) + "\n")

    def _eta(self, step: int) -> str:
        seconds = (time.monotonic() - self._start_time) * (self._total_steps - step) / max(1, step - self._start_step)
        return f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02}:{int(seconds) % 60:02}"


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
