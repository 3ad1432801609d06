"""Hands jobs to submitit: to Slurm, or to its executor for this machine. The only file that imports it."""

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from launch.layout import Layout, minutes_of
from launch.rank import Rank
from launch.settings import SlurmSettings
from launch.submission import Submission
from trainer.distributed.parent import EXIT_RETRY
from trainer.errors import UserError, first_line

_INSTALL = "pip install 'submitit>=1.5,<2'"


def script(options: SlurmSettings, layout: Layout, submission: Submission, name: str, count: int) -> str:
    """The sbatch script of `count` runs, as submitit writes it."""
    executor = _slurm_executor(options, layout, submission, name)
    if count > 1:
        executor.parameters["map_count"] = count  # as submitit does for an array
    return str(executor._make_submission_file_text(executor._submitit_command_str, ""))


def submit(options: SlurmSettings, layout: Layout, submission: Submission, name: str, ranks: list[Rank]) -> str:
    """Submits a job, or an array of as many as there are `ranks`, and returns its id. Raises UserError if refused."""
    executor = _slurm_executor(options, layout, submission, name)
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    said = io.StringIO()  # submitit repeats it besides raising an error that holds it
    try:
        with _clean_environment(), contextlib.redirect_stderr(said):
            jobs = executor.map_array(Rank.__call__, ranks)
    except (FailedJobError, FailedSubmissionError) as error:
        reasons = re.findall(r"error: (.*)", said.getvalue()) or [first_line(error)]
        raise UserError(f"Slurm refused the job: {'; '.join(reasons)}") from error
    return str(jobs[0].job_id).partition("_")[0]


def refusal(options: SlurmSettings, layout: Layout, submission: Submission, name: str, count: int) -> str:
    """What `sbatch --test-only` says of the script: when it would start, or why it could not."""
    text = script(options, layout, submission, name, count)
    with _clean_environment():
        said = subprocess.run(["sbatch", "--test-only"], input=text, capture_output=True, text=True)
    return (said.stderr or said.stdout).strip()


def submit_here(function: Callable[[], Any], submission: Submission) -> None:
    """Calls `function` in a process of its own, which goes on when this one and its terminal have ended."""
    submitit = _submitit()
    executor = submitit.LocalExecutor(submission.logs)
    a_year = 60 * 24 * 365  # minutes; its default, 2, would end the job
    executor.update_parameters(timeout_min=a_year, stderr_to_stdout=True)
    if (child := os.fork()) == 0:
        _leave_the_terminal()
        executor.submit(function)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if status:
        raise UserError(f"the run could not be started in the background: see {submission.logs}")


def _leave_the_terminal() -> None:
    """Into a session of its own; no pipe stays open that somebody reads to its end."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nothing, stream)


def _slurm_executor(options: SlurmSettings, layout: Layout, submission: Submission, name: str) -> Any:
    submitit = _submitit()

    class Executor(submitit.SlurmExecutor):  # type: ignore[misc,name-defined]
        """Also where Slurm is not installed: for --plan."""

        @classmethod
        def affinity(cls) -> int:
            return 1

    python = " ".join(filter(None, [options.container, shlex.quote(options.python or sys.executable)]))
    executor = Executor(submission.logs, python=python)
    more = {"requeue": True, "reservation": options.reservation}
    parameters = {
        "job_name": options.name or name,
        "partition": options.partition,
        "time": minutes_of(options.time),
        "nodes": layout.nodes,
        "ntasks_per_node": layout.processes_per_node,
        "gpus_per_node": layout.gpus_per_node or None,
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
        "setup": [*options.setup, *_before(submission.folder, python)],
        "teardown": _after(submission.folder, python),
        "srun_args": ["--kill-on-bad-exit=1", *options.srun],
    }
    given = {key: value for key, value in parameters.items() if value is not None}
    executor.update_parameters(**given, wckey=None)
    return executor


def _before(folder: Path, python: str) -> list[str]:
    """The copy of the code, the CPUs of a process, and where the processes meet: fresh at every start."""
    return [
        f"export PYTHONPATH={shlex.quote(str(folder / 'code'))}${{PYTHONPATH:+:$PYTHONPATH}} PYTHONSAFEPATH=1",
        'if [ -n "$SLURM_CPUS_PER_TASK" ]; then export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK; fi',
        "node=$(scontrol show node \"$SLURMD_NODENAME\" | sed -n 's/.*NodeAddr=\\([^ ]*\\).*/\\1/p')",
        f'meet=$({python} -m launch.attempt begin {shlex.quote(str(folder))} "$node") || exit',
        "export MASTER_ADDR=${meet%:*} MASTER_PORT=${meet##*:}",
    ]


def _after(folder: Path, python: str) -> list[str]:
    """Whether the job is queued again. A signal from Slurm ends this script before: then that is Slurm's to decide."""
    return [
        "code=$?",
        'job="${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_}${SLURM_ARRAY_TASK_ID:-$SLURM_JOB_ID}"',
        # within a partition's GraceTime only the processes are signalled, and this script goes on
        "preempted=$(scontrol show job -o \"$job\" | grep -o 'JobState=RUNNING .*PreemptTime=[0-9]')",
        f'{python} -m launch.attempt end {shlex.quote(str(folder))} $code "$preempted"',
        "verdict=$?",
        f"if [ $verdict -ne {EXIT_RETRY} ]; then exit $verdict; fi",
        'scontrol requeue "$job"',
    ]


def _submitit() -> Any:
    try:
        import submitit
    except ImportError as error:
        raise UserError(f"submitit is needed to submit jobs and is not installed: {_INSTALL}") from error
    return submitit


@contextlib.contextmanager
def _clean_environment() -> Iterator[None]:
    """Without what another job or launcher has set here: a job inherits the environment it is submitted from."""
    foreign = ("SLURM_", "SBATCH_", "SRUN_", "MASTER_", "TORCHELASTIC_", "SUBMITIT_")
    own = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    saved = dict(os.environ)
    for name in saved:
        if name != "SLURM_CONF" and (name.startswith(foreign) or name in own):
            del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(saved)


def has_slurm() -> bool:
    """Whether a Slurm answers here."""
    if not shutil.which("sinfo") or not shutil.which("sbatch"):
        return False
    try:
        return subprocess.run(["sinfo", "-h", "-o", "%P"], capture_output=True, timeout=60).returncode == 0
    except subprocess.TimeoutExpired:
        return False
