"""What Slurm, or this machine, says of a submission's jobs. Works with and without Slurm's accounting."""

import os
import re
import signal
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.attempt import attempts, rank_codes
from launch.submission import Job, Run, Submission, submission_of
from trainer.errors import UserError

WAITING = {"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
ACTIVE = {"RUNNING", "CONFIGURING", "COMPLETING", "STAGE_OUT", "SIGNALING", "STOPPED", "SUSPENDED", "RESIZING"}


@dataclass(frozen=True, kw_only=True)
class State:
    """How one run's job is."""

    name: str
    """Slurm's word, or RUNNING, COMPLETED, FAILED, GONE on this machine; UNKNOWN where nobody tells"""
    reason: str = ""
    """why it waits, or how it ended"""
    nodes: str = ""

    @property
    def is_over(self) -> bool:
        """Not where nobody tells: better to ask again than to start a second job."""
        return self.name not in WAITING | ACTIVE | {"UNKNOWN"}


def state_of(submission: Submission, index: int) -> State:
    """Of the job of run number `index`. Raises UserError where the submission's record cannot be read."""
    job = submission.job
    return _on_slurm(submission, job, index) if job.cluster == "slurm" else _on_this_machine(submission, job, index)


def slurm_id(job: Job, index: int) -> str:
    """What Slurm calls this run's job."""
    return f"{job.id}_{index}" if len(job.runs) > 1 else job.id


def cancel(run_dir: Path) -> str:
    """Ends a run's job, which saves first, and says what was done. Raises UserError where there is nothing to end."""
    submission, index = submission_of(run_dir)
    job, state = submission.job, state_of(submission, index)
    if state.is_over:
        raise UserError(f"{run_dir} is not running: its job is {state.name}")
    if job.cluster == "slurm":
        ended = _slurm("scancel", slurm_id(job, index))
        if ended.returncode:
            said = ended.stderr.strip() or "is this a machine of the cluster?"
            raise UserError(f"scancel {slurm_id(job, index)} failed: {said}")
        return f"{run_dir}: job {slurm_id(job, index)} is cancelled"
    pid = submission.runner()
    if state.name == "UNKNOWN" or pid is None:
        raise UserError(f"{run_dir} runs on {job.id}: cancel it there")
    os.kill(pid, signal.SIGTERM)
    others = f", and with it the {len(job.runs) - 1} other runs of its launch" if len(job.runs) > 1 else ""
    return f"{run_dir} is asked to save and stop{others}"


def refuse_running(runs: list[Run]) -> None:
    """Raises UserError where a run's earlier job is not over."""
    for run in runs:
        folder = run.run_dir
        if not (folder / "launch.json").is_file():
            continue
        submission, index = submission_of(folder)
        if not (submission.folder / "job.json").is_file():  # never got that far
            continue
        if not (state := state_of(submission, index)).is_over:
            raise UserError(
                f"{folder} is {state.name} already: wait for it, or end it with python -m launch cancel {folder}"
            )


def _on_slurm(submission: Submission, job: Job, index: int) -> State:
    """From scontrol, or where it has forgotten the job from accounting, or else from our own records."""
    if not job.id:
        return State(name="PENDING", reason="being submitted, or its submission was interrupted")
    name = slurm_id(job, index)
    shown = _slurm("scontrol", "show", "job", "-o", name)
    if shown.returncode == 0:
        # a waiting array is one entry: its elements have none of their own yet
        lines = shown.stdout.splitlines()
        own = [line for line in lines if re.search(rf"\bArrayTaskId={index}\b", line)]
        values = dict(re.findall(r"(\w+)=(\S*)", own[0] if own else lines[0]))
        reason = values.get("Reason", "")
        nodes = values.get("NodeList", "").removeprefix("(null)")
        return State(name=values["JobState"], reason="" if reason == "None" else reason, nodes=nodes)
    if shown.stderr and "Invalid job id" not in shown.stderr:
        return State(name="UNKNOWN", reason=shown.stderr.strip().splitlines()[-1])
    accounts = _slurm("sacct", "-n", "-P", "-D", "-X", "-j", name, "-o", "State,NodeList")
    if told := [line.split("|") for line in accounts.stdout.splitlines() if line]:
        return State(name=told[-1][0].split()[0], nodes=told[-1][1])
    starts = attempts(submission, index)
    if starts and starts[-1].get("again") is False:
        return State(name=_word(starts[-1]), reason=starts[-1]["reason"])
    if starts and (codes := rank_codes(submission, index, starts[-1]["number"])) and codes.get(0, 0) > 128:
        return State(name="CANCELLED")
    return State(name="GONE", reason="Slurm knows it no more" if shown.stderr else "there is no Slurm here to ask")


def _on_this_machine(submission: Submission, job: Job, index: int) -> State:
    starts = attempts(submission, index)
    if job.id != socket.gethostname():
        return State(name="UNKNOWN", reason=f"it runs on {job.id}: ask there", nodes=job.id)
    if submission.runner() is not None:
        if starts and starts[-1].get("again", True):
            return State(name="RUNNING", nodes=job.id)
        if not starts:
            return State(name="PENDING", reason="the runs before it", nodes=job.id)
    if starts and starts[-1].get("again") is False:
        return State(name=_word(starts[-1]), reason=starts[-1]["reason"], nodes=job.id)
    return State(name="GONE", reason="its processes have ended", nodes=job.id)


def _word(last_start: dict[str, Any]) -> str:
    """Slurm's word for a run whose last start was not followed by another one."""
    if last_start["reason"] == "finished":
        return "COMPLETED"
    return "CANCELLED" if last_start["reason"].startswith("stopped by ") else "FAILED"


def _slurm(*command: str) -> subprocess.CompletedProcess[str]:
    """What a command of Slurm says; code 127 and no words where it is not there."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60)
    except OSError:
        return subprocess.CompletedProcess(command, 127, "", "")
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", f"{command[0]} did not answer within a minute")
