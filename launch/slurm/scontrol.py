"""What Slurm says of a job, and how to end it. Works with and without Slurm's accounting."""

import re
import subprocess

from launch.attempt import attempts, rank_codes
from launch.state import State
from launch.submission import Job, Submission
from trainer.errors import UserError

NOT_FOUND = 127  # a shell's exit code of a command that does not exist
_HELD = "held: scontrol release {} continues it"
_REASONS = {
    "JobLaunchFailure": "the job's script was killed: launch the run again to continue it",
    "JobHeldAdmin": _HELD,
    "JobHeldUser": _HELD,
    "job_requeued_in_held_state": _HELD,
    "launch_failed_requeued_held": f"Slurm could not start it, {_HELD}",
}


def job_name(job: Job, index: int) -> str:
    """What Slurm calls the job of run number `index`."""
    return f"{job.id}_{index}" if len(job.runs) > 1 else job.id


def job_state(submission: Submission, index: int) -> State:
    """From scontrol, or where it has forgotten the job from accounting, or else from our own records."""
    job = submission.job
    if not job.id:
        return State(name="PENDING", job="", reason="being submitted, or its submission was interrupted")
    name = job_name(job, index)
    shown = run_slurm("scontrol", "show", "job", "-o", name)
    if shown.returncode == 0:
        # a waiting array is one entry: its elements have none of their own yet
        lines = shown.stdout.splitlines()
        own = [line for line in lines if re.search(rf"\bArrayTaskId={index}\b", line)]
        values = dict(re.findall(r"(\w+)=(\S*)", own[0] if own else lines[0]))
        reason = values.get("Reason", "").removeprefix("None")
        nodes = values.get("NodeList", "").removeprefix("(null)")
        return State(name=values["JobState"], job=name, reason=_REASONS.get(reason, reason).format(name), nodes=nodes)
    if shown.stderr and "Invalid job id" not in shown.stderr:
        return State(name="UNKNOWN", job=name, reason=shown.stderr.strip().splitlines()[-1])
    accounts = run_slurm("sacct", "-n", "-P", "-D", "-X", "-j", name, "-o", "State,NodeList")
    if records := [line.split("|") for line in accounts.stdout.splitlines() if line]:
        return State(name=records[-1][0].split()[0], job=name, nodes=records[-1][1])
    starts = attempts(submission, index)
    if starts and starts[-1].get("again") is False:
        return State(name=starts[-1]["state"], job=name, reason=starts[-1]["reason"])
    if starts and (codes := rank_codes(submission, index, starts[-1]["number"])) and codes.get(0, 0) > 128:
        return State(name="CANCELLED", job=name)
    reason = "Slurm no longer knows it" if shown.stderr else "there is no Slurm here to ask"
    return State(name="GONE", job=name, reason=reason)


def cancel_job(submission: Submission, index: int) -> str:
    """Marks the run as cancelled, then runs scancel. Raises UserError if scancel fails; the mark stays."""
    job = submission.job
    name = job_name(job, index)
    submission.mark_cancelled(index)
    ended = run_slurm("scancel", name)
    if ended.returncode:
        said = ended.stderr.strip() or "is this a machine of the cluster?"
        raise UserError(f"scancel {name} failed: {said}; the run will not start again, but its processes still run")
    return f"{job.runs[index]}: job {name} is cancelled"


def run_slurm(*command: str) -> subprocess.CompletedProcess[str]:
    """The result of a command of Slurm; NOT_FOUND and no output where the command does not exist."""
    try:
        return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=60)
    except OSError:
        return subprocess.CompletedProcess(command, NOT_FOUND, "", "")
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", f"{command[0]} did not answer within a minute")
