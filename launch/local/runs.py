"""The runs of a local submission, one after another, each restarted as long as that helps."""

import itertools
import os
import signal
import socket
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

from launch import attempt
from launch.disk import patiently
from launch.local.alive import runs_here
from launch.local.torchrun import Ended, torchrun
from launch.submission import Submission, start_line
from trainer.errors import counted


@dataclass(frozen=True, kw_only=True)
class LocalRuns:
    """The runs of a submission on this machine."""

    submission: Path
    processes: int
    argv: tuple[tuple[str, ...], ...]
    gpus: str | None
    """CUDA_VISIBLE_DEVICES at submission; None: it was not set"""
    background: bool = False
    """whether a log is written, which begins each start with a line"""

    def __call__(self) -> NoReturn:
        """What submitit calls in the background. It never returns: the exit code is the result."""
        for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGCONT):
            signal.signal(number, signal.SIG_DFL)  # submitit's would swallow them
        _restore_gpus(self.gpus)
        raise SystemExit(self.run())

    def run(self) -> int:
        """Runs them as the process that holds their lock. Returns what run_held() does."""
        with runs_here(Submission(self.submission)):
            return self.run_held()

    def run_held(self) -> int:
        """Returns 0, or the exit code of the first run that did not finish; a signal ends those after it, too."""
        submission = Submission(self.submission)
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(submission.code), os.environ.get("PYTHONPATH")]))
        os.environ["PYTHONSAFEPATH"] = "1"  # the copy of the code, not that of the folder this was started in
        first_code = 0
        for index, argv in enumerate(self.argv):
            if self.background and index:
                patiently(partial(_write_to, own_log(submission, index)))
            code = self._run(submission, index, argv)
            first_code = first_code or code
            if code > 128:
                break
        return first_code

    def _end(self, submission: Submission, index: int, number: int, ended: Ended) -> attempt.RestartDecision:
        """A signal to this process is the user's; one to its ranks alone is not."""
        ending = attempt.Ending(summary=ended.summary, failed=ended.code != 0)
        if submission.is_cancelled(index):
            ending = attempt.Ending(summary=ended.summary, by_user=attempt.CANCELLED)
        elif ended.signal is not None and ended.signal != signal.SIGUSR2:
            ending = attempt.Ending(summary=ended.summary, by_user=ended.summary, sent=ended.signal)
        return attempt.end(submission, index, number, ending)

    def _run(self, submission: Submission, index: int, argv: tuple[str, ...]) -> int:
        for number in itertools.count():
            patiently(partial(attempt.begin, submission, index, number, socket.gethostname()))
            entry = ["-u", "-m", "launch.rank", str(submission.folder), str(index), str(number), *argv]
            if self.background:
                print(start_line(number), flush=True)
            elif sys.stderr.isatty():  # the processes are silent while they import torch
                run = Path(submission.job.runs[index]).name
                print(f"launch: {run}: {counted(self.processes, 'process')} to start", file=sys.stderr, flush=True)
            ended = torchrun(self.processes, entry, run_id=submission.folder.name)
            decision = patiently(partial(self._end, submission, index, number, ended))
            if not decision.restart:
                if decision.code:
                    print(f"launch: {decision.reason}", file=sys.stderr, flush=True)
                return decision.code
            print(f"launch: {decision.reason}: starting again", file=sys.stderr, flush=True)
        raise AssertionError("unreachable")


def own_log(submission: Submission, index: int) -> Path:
    """The log of a run in the background after the first one, whose log is submitit's."""
    return submission.logs / f"run{index}.out"


def _write_to(log: Path) -> None:
    """From now on this process and those that it starts write there."""
    with log.open("ab") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for number in (1, 2):
            os.dup2(file.fileno(), number)


def _restore_gpus(gpus: str | None) -> None:
    """Sets CUDA_VISIBLE_DEVICES as it was at submission; submitit sets it to the first ones."""
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    if gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus
