"""The whole state of a run on disk: written beside and renamed, verified by checksum, found again by step.

A checkpoint is step_00001234.pt, where 1234 optimizer steps are complete, and its SHA-256 in step_00001234.pt.sha256 in
the format of `sha256sum --check`. The checksum is renamed into place first: where there is a .pt file, both are whole.
It holds tensors and plain values only, so it is read with weights_only=True and cannot run code.
"""

import contextlib
import hashlib
import os
import shutil
import time
from pathlib import Path
from typing import Any

import torch

from trainer.atomic import MAKE_ROOM
from trainer.errors import UserError, first_line

State = dict[str, Any]


class Checkpoints:
    """The checkpoints of one run: the last `keep`, and the best."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self._keep = keep
        self._saved_step = -1
        self._saved_at = time.monotonic()
        self.damaged: list[str] = []  # found by newest(), each with its reason

    @property
    def exist(self) -> bool:
        return bool(self._newest_first())

    @property
    def best(self) -> Path:
        return self.folder / "best.pt"

    @property
    def minutes_since_save(self) -> float:
        """Minutes since this process saved, or since it began."""
        return (time.monotonic() - self._saved_at) / 60

    def save(self, state: State, step: int) -> Path:
        """Writes the state after `step` steps, removes all but the last `keep`. Raises UserError on a full disk."""
        path = self._path(step)
        if step == self._saved_step:
            return path
        for left in self.folder.glob(".*.partial*"):  # by a process that was killed
            left.unlink(missing_ok=True)
        write(path, state)
        self._saved_step, self._saved_at = step, time.monotonic()
        # those of later steps are damaged, or the run would have gone on from there: they must not crowd out whole ones
        for old in [other for other in self._newest_first() if other <= path][self._keep :]:
            for file in (old, _checksum_file(old)):
                file.unlink(missing_ok=True)
        return path

    def mark_best(self, step: int) -> None:
        """Keeps the checkpoint of `step` as the best one so far."""
        source, partial = self._path(step), self.best.with_name(f".{self.best.name}.partial")
        try:
            partial.unlink(missing_ok=True)
            try:
                partial.hardlink_to(source)
            except OSError:  # a file system without hard links
                shutil.copyfile(source, partial)
            _publish(partial, self.best)
        except OSError as error:
            raise UserError(f"{self.best}: cannot be written: {first_line(error)}: {MAKE_ROOM}") from error
        finally:
            partial.unlink(missing_ok=True)  # still there after renaming a link to itself

    def newest(self) -> tuple[Path, State] | None:
        """The newest checkpoint that is whole, or None. Those that are not are named in `damaged`."""
        for path in self._newest_first():
            try:
                return path, read(path)
            except UserError as error:
                self.damaged.append(str(error))
        return None

    def _path(self, step: int) -> Path:
        return self.folder / f"step_{step:08d}.pt"

    def _newest_first(self) -> list[Path]:
        return sorted(self.folder.glob("step_*.pt"), reverse=True)


def write(path: Path, state: State) -> None:
    """Writes `state` so that, whenever the process dies, `path` is either absent, the old one or the new one."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        _publish(partial, path)
    except (OSError, RuntimeError) as error:  # torch makes a RuntimeError of a full disk
        reason = first_line(error.__context__ if isinstance(error.__context__, OSError) else error)
        raise UserError(f"{path}: the checkpoint cannot be written: {reason}: {MAKE_ROOM}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
            _checksum_file(partial).unlink(missing_ok=True)


def _publish(partial: Path, path: Path) -> None:
    """Renames a whole file to `path`. The checksum file is true of the old and of the new one until it is there."""
    line, partial_checksum = f"{_sha256(partial)}  {path.name}\n", _checksum_file(partial)
    old = _checksum_file(path).read_text() if path.exists() and _checksum_file(path).exists() else ""
    _write_synced(partial_checksum, line + old)
    partial_checksum.replace(_checksum_file(path))
    partial.replace(path)
    _sync_folder(path.parent)
    if old:
        _write_synced(partial_checksum, line)
        partial_checksum.replace(_checksum_file(path))


def read(path: Path) -> State:
    """The state written to `path`, on the CPU. Raises UserError where it is absent, incomplete or damaged."""
    try:
        expected = _checksum_file(path).read_text().split()[::2]
        if _sha256(path) not in expected:
            raise UserError(f"{path}: damaged: its SHA-256 is not the one in {_checksum_file(path).name}")
        state: State = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # torch.load raises whatever the damage leads to
        raise UserError(f"{path}: not a checkpoint that can be read: {first_line(error)}") from error
    return state


def _write_synced(path: Path, text: str) -> None:
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Renames survive a power failure from here on."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _checksum_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
