"""Checkpoints by the names of their files. Standard library only: a Slurm job's script runs without packages."""

import re
from pathlib import Path

_NAME = re.compile(r"step_(\d+)\.pt")


def newest_step(run_dir: Path) -> int:
    """The step of the newest checkpoint; 0: there is none."""
    names = (_NAME.fullmatch(path.name) for path in (run_dir / "checkpoints").glob("step_*.pt"))
    return max((int(match[1]) for match in names if match), default=0)


def has_checkpoints(run_dir: Path) -> bool:
    """Whether there is a checkpoint, whole or not."""
    return any((run_dir / "checkpoints").glob("step_*.pt"))
