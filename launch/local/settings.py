"""The options of `python -m launch local`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from launch.settings import LaunchSettings
from trainer.settings import check_positive


@dataclass(frozen=True, kw_only=True)
class LocalSettings(LaunchSettings):
    """Train on this machine: torchrun over its GPUs, restarted after a crash."""

    processes: int | None = None
    """number of processes; None: one for each GPU, or 1 where there is none"""
    background: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """return at once; use python -m launch status, logs and cancel afterwards"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "processes")
