"""What a Slurm job's script runs on its first node before and after the processes of a start: see shell.py.

    python -m launch.slurm.start begin FOLDER ADDRESS
    python -m launch.slurm.start end FOLDER CODE SIGNALLED SHOWN MACHINE

CODE: srun's exit code. SIGNALLED: not empty if the script was sent SIGTERM. SHOWN: `scontrol show job`, or nothing
if Slurm does not answer. MACHINE: the state of the script's node, by systemd and by Slurm, where it was signalled.
With the standard library only: the node's Python may have no packages. It prints one of

    meet ADDRESS:PORT    where the processes meet
    again                queue the job again
    again NODES          the same, without these nodes: as the job's ExcNodeList, which has those left out so far
    leave                Slurm has queued it again by itself
    exit CODE            the run is over
"""

import os
import re
import sys
from pathlib import Path

from launch import attempt
from launch.disk import disk_error, print_waiting
from launch.submission import Submission
from trainer.errors import UserError

# systemd's word, and Slurm's states of a node; * is short for NOT_RESPONDING
_GOING_DOWN = {"stopping", "DOWN", "NOT_RESPONDING", "*", "POWERING_DOWN", "POWER_DOWN", "REBOOT_ISSUED", "FAIL"}


def main(argv: list[str]) -> int:
    """Prints the answer, and messages to stderr. Returns 1, without an answer, where the disk cannot be written."""
    what, submission = argv[0], Submission(Path(argv[1]))
    index = int(os.environ.get("SLURM_ARRAY_TASK_ID", 0))
    number = int(os.environ.get("SLURM_RESTART_COUNT", 0))
    try:
        if what == "begin":
            port = attempt.free_port(int(os.environ["SLURM_JOB_ID"]) * 100 + number)
            nodes = os.environ["SLURM_JOB_NODELIST"]
            attempt.begin(submission, index, number, nodes, port)
            print(f"meet {argv[2]}:{port}")
            return 0
        code, signalled, shown, machine = argv[2:6]
        cancelled = submission.is_cancelled(index)
        ending = ending_of(shown, code, bool(signalled), number, cancelled=cancelled, machine=machine)
        decision = attempt.end(submission, index, number, ending)
    except (OSError, UserError) as error:
        if reason := disk_error(error):  # the script tries again
            if os.environ.get("LAUNCH_TRY", "1") == "1":
                print_waiting(reason)
            return 1
        print(f"error: {error}", file=sys.stderr)
        print("exit 2")
        return 0
    print(f"launch: {decision.reason}{': starting again' if decision.restart else ''}", file=sys.stderr, flush=True)
    if not decision.restart:
        print(f"exit {decision.code}")
    elif restarts(shown) > number:
        print("leave")
    else:
        print(f"again {excluded(shown, list(attempt.faulty_nodes(submission, index, number)))}".rstrip())
    return 0


def ending_of(
    shown: str, code: str, signalled: bool, number: int, *, cancelled: bool, machine: str = ""
) -> attempt.Ending:
    """How start `number` ended, by what Slurm says of the job (see docs/cluster.md).

    While its last processes end, a job of any fate is COMPLETING: what was the user's is what nothing else explains.
    """
    summary, failed = f"srun ended with {code}", code != "0"
    if cancelled:
        return attempt.Ending(summary=summary, by_user=attempt.CANCELLED)
    values = _values(shown)
    if "JobState" not in values:
        return attempt.Ending(summary=summary, cause=f"{summary} while Slurm did not answer")
    preempted = values.get("PreemptTime", "None")
    is_preempted = preempted[:1].isdigit() and preempted >= values.get("StartTime", "")  # not of an earlier start
    if is_preempted:
        return attempt.Ending(summary=summary, cause="preempted")
    if restarts(shown) > number:
        return attempt.Ending(summary=summary, cause="queued again by Slurm")
    if values.get("Reason") == "TimeLimit":
        return attempt.Ending(summary=summary, cause="ended by the time limit")
    if values["JobState"] != "RUNNING":
        return attempt.Ending(summary=summary, by_user="cancelled by scancel")
    if signalled and _GOING_DOWN & set(re.findall(r"\w+|\*", machine)):  # init sends it to all processes
        return attempt.Ending(summary=summary, cause="ended by the node's shutdown")
    if signalled:
        return attempt.Ending(summary=summary, by_user="stopped by SIGTERM to the job's script")
    return attempt.Ending(summary=summary, failed=failed)


def excluded(shown: str, faulty: list[str]) -> str:
    """The job's ExcNodeList with the faulty nodes; empty if there are none."""
    before = _values(shown).get("ExcNodeList", "(null)").replace("(null)", "")
    return ",".join(filter(None, [before, *faulty])) if faulty else ""


def restarts(shown: str) -> int:
    """How often Slurm has queued the job again; 0 if it does not say so."""
    return int(_values(shown).get("Restarts", 0))


def _values(shown: str) -> dict[str, str]:
    return dict(re.findall(r"(\w+)=(\S*)", shown))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
