"""Every start of a run: what it began with, how it ended, and whether the run is started again.

A launcher calls begin() before the processes of a start and end() after them. With the standard library only.
"""

import json
import re
import signal
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.submission import Submission, now
from trainer.atomic import replace_text
from trainer.distributed.parent import EXIT_RETRY
from trainer.errors import UserError

_PORTS = range(10_000, 32_000)  # below those that systems hand out by themselves
_ENDS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # by which a user ends a run
_CHECKPOINT = re.compile(r"step_(\d+)\.pt")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What follows from the end of a start."""

    again: bool
    reason: str
    code: int = 0
    """exit code of the job, where nothing follows"""


def decide(
    codes: dict[int, int],
    *,
    finished: bool,
    ended: str,
    stopped_by: signal.Signals | None = None,
    preempted: bool = False,
    restarts_without_progress: int,
    max_restarts: int,
) -> Verdict:
    """What follows after the ranks of a start ended with these codes; one that was killed has none.

    `ended`: how the launcher saw it, in words. `stopped_by`: the signal that it got itself. `preempted`: it was
    Slurm that ended the ranks, to give the nodes to another job. `restarts_without_progress`: starts in a row, this
    one included, after which no checkpoint was newer than before.
    """
    if finished:
        return Verdict(again=False, reason="finished")
    if wrong := [rank for rank, code in codes.items() if code == 2]:
        return Verdict(again=False, reason=f"the input cannot be used, see the log of rank {wrong[0]}", code=2)
    stops = {code - 128 for code in codes.values()} & {*_ENDS, signal.SIGUSR2}
    # a rank that was only asked by its peers to stop reports SIGTERM
    stopped = signal.SIGUSR2 if signal.SIGUSR2 in stops else min(stops, default=None)
    if stopped in _ENDS and not preempted:
        name = signal.Signals(stopped).name
        return Verdict(again=False, reason=f"stopped by {name}, saved", code=128 + stopped)
    if stopped_by in (*_ENDS, signal.SIGQUIT):  # before ranks could listen
        return Verdict(again=False, reason=f"stopped by {stopped_by.name}", code=128 + stopped_by)
    reason = "preempted, saved" if preempted else "saved before the time limit"
    if stopped is None:
        told = [f"rank {rank} ended with {code}" for rank, code in codes.items() if code not in (0, EXIT_RETRY)]
        reason = ", ".join(told) or ended
    if restarts_without_progress >= max_restarts:
        return Verdict(
            again=False,
            reason=f"given up after {restarts_without_progress} starts without a new checkpoint: {reason}",
            code=1,
        )
    return Verdict(again=True, reason=reason)


def begin(submission: Submission, index: int, number: int, nodes: str, port: int | None = None) -> None:
    """Notes that start `number` of run `index` begins. Raises UserError where the last ones came to nothing.

    `port`: where its processes meet; None: torchrun finds one.
    """
    job = submission.job
    starts, step = attempts(submission, index), newest_step(Path(job.runs[index]))
    if starts and "ended" not in starts[-1]:
        _note(submission, index, {**starts[-1], "ended": None, "reason": "ended from outside"})
    restarts_without_progress = _restarts_without_progress(starts, step)
    if restarts_without_progress >= job.max_restarts_without_checkpoint:
        last = starts[-1].get("reason", "ended from outside: preemption, a lost node or a requeue")
        raise UserError(f"given up after {restarts_without_progress} starts without a new checkpoint: {last}")
    _note(submission, index, {"number": number, "began": now(), "step": step, "nodes": nodes, "port": port})


def end(
    submission: Submission,
    index: int,
    number: int,
    ended: str,
    stopped_by: signal.Signals | None = None,
    preempted: bool = False,
) -> Verdict:
    """Notes how start `number` of run `index` ended, and decides what follows: see decide()."""
    job = submission.job
    step = newest_step(Path(job.runs[index]))
    starts = attempts(submission, index)
    start = next((start for start in starts if start["number"] == number), {"number": number, "step": step})
    codes = rank_codes(submission, index, number)
    verdict = decide(
        codes,
        finished=codes.get(0) == 0,
        ended=ended,
        stopped_by=stopped_by,
        preempted=preempted,
        restarts_without_progress=_restarts_without_progress(starts, step),
        max_restarts=job.max_restarts_without_checkpoint,
    )
    _note(submission, index, {**start, "ended": now(), "reason": verdict.reason, "again": verdict.again})
    return verdict


def note_rank(submission: Submission, index: int, number: int, rank: int, code: int) -> None:
    """Notes how a rank ended: rank 0 always, another one where it did not end well."""
    if rank == 0 or code:
        record = {"code": code, "host": socket.gethostname(), "ended": now()}
        replace_text(submission.attempts(index) / f"{number:03}.rank{rank}", json.dumps(record))


def rank_codes(submission: Submission, index: int, number: int) -> dict[int, int]:
    """The exit codes that note_rank noted, those that were noted first come first."""
    files = submission.attempts(index).glob(f"{number:03}.rank*[0-9]")  # not of a rank killed in writing: .partial
    ordered = sorted(files, key=lambda file: file.stat().st_mtime)
    return {int(file.suffix.removeprefix(".rank")): json.loads(file.read_text())["code"] for file in ordered}


def attempts(submission: Submission, index: int) -> list[dict[str, Any]]:
    """The starts of a run so far: number, began, step, nodes, port, and once it is known ended, reason, again."""
    files = sorted(submission.attempts(index).glob("*.json"))
    return sorted((json.loads(file.read_text()) for file in files), key=lambda start: start["number"])


def newest_step(run_dir: Path) -> int:
    """The step of the newest checkpoint, by its name; 0 where there is none."""
    names = (_CHECKPOINT.fullmatch(path.name) for path in (run_dir / "checkpoints").glob("step_*.pt"))
    return max((int(match[1]) for match in names if match), default=0)


def free_port(seed: int) -> int:
    """A port that is free here, and the next one too; another for another seed, so that jobs of a node do not meet."""
    for offset in range(len(_PORTS)):
        port = _PORTS[(seed * 7919 + offset) % len(_PORTS)]
        with socket.socket() as first, socket.socket() as second:
            try:
                first.bind(("", port))
                second.bind(("", port + 1))
            except OSError:
                continue
            return port
    raise UserError("there is no free port on this machine")


def _restarts_without_progress(starts: list[dict[str, Any]], step: int) -> int:
    """How many starts in a row, the last included, began at the newest step there is."""
    count = 0
    for start in reversed(starts):
        if start["step"] != step:
            break
        count += 1
    return count


def _note(submission: Submission, index: int, start: dict[str, Any]) -> None:
    replace_text(submission.attempts(index) / f"{start['number']:03}.json", json.dumps(start))
