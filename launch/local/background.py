"""A process of this machine that outlives the terminal, through submitit's local executor."""

import os
import time
from collections.abc import Callable
from typing import Any

from launch.local.alive import has_begun
from launch.submission import Submission
from trainer.errors import UserError


def run_in_background(function: Callable[[], Any], submission: Submission) -> None:
    """Calls `function` in a process of its own, which continues after this one and its terminal have ended.

    Returns when that process holds the submission's lock, or has ended: from then on everybody can see that it runs.
    """
    try:
        import submitit
    except ImportError as error:
        raise UserError("--background needs submitit: pip install 'submitit>=1.5,<2'") from error
    executor = submitit.LocalExecutor(submission.logs)
    a_year = 60 * 24 * 365  # minutes; its default, 2, would end the job
    executor.update_parameters(timeout_min=a_year, stderr_to_stdout=True)
    if (child := os.fork()) == 0:
        _leave_the_terminal()
        os.environ.setdefault("SUBMITIT_LOG_LEVEL", "WARNING")  # else its lines surround ours in the log
        job = executor.submit(function)
        while not has_begun(submission) and not job.done():
            time.sleep(0.05)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if status:
        raise UserError(f"the run could not be started in the background: see {submission.logs}")


def _leave_the_terminal() -> None:
    """Starts a session; no pipe stays open that somebody reads to its end."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nothing, stream)
