"""The launcher for this machine: torchrun over its GPUs, or several processes on its CPUs."""

import contextlib
import ctypes
import os
import shlex
import signal
import socket
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from launch.attempt import attempts
from launch.layout import layout_of
from launch.local.alive import is_being_started, runner, runs_here, starts_here
from launch.local.background import run_in_background
from launch.local.runs import LocalRuns, own_log
from launch.local.settings import LocalSettings
from launch.local.torchrun import torchrun
from launch.settings import ProcessSettings
from launch.state import State
from launch.submission import Job, Run, Submission, new_submission, require_plain_folder
from trainer.errors import UserError, counted


class Local:
    """See launch.cluster.Cluster."""

    settings = LocalSettings

    def resolved(self, options: ProcessSettings) -> ProcessSettings:
        if (options.gpus_per_node, options.processes_per_node) != (None, None):
            return options
        return replace(options, gpus_per_node=_gpus())

    def processes(self, options: LocalSettings) -> int:
        return options.processes or _gpus() or 1

    def train_options(self, options: LocalSettings) -> dict[str, str]:
        return {"--device": "cuda"} if _gpus() else {}  # a later start whose GPU is gone must not train on CPUs

    def describe(self, options: LocalSettings, submission: Submission, runs: list[Run]) -> str:
        return f"# torchrun --nproc-per-node {self.processes(options)} on this machine, one run after another"

    def submit(self, options: LocalSettings, runs: list[Run]) -> Callable[[], int]:
        """Prepares the runs, which follow each other, or starts them in the background. Exit code: LocalRuns.run()."""
        if options.background:
            require_plain_folder(runs)
        processes = self.processes(options)
        submission = new_submission(runs)
        job = Job(
            cluster="local",
            id=socket.gethostname(),
            processes=processes,
            max_restarts_without_checkpoint=options.max_restarts_without_checkpoint,
            runs=[str(run.run_dir) for run in runs],
            background=options.background,
        )
        local_runs = LocalRuns(
            submission=submission.folder,
            processes=processes,
            argv=tuple(tuple(run.argv(submission.recipe_file(run))) for run in runs),
            gpus=os.environ.get("CUDA_VISIBLE_DEVICES"),
            background=options.background,
        )
        with starts_here(submission):
            submission.write_job(job)
            submission.point(runs)
            if not options.background:
                return _held(local_runs, submission)
            run_in_background(local_runs, submission)
        folders = shlex.join(str(run.run_dir) for run in runs)
        print(f"{len(runs)} run{'s' * (len(runs) > 1)} in the background: python -m launch status {folders}")
        return lambda: 0

    def state(self, submission: Submission, index: int) -> State:
        """From the records of its starts, and the lock of the process that runs it.

        A container that continues a run has another name than the one before it: the name alone decides nothing.
        """
        host, starts = submission.job.id, attempts(submission, index)
        if starts and starts[-1].get("again") is False:
            return State(name=starts[-1]["state"], job=host, reason=starts[-1]["reason"], nodes=host)
        try:
            found = runner(submission)
        except UserError as error:
            return State(name="UNKNOWN", job=host, reason=str(error), nodes=host)
        if found is None and is_being_started(submission):
            return State(name="PENDING", job=host, reason="being started", nodes=host)
        if found is None:
            return State(name="GONE", job=host, reason="its processes have ended", nodes=host)
        if starts:
            return State(name="RUNNING", job=host, nodes=host)
        return State(name="PENDING", job=host, reason="the runs before it", nodes=host)

    def cancel(self, submission: Submission, index: int) -> str:
        """Sends SIGTERM to the process that runs the submission."""
        job, found = submission.job, runner(submission)
        run_dir = job.runs[index]
        if job.id != socket.gethostname():
            raise UserError(f"{run_dir} runs on {job.id}: cancel it there")
        if found is None:
            raise UserError(f"{run_dir} is being started, or has just ended: look again")
        if not found.is_here:
            raise UserError(f"{run_dir} runs in a container or on another machine: cancel it there")
        submission.mark_cancelled(index)
        try:
            os.kill(found.pid, signal.SIGTERM)
        except OSError as error:  # it has just ended, or is another user's
            raise UserError(f"{run_dir}: process {found.pid}, which runs it: {error.strerror}") from error
        others = f", and with it {counted(len(job.runs) - 1, 'other run')} of its launch" if len(job.runs) > 1 else ""
        return f"{run_dir} is asked to save and stop{others}"

    def log_file(self, submission: Submission, index: int, rank: int) -> Path:
        job = submission.job
        if not job.background:
            return Path(job.runs[index]) / "log.txt"  # the rest went to the terminal
        if index:
            return own_log(submission, index)
        found = sorted(submission.logs.glob("*_0_log.out"))  # one for all ranks
        return found[0] if found else submission.logs / "log.out"

    def environment(self, variables: Mapping[str, str]) -> dict[str, str]:
        return {}  # torchrun has set them

    def answers(self) -> bool:
        return True

    def run(self, options: ProcessSettings, module: str, argv: list[str]) -> int:
        layout = layout_of(self.resolved(options))
        if layout.nodes > 1:
            raise UserError(f"--nodes {layout.nodes}, but this is one machine and no Slurm answers here (sinfo)")
        return torchrun(layout.processes, ["-m", module, *argv], run_id=module).code


def _held(runs: LocalRuns, submission: Submission) -> Callable[[], int]:
    """Takes the lock of the runs, and returns what runs them and then gives it back."""
    lock = contextlib.ExitStack()
    lock.enter_context(runs_here(submission))

    def run() -> int:
        with lock:
            return runs.run_held()

    return run


def _gpus() -> int:
    """The GPUs that torch may use. Its import takes seconds, and is left out where there is no driver."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        if not Path("/dev/kfd").exists():  # AMD's
            return 0
    import torch

    return torch.cuda.device_count()
