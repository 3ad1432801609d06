"""What each process of a job does: says by torchrun's variables who it is, trains, and notes how it ended."""

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from launch.attempt import note_rank
from launch.submission import Submission


@dataclass(frozen=True, kw_only=True)
class Rank:
    """One process of a Slurm job: what submitit calls on every one of them."""

    submission: Path
    index: int
    words: tuple[str, ...]
    """of python -m trainer"""
    preflight: bool

    def __call__(self) -> NoReturn:
        """Never returns: a result written by an earlier start would count as the end of a job that was queued again."""
        for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGCONT):
            signal.signal(number, signal.SIG_DFL)  # submitit's would not save, and USR2's would requeue from a handler
        variables, cpus = of_slurm(dict(os.environ))
        os.environ.update(variables)
        words = list(self.words)
        if "--workers" not in words:
            words += ["--workers", str(cpus)]
        run_rank(Submission(self.submission), self.index, words, self.preflight)


def of_slurm(environment: dict[str, str]) -> tuple[dict[str, str], int]:
    """torchrun's variables for the process that Slurm started with this environment, and the CPUs it has.

    MASTER_ADDR and MASTER_PORT are set by the job's script. The run id is the job's, the restart count its start's.
    """
    processes, nodes = int(environment["SLURM_NTASKS"]), int(environment["SLURM_JOB_NUM_NODES"])
    local = processes // nodes
    given = environment.get("SLURM_CPUS_PER_TASK")
    cpus = int(given) if given else max(1, int(environment.get("SLURM_CPUS_ON_NODE", 1)) // local)
    cpus = min(cpus, len(os.sched_getaffinity(0)))  # where Slurm binds a process to fewer
    variables = {
        "RANK": environment["SLURM_PROCID"],
        "WORLD_SIZE": str(processes),
        "LOCAL_RANK": environment["SLURM_LOCALID"],
        "LOCAL_WORLD_SIZE": str(local),
        "TORCHELASTIC_RUN_ID": environment["SLURM_JOB_ID"],
        "TORCHELASTIC_RESTART_COUNT": environment.get("SLURM_RESTART_COUNT", "0"),
        "OMP_NUM_THREADS": environment.get("OMP_NUM_THREADS", str(cpus)),
    }
    return variables, cpus


def run_rank(submission: Submission, index: int, words: list[str], preflight: bool = False) -> NoReturn:
    """Runs python -m trainer WORDS in this process, notes its exit code and exits.

    With 0 after a signal, when everything is saved: another code would have the peers killed while they end.
    """
    rank, number = int(os.environ["RANK"]), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    code = 1
    try:
        from trainer.__main__ import main

        if preflight:
            from launch.preflight import quick

            code = quick(words)
        if not preflight or code == 0:
            code = main(words)
    finally:
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # one that comes late must not look like a crash
        note_rank(submission, index, number, rank, code)
    sys.exit(0 if code > 128 else code)


if __name__ == "__main__":  # under torchrun, which counts only the restarts that it makes itself
    os.environ["TORCHELASTIC_RESTART_COUNT"] = sys.argv[3]
    run_rank(Submission(Path(sys.argv[1])), int(sys.argv[2]), sys.argv[4:])
