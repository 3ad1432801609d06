"""progress.json: how far a run is between two lines of metrics.jsonl, while it trains. Needs no torch.

Rank 0 writes it after the first step of a start and then every few seconds, for `launch status`. It is gone when the
processes have ended by themselves.
"""

import json
import time
from pathlib import Path
from typing import NamedTuple

from trainer.errors import NOT_JSON

NAME = "progress.json"
_SECONDS = 5.0  # between two writes


class Live(NamedTuple):
    """What the file holds."""

    step: int
    epoch: float
    images_per_second: float | None
    """over all processes, in the last seconds of training; None: not known yet"""
    written: float
    """when, in seconds since 1970"""


def read_live(run_dir: Path) -> Live | None:
    """Reads the content of the file; None if there is none, or while it is being written."""
    path = run_dir / NAME
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return Live(int(values["step"]), float(values["epoch"]), values["images_per_second"], path.stat().st_mtime)
    except (OSError, *NOT_JSON, LookupError, TypeError):
        return None


class LiveFile:
    """The file of one start. Its methods raise OSError where the folder cannot be written."""

    def __init__(self, run_dir: Path, global_batch_size: int) -> None:
        self._path, self._global_batch_size = run_dir / NAME, global_batch_size
        self._path.unlink(missing_ok=True)  # of a start that was killed
        self._since: tuple[float, int] | None = None  # time and step of the last write within this stretch of training
        self._images_per_second: float | None = None

    def after_step(self, step: int, epoch: float) -> None:
        """Writes the file if it is due."""
        now = time.monotonic()
        if self._since is None:
            self._write(step, epoch)
        elif now - self._since[0] >= _SECONDS:
            self._images_per_second = (step - self._since[1]) * self._global_batch_size / (now - self._since[0])
            self._write(step, epoch)
        else:
            return
        self._since = now, step

    def pause(self) -> None:
        """Records that training has paused, as for an evaluation, which does not count as time of training."""
        self._since = None

    def close(self) -> None:
        self._path.unlink(missing_ok=True)

    def _write(self, step: int, epoch: float) -> None:
        values = {"step": step, "epoch": round(epoch, 6), "images_per_second": self._images_per_second}
        self._path.write_text(json.dumps(values) + "\n", encoding="utf-8")
