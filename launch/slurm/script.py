"""The sbatch script, and its submission through submitit."""

import contextlib
import io
import re
import shlex
import subprocess
import sys
from typing import Any

from launch.layout import Layout
from launch.slurm import shell
from launch.slurm.environment import clean_environment
from launch.slurm.process import SlurmProcess
from launch.slurm.settings import SlurmSettings
from launch.slurm.time import as_text, minutes_of
from launch.submission import Submission
from trainer.errors import UserError, first_line

_INSTALL = "pip install 'submitit>=1.5,<2'"


def script(options: SlurmSettings, layout: Layout, submission: Submission, name: str, count: int) -> str:
    """The sbatch script of `count` runs, as submitit writes it."""
    executor = _slurm_executor(options, layout, submission, name)
    if count > 1:
        executor.parameters["map_count"] = count  # as submitit does for an array
    return str(executor._make_submission_file_text(executor._submitit_command_str, ""))


def submit(
    options: SlurmSettings, layout: Layout, submission: Submission, name: str, processes: list[SlurmProcess]
) -> str:
    """Submits a job, or an array with one job for each of `processes`. Returns its id; raises UserError if refused."""
    executor = _slurm_executor(options, layout, submission, name)
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    said = io.StringIO()  # submitit repeats it besides raising an error that holds it
    try:
        with clean_environment(), contextlib.redirect_stderr(said):
            jobs = executor.map_array(SlurmProcess.__call__, processes)
    except (FailedJobError, FailedSubmissionError) as error:
        reasons = re.findall(r"error: (.*)", said.getvalue()) or [first_line(error)]
        raise UserError(f"Slurm refused the job: {'; '.join(reasons)}") from error
    return str(jobs[0].job_id).partition("_")[0]


def dry_run(options: SlurmSettings, layout: Layout, submission: Submission, name: str, count: int) -> str:
    """What `sbatch --test-only` says of the script: when it would start, or why it could not."""
    text = script(options, layout, submission, name, count)
    with clean_environment():
        said = subprocess.run(["sbatch", "--test-only"], input=text, capture_output=True, text=True, errors="replace")
    return (said.stderr or said.stdout).strip()


def _slurm_executor(options: SlurmSettings, layout: Layout, submission: Submission, name: str) -> Any:
    submitit = _submitit()

    class Executor(submitit.SlurmExecutor):  # type: ignore[misc,name-defined]
        """Also where Slurm is not installed: for --plan."""

        @classmethod
        def affinity(cls) -> int:
            return 1

    python = " ".join(filter(None, [options.container, shlex.quote(options.python or sys.executable)]))
    executor = Executor(submission.logs, python=python)
    more = {
        "requeue": True,
        "time": as_text(minutes_of(options.time)),
        "reservation": options.reservation,
        "gres": options.gres,
        "mail-type": options.mail_type,
        "mail-user": options.mail_user,
        "dependency": options.dependency,
        **{line.partition("=")[0].lstrip("-"): line.partition("=")[2] or True for line in options.sbatch},
    }
    parameters = {
        "job_name": options.name or name,
        "partition": options.partition,
        "time": minutes_of(options.time),
        "nodes": layout.nodes,
        "ntasks_per_node": layout.processes_per_node,
        "gpus_per_node": None if options.gres else layout.gpus_per_node or None,
        "cpus_per_task": options.cpus_per_task,
        "mem": options.mem,
        "account": options.account,
        "qos": options.qos,
        "constraint": options.constraint,
        "exclude": options.exclude,
        "nodelist": options.nodelist,
        "signal_delay_s": options.signal_seconds,
        "array_parallelism": options.at_once or 1000,
        "stderr_to_stdout": True,
        "additional_parameters": {key: value for key, value in more.items() if value is not None},
        "setup": [*options.setup, *shell.before(submission.folder, python)],
        "teardown": shell.after(),
        "srun_args": ["--kill-on-bad-exit=1", *options.srun],
    }
    given = {key: value for key, value in parameters.items() if value is not None}
    executor.update_parameters(**given, wckey=None)
    return executor


def _submitit() -> Any:
    try:
        import submitit
    except ImportError as error:
        raise UserError(f"submitit is needed to submit jobs and is not installed: {_INSTALL}") from error
    return submitit
