"""The run directory: the recipe it belongs to, the hardware of each start, the result.

recipe.py  starts.json  metrics.jsonl  result.json  log.txt  checkpoints/  events.out.tfevents.* (TensorBoard)
progress.json (while it trains)  not_finite.json (after a number that is not finite)  .saved (after a checkpoint)
"""

import contextlib
import errno
import fcntl
import json
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Self

from trainer.atomic import MAKE_ROOM, replace_text
from trainer.errors import DISK_AWAY, NOT_JSON, DiskError, UserError
from trainer.process.variables import whole_number
from trainer.recipe import Recipe
from trainer.recipe_file import recipe_source
from trainer.run.background import BackgroundWriter, copied
from trainer.run.checkpoint import CheckpointContent, Checkpoints
from trainer.run.checkpoint_names import has_checkpoints
from trainer.run.usable import SAVED, require_usable, stored_recipe

_MAY_PASS = (errno.ENOSPC, errno.EDQUOT, *DISK_AWAY)
_ROOM_HELPS = (*_MAY_PASS, errno.EROFS, errno.EACCES, errno.EPERM)
_OF_A_CLAIM = {".lock", ".owner", "recipe.py"}  # the files that claim() writes


def gone(folder: Path) -> DiskError:
    """Returns the error of a run whose folder is no longer the one that it has claimed."""
    remedy = "nothing more is saved; move it back and run the same command again, or start anew"
    return DiskError(f"{folder} was removed, moved or emptied while it was in use: {remedy}")


@dataclass(frozen=True)
class Attempt:
    """The job and the start that this process belongs to, from torchrun's variables; empty without a launcher.

    torchrun names a job "none" unless it is given a name.
    """

    job: str = field(default_factory=lambda: os.environ.get("TORCHELASTIC_RUN_ID", ""))
    number: int = field(default_factory=lambda: whole_number("TORCHELASTIC_RESTART_COUNT", 0))

    def replaces(self, other: "Attempt") -> bool:
        """Whether this is a later attempt of the same job."""
        return self.job not in ("", "none") and self.job == other.job and self.number > other.number


