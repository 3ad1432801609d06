"""The options of `python -m launch slurm`."""

from __future__ import annotations

from dataclasses import dataclass

from launch.settings import LaunchSettings, ProcessSettings, Repeated
from launch.slurm.partition import gpus_of
from launch.slurm.time import minutes_of
from trainer.settings import check_positive


@dataclass(frozen=True, kw_only=True)
class SlurmSettings(ProcessSettings, LaunchSettings):
    """Submit training to a Slurm cluster, requeued until it has finished."""

    time: str = "24:00:00"
    """time limit of one start: minutes, HH:MM:SS or DAYS-HH:MM:SS; the run continues in the next start"""
    gres: str | None = None
    """GPUs of each node by their kind, e.g. gpu:a100:8, instead of --gpus-per-node"""
    mail_type: str | None = None
    """when Slurm writes a mail, e.g. END,FAIL"""
    mail_user: str | None = None
    """address of the mail; None: the user's"""
    dependency: str | None = None
    """jobs to wait for, e.g. afterok:1234"""
    sbatch: Repeated = ()
    """extra #SBATCH line of the job, e.g. --sbatch licenses=disk:1"""
    at_once: int | None = None
    """array elements that run at the same time; None: up to 1,000"""
    name: str | None = None
    """name of the job; None: the recipe's"""
    signal_seconds: int = 120
    """seconds before the time limit at which the processes save and the job is requeued"""
    timeout_minutes: float = 10.0
    """minutes that a process waits for the others before a restart; the same option after RECIPE takes precedence"""
    preflight: bool = True
    """check nodes, data and network for some seconds at each start on several nodes"""

    def __post_init__(self) -> None:
        ProcessSettings.__post_init__(self)
        LaunchSettings.__post_init__(self)
        check_positive(self, "at_once", "signal_seconds", "timeout_minutes")
        if self.gres is not None and self.gpus_per_node not in (None, gpus_of(self.gres)):
            raise ValueError(f"gres={self.gres} and gpus_per_node={self.gpus_per_node} differ: use only one of them")
        limit = 60 * minutes_of(self.time)
        # Slurm signals up to a minute early; torch and the data take a minute to open
        needed = self.signal_seconds + 60 + 60
        if limit < needed:
            raise ValueError(
                f"time={self.time} is {limit} s: less than --signal-seconds {self.signal_seconds}, the minute by which "
                f"Slurm may be early and one to start, together {needed} s. Ask for more time"
            )
