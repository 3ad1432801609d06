"""On this machine: torchrun over its GPUs, or several processes on its CPUs, started again as long as that helps."""

import itertools
import os
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from launch import attempt
from launch.command_line import runs_of
from launch.jobs import refuse_running
from launch.settings import LocalSettings
from launch.submission import Job, Submission, new_submission
from launch.torchrun import torchrun


def launch_local(options: LocalSettings, recipes: list[str], words: list[str]) -> int:
    """Runs one after another, or starts them in the background, and returns the exit code: see Here.run()."""
    processes = options.processes or _gpus() or 1
    runs = runs_of(options, recipes, words, processes)
    refuse_running(runs)
    submission = new_submission(runs)
    job = Job(
        cluster="local",
        id=socket.gethostname(),
        processes=processes,
        max_restarts_without_checkpoint=options.max_restarts_without_checkpoint,
        runs=[str(run.run_dir) for run in runs],
        background=options.background,
    )
    submission.write_job(job)
    submission.point(runs)
    here = Here(
        submission=submission.folder,
        processes=processes,
        words=tuple(tuple(run.words(submission.recipe_file(run))) for run in runs),
        gpus=os.environ.get("CUDA_VISIBLE_DEVICES"),
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
    gpus: str | None
    """CUDA_VISIBLE_DEVICES as it was; None: it was not set"""

    def __call__(self) -> NoReturn:
        """What submitit calls in the background. It never returns: the exit code is the result."""
        for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGCONT):
            signal.signal(number, signal.SIG_DFL)  # submitit's would swallow them
        _restore_gpus(self.gpus)
        raise SystemExit(self.run())

    def run(self) -> int:
        """Returns 0, or the exit code of the first run that did not finish; a signal ends those after it, too."""
        submission = Submission(self.submission)
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(submission.code), os.environ.get("PYTHONPATH")]))
        os.environ["PYTHONSAFEPATH"] = "1"  # the copy of the code, not that of the folder this was started in
        with submission.runs_here():
            first_code = 0
            for index, words in enumerate(self.words):
                code = self._run(submission, index, words)
                first_code = first_code or code
                if code > 128:
                    break
        return first_code

    def _run(self, submission: Submission, index: int, words: tuple[str, ...]) -> int:
        for number in itertools.count():
            attempt.begin(submission, index, number, socket.gethostname())
            entry = ["-u", "-m", "launch.rank", str(submission.folder), str(index), str(number), *words]
            ended = torchrun(self.processes, entry, run_id=submission.folder.name)
            verdict = attempt.end(submission, index, number, ended.words, ended.signal)
            if not verdict.again:
                if verdict.code:
                    print(f"launch: {verdict.reason}", file=sys.stderr, flush=True)
                return verdict.code
            print(f"launch: {verdict.reason}: starting again", file=sys.stderr, flush=True)
        raise AssertionError("unreachable")


def _restore_gpus(gpus: str | None) -> None:
    """Sets CUDA_VISIBLE_DEVICES as it was where the run was launched; submitit sets it to the first ones."""
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    if gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()