class Run:
    """One run directory, of a new run or of one that continues."""

    def __init__(self, folder: Path, keep: int = 3) -> None:
        self.folder = folder
        self.checkpoints = Checkpoints(folder / "checkpoints", keep)
        self._attempt = Attempt()
        self._lock: IO[str] | None = None
        self._created = False
        self._writer = BackgroundWriter()
        self._saved_at = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Waits for a save in the background. Its error is raised, unless another UserError ends the run.

        Then gives the directory back: see release().
        """
        try:
            self._writer.wait()
        except UserError:
            if kind is None or not issubclass(kind, UserError):
                raise
        finally:
            if kind:
                self._remove_if_nothing_ran()
            self.release()

    @property
    def recipe(self) -> Recipe:
        """The resolved recipe. Raises UserError if there is none: `folder` is not a run."""
        return stored_recipe(self.folder)

    def claim(self, recipe: Recipe) -> None:
        """Reserves the directory for this recipe and, until it ends, for this process.

        Raises UserError if another process uses it, or if it cannot be used for this recipe: require_usable().
        """
        require_usable(self.folder, recipe)
        stored = self.folder / "recipe.py"
        try:
            self._created = self._created or not self.folder.exists()
            self.folder.mkdir(parents=True, exist_ok=True)
            self.release()
            # kept open: the lock ends with the process, however it ends
            self._lock = (self.folder / ".lock").open("w", encoding="utf-8")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if not self._attempt.replaces(self._owner):
                message = f"{self.folder} is in use by another process: wait for it, or use another one"
                raise UserError(message) from error
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK):  # a file system without locks
                kind = DiskError if error.errno in _MAY_PASS else UserError
                remedy = MAKE_ROOM if error.errno in _ROOM_HELPS else "use another --run-dir"
                raise kind(f"{self.folder}: cannot be written: {error.strerror}: {remedy}") from error
        if not has_checkpoints(self.folder):  # left by a start that saved no checkpoint
            for left in (self.folder / "starts.json", *self.folder.glob("events.out.tfevents.*")):
                left.unlink(missing_ok=True)
        replace_text(self.folder / ".owner", json.dumps(asdict(self._attempt)))
        replace_text(stored, recipe_source(recipe))

    def _remove_if_nothing_ran(self) -> None:
        """Removes a folder that this start made and that holds no log yet: an input could not be used."""
        if not self._created or not self._lock:
            return
        with contextlib.suppress(OSError):
            if {path.name for path in self.folder.iterdir()} <= _OF_A_CLAIM:
                for name in _OF_A_CLAIM:
                    (self.folder / name).unlink(missing_ok=True)
                self.folder.rmdir()

    def release(self) -> None:
        """Releases the lock of the directory. The operating system does so at the end of the process."""
        if self._lock:
            self._lock.close()
            self._lock = None

    def save(self, content: CheckpointContent, step: int) -> None:
        """Copies a checkpoint and begins to write it. Waits for the last one, and raises its error if it had one.

        Raises UserError if a later attempt of the same job has taken the directory over.
        """
        self._require_ours()
        self.finish_saving()
        copy: CheckpointContent = copied(content)

        def write() -> None:
            self.checkpoints.save(copy, step)
            with contextlib.suppress(OSError):  # the checkpoint is written, and training does not need this file
                (self.folder / SAVED).touch()

        self._writer.start(write)
        self._saved_at = time.monotonic()

    def finish_saving(self) -> None:
        """Returns when the last checkpoint is on the disk. Raises UserError if it could not be written."""
        try:
            self._writer.wait()
        except DiskError:
            self._require_ours()  # the folder may be gone, which says more
            raise

    def save_is_due(self, minutes: float) -> bool:
        """Whether this many minutes have passed since the last save or the start, or the last save has failed."""
        return self._writer.failed or time.monotonic() - self._saved_at > 60 * minutes

    def mark_best(self, step: int) -> None:
        """Keeps the checkpoint of `step` as the best one so far, or raises UserError as save does."""
        self._require_ours()
        self.finish_saving()
        self.checkpoints.mark_best(step)

    def _require_ours(self) -> None:
        """A node that its scheduler has lost may still be training while the job runs elsewhere."""
        lock = self.folder / ".lock"
        there = (self.folder / ".owner").exists() and lock.exists()
        if not there or (self._lock and not os.path.samestat(os.stat(lock), os.fstat(self._lock.fileno()))):
            raise gone(self.folder)
        if (owner := self._owner) != self._attempt:
            message = f"{self.folder} was taken over by attempt {owner.number} of job {owner.job}"
            raise UserError(f"{message}: nothing more is saved here")

    @property
    def _owner(self) -> "Attempt":
        try:
            return Attempt(**json.loads((self.folder / ".owner").read_text(encoding="utf-8")))
        except (OSError, *NOT_JSON, TypeError):
            return Attempt()

    @property
    def starts(self) -> list[dict[str, Any]]:
        """The environment of each start of the run."""
        path = self.folder / "starts.json"
        try:
            starts = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
            if not isinstance(starts, list) or not all(isinstance(start, dict) for start in starts):
                raise ValueError("no list of starts")
        except NOT_JSON as error:
            raise UserError(f"{path} is damaged ({error}): delete it, training does not need it") from error
        return starts

    def add_start(self, step: int, environment: dict[str, Any]) -> None:
        replace_text(self.folder / "starts.json", json.dumps([*self.starts, {"step": step, **environment}], indent=2))

    def write_result(self, result: dict[str, Any]) -> None:
        """Writes result.json, or raises UserError as save does."""
        self._require_ours()
        replace_text(self.folder / "result.json", json.dumps({**result, "starts": self.starts}, indent=2))
