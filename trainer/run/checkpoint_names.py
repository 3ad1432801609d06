"""Checkpoints by the names of their files. Standard library only: a Slurm job's script runs without packages."""

import errno
import os
import re
from pathlib import Path

_NAME = re.compile(r"step_(\d+)\.pt")


def checkpoint_files(folder: Path) -> dict[int, Path]:
    """Lists the checkpoints in a folder by their steps, in order, whole or not; none if there is no folder.

    Raises OSError if it cannot be read: Path.glob would find none, and the run would start over.
    """
    try:
        names = map(_NAME.fullmatch, os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        if folder.exists():
            raise
        if folder.is_symlink():
            gone = f"a link to {os.readlink(folder)}, which is not there"
            raise FileNotFoundError(errno.ENOENT, gone, str(folder)) from None
        return {}
    return {step: folder / name for step, name in sorted((int(match[1]), match[0]) for match in names if match)}


def newest_step(run_dir: Path) -> int:
    """Returns the step of the newest checkpoint; 0: there is none. Raises OSError: see checkpoint_files."""
    return max(checkpoint_files(run_dir / "checkpoints"), default=0)


def has_checkpoints(run_dir: Path) -> bool:
    """Whether there is a checkpoint, whole or not. Raises OSError: see checkpoint_files."""
    return bool(checkpoint_files(run_dir / "checkpoints"))
