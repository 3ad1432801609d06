"""What Slurm, or this machine, says of a submission's jobs. Works with and without Slurm's accounting."""

import os
import re
import shutil
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launch.attempt import attempts
from launch.submission import Job, Run, Submission, submission_of
from trainer.errors import UserError

WAITING = {"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
ACTIVE = {"RUNNING", "CONFIGURING", "COMPLETING", "STAGE_OUT", "SIGNALING", "STOPPED", "SUSPENDED", "RESIZING"}
_ENDED_BY_SLURM = {"PREEMPTED", "NODE_FAIL", "TIMEOUT", "OUT_OF_MEMORY", "REQUEUED", "BOOT_FAIL"}


@dataclass(frozen=True, kw_only=True)
class State:
    """How one run's job is."""

    name: str
    """Slurm's word, or RUNNING, COMPLETED, FAILED, GONE on this machine; UNKNOWN where nobody tells"""
    reason: str = ""
    """why it waits, or how it ended"""
    nodes: str = ""
    restarts: int = 0
    earlier: list[str] = field(default_factory=list)
    """how Slurm says that earlier starts ended, where it keeps accounts"""

    @property
    def is_over(self) -> bool:
        return self.name not in WAITING | ACTIVE


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
        if ended is None:
            raise UserError(f"scancel {slurm_id(job, index)} failed: is this a machine of the cluster?")
        return f"{run_dir}: job {slurm_id(job, index)} is cancelled"
    pid = submission.runner()
    if pid is None:
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
    """From squeue's memory, scontrol, or where it has forgotten from accounting, or else from our own records."""
    name = slurm_id(job, index)
    accounts = _slurm("sacct", "-n", "-P", "-D", "-X", "-j", name, "-o", "State,NodeList") or ""
    told = [line.split("|") for line in accounts.splitlines() if line]
    earlier = [state.split()[0] for state, _ in told[:-1]]
    shown = _slurm("scontrol", "show", "job", "-o", name)
    if shown:
        if len(job.runs) > 1:  # a waiting array is one entry for all: its elements have none of their own yet
            own = [line for line in shown.splitlines() if re.search(rf"\bArrayTaskId={index}\b", line)]
            shown = own[0] if own else shown.splitlines()[0]
        values = dict(re.findall(r"(\w+)=(\S*)", shown))
        reason = values.get("Reason", "")
        return State(
            name=values["JobState"],
            reason="" if reason == "None" else reason,
            nodes=values.get("NodeList", "").removeprefix("(null)"),
            restarts=int(values.get("Restarts", 0)),
            earlier=[state for state in earlier if state in _ENDED_BY_SLURM],
        )
    starts = attempts(submission, index)
    restarts = max(0, len(starts) - 1)
    if told:
        return State(name=told[-1][0].split()[0], nodes=told[-1][1], restarts=restarts, earlier=earlier)
    if starts and starts[-1].get("again") is False:
        return State(name=_word(starts[-1]), reason=starts[-1]["reason"], restarts=restarts)
    if shutil.which("scontrol") is None:
        return State(name="UNKNOWN", reason="there is no Slurm on this machine", restarts=restarts)
    return State(name="GONE", reason="Slurm knows it no more", restarts=restarts)


def _on_this_machine(submission: Submission, job: Job, index: int) -> State:
    starts = attempts(submission, index)
    restarts = max(0, len(starts) - 1)
    if submission.runner() is not None:
        if starts and starts[-1].get("again", True):
            return State(name="RUNNING", nodes=job.id, restarts=restarts)
        if not starts:
            return State(name="PENDING", reason="the runs before it", nodes=job.id)
    if starts and starts[-1].get("again") is False:
        return State(name=_word(starts[-1]), reason=starts[-1]["reason"], nodes=job.id, restarts=restarts)
    return State(name="GONE", reason="its processes have ended", nodes=job.id, restarts=restarts)


def _word(last_start: dict[str, Any]) -> str:
    """Slurm's word for a run whose last start was not followed by another one."""
    if last_start["reason"] == "finished":
        return "COMPLETED"
    return "CANCELLED" if last_start["reason"].startswith("stopped by ") else "FAILED"


def _slurm(*command: str) -> str | None:
    """What a command of Slurm prints; None where it fails or is not there."""
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ended.stdout if ended.returncode == 0 else None
