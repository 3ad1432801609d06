"""One process of a Slurm job: what submitit calls on every one of them."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from launch.rank import run_rank
from launch.slurm.environment import of_slurm
from launch.submission import Submission, start_line
from trainer.distributed.cpus import default_workers


@dataclass(frozen=True, kw_only=True)
class SlurmProcess:
    """Sets torchrun's variables, trains, and records its exit code."""

    submission: Path
    index: int
    argv: tuple[str, ...]
    """of python -m trainer"""
    preflight: bool

    def __call__(self) -> NoReturn:
        """Never returns: a result written by an earlier start would count as the end of a job that was queued again."""
        for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGCONT):
            # submitit's handlers would not save, and USR2's would requeue from within a handler
            signal.signal(number, signal.SIG_DFL)
        variables, cpus = of_slurm(os.environ)
        os.environ.update(variables)
        print(start_line(int(variables["TORCHELASTIC_RESTART_COUNT"])), flush=True)
        argv = list(self.argv)
        if "--workers" not in argv and _may_use_more(cpus, int(variables["LOCAL_WORLD_SIZE"])):
            argv += ["--workers", str(default_workers(cpus))]
        run_rank(Submission(self.submission), self.index, argv, self.preflight)


def _may_use_more(cpus: int, processes: int) -> bool:
    """Whether these processes of a node may use CPUs that Slurm has given to others. Else each one finds out its own.

    A cluster may confine no process (TaskPlugin=none).
    """
    return len(os.sched_getaffinity(0)) > cpus * processes
