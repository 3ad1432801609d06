"""On this machine: torchrun over its GPUs, or several processes on its CPUs, started again as long as that helps."""

import logging
import os
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from launch import attempt
from launch.command_line import runs_of
from launch.jobs import refuse_running
from launch.settings import LocalSettings
from launch.submission import Job, Submission, new_submission

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR2)
_PATIENCE = "600"  # s that torchrun waits, after a signal, for its processes to save


def launch_local(options: LocalSettings, recipes: list[str], words: list[str]) -> int:
    """Runs one after another, and returns the exit code: that of the last one, or of the first that did not finish."""
    processes = options.processes or _gpus() or 1
    runs = runs_of(options, recipes, words, processes)
    refuse_running(runs)
    submission = new_submission(runs)
    submission.write_job(
        Job(
            cluster="local",
            id=socket.gethostname(),
            processes=processes,
            tries=options.tries,
            runs=[str(run.run_dir) for run in runs],
            background=options.background,
        )
    )
    here = Here(
        submission=submission.folder,
        processes=processes,
        words=tuple(tuple(run.words(submission.recipe_file(run))) for run in runs),
    )
    if not options.background:
        return here.run()
    from launch.submit import submit_here

    submit_here(here, submission)
    folders = " ".join(str(run.run_dir) for run in runs)
    print(f"{len(runs)} run{'s' * (len(runs) > 1)} in the background: python -m launch status {folders}")
    return 0


@dataclass(frozen=True, kw_only=True)
class Here:
    """The runs of a submission, one after another on this machine."""

    submission: Path
    processes: int
    words: tuple[tuple[str, ...], ...]

    def __call__(self) -> int:
        """What submitit calls in the background."""
        return self.run()

    def run(self) -> int:
        submission = Submission(self.submission)
        with submission.runs_here():
            for index, words in enumerate(self.words):
                if code := self._run(submission, index, words):
                    return code
        return 0

    def _run(self, submission: Submission, index: int, words: tuple[str, ...]) -> int:
        for number in range(1_000_000):
            attempt.begin(submission, index, number, socket.gethostname())
            ended = _torchrun(submission, index, number, words, self.processes)
            verdict = attempt.end(submission, index, number, ended)
            if not verdict.again:
                if verdict.code:
                    print(f"launch: {verdict.reason}", file=sys.stderr, flush=True)
                return verdict.code
            print(f"launch: {verdict.reason}: starting again", file=sys.stderr, flush=True)
        return 1


def _torchrun(submission: Submission, index: int, number: int, words: tuple[str, ...], processes: int) -> str:
    """Starts the processes and waits for them; returns how they ended, in words. A signal is passed on to them."""
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(submission.code), os.environ.get("PYTHONPATH")]))
    os.environ["PYTHONSAFEPATH"] = "1"  # the copy of the code, not that of the folder this was started in
    os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = _PATIENCE
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // processes)))
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.disable(logging.CRITICAL)  # torchrun's own account of what the processes say themselves
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=f"{socket.gethostname()}-{submission.folder.name}",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        signals_to_handle=",".join(number.name for number in _SIGNALS),
    )
    entry = ["-u", "-m", "launch.rank", str(submission.folder), str(index), str(number), *words]
    try:
        elastic_launch(config, sys.executable)(*entry)
    except SignalException as error:
        return f"stopped by {error.sigval.name}"
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        code = failure.exitcode
        return (
            f"rank {rank} was ended by {signal.Signals(-code).name}" if code < 0 else f"rank {rank} ended with {code}"
        )
    return "ended"


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()
