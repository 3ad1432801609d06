"""The options of `python -m launch slurm`."""

from __future__ import annotations

from dataclasses import dataclass

from launch.settings import LaunchSettings, ProcessSettings, check_positive
from launch.slurm.time import minutes_of


@dataclass(frozen=True, kw_only=True)
class SlurmSettings(ProcessSettings, LaunchSettings):
    """submit training to a Slurm cluster, requeued until it has finished"""

    time: str = "24:00:00"
    """time limit of one start: minutes, HH:MM:SS or DAYS-HH:MM:SS; the run continues in the next start"""
    at_once: int | None = None
    """elements of an array that run at the same time; None: all"""
    name: str | None = None
    """name of the job; None: the recipe's"""
    signal_seconds: int = 120
    """how long before the time limit the processes save and the job is queued again"""
    timeout_minutes: float = 10.0
    """how long a process waits for the others before the job is restarted, unless given after RECIPE"""
    preflight: bool = True
    """check nodes, data and network for some seconds at each start on several nodes"""

    def __post_init__(self) -> None:
        ProcessSettings.__post_init__(self)
        LaunchSettings.__post_init__(self)
        check_positive(self, "at_once", "signal_seconds", "timeout_minutes")
        limit = 60 * minutes_of(self.time)
        # Slurm signals up to a minute early; torch and the data take a minute to open
        needed = self.signal_seconds + 60 + 60
        if limit < needed:
            raise ValueError(
                f"time={self.time} is {limit} s: less than --signal-seconds {self.signal_seconds}, the minute by which "
                f"Slurm may be early and one to start, together {needed} s. Ask for more time"
            )
