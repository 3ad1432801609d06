"""Every start of a run: what it began with, how it ended, and whether the run is started again.

A launcher calls begin() before the processes of a start and end() after them. With the standard library only.
"""

import json
import os
import signal
import socket
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from launch.submission import Submission, now
from trainer.atomic import replace_text
from trainer.errors import EXIT_RETRY, UserError
from trainer.run.checkpoint_names import newest_step

_PORTS = range(10_000, 32_000)  # below those that systems assign by themselves
_STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # after which a rank saves and ends
_LOGS = 2**18  # bytes of room beside a checkpoint
CANCELLED = "cancelled by python -m launch cancel"


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How the processes of a start ended, as their launcher saw it."""

    summary: str
    """for people, e.g. srun ended with 137"""
    failed: bool = False
    """whether a process crashed or was killed, after which its launcher ends the others with SIGTERM"""
    by_user: str | None = None
    """how the user ended the run; None if he did not, or if nobody knows"""
    sent: signal.Signals = signal.SIGTERM
    """the signal that the user sent"""
    cause: str | None = None
    """what else ended the processes, e.g. preempted"""
    machine_fault: str | None = None
    """what was wrong with a machine; Slurm leaves it out of the next start"""


@dataclass(frozen=True, kw_only=True)
class RestartDecision:
    """Whether a run is started again after a start has ended, and why."""

    restart: bool
    reason: str
    code: int = 0
    """exit code of the job, if nothing follows"""
    state: Literal["COMPLETED", "CANCELLED", "FAILED"] = "FAILED"
    """state of the run (launch/state.py), if nothing follows"""


def decide(
    codes: dict[int, int], ending: Ending, *, restarts_without_progress: int, max_restarts: int
) -> RestartDecision:
    """Only its user ends a run: see docs/cluster.md. `codes`: of the ranks that recorded one.

    `restarts_without_progress`: starts in a row, this one included, after which no checkpoint was newer than before.
    """
    if codes.get(0) == 0:
        return RestartDecision(restart=False, reason="finished", state="COMPLETED")
    stops = {code - 128 for code in codes.values()} & {*_STOPS, signal.SIGUSR2}
    saved = ", saved" if stops else ""
    if ending.by_user:
        return RestartDecision(
            restart=False, reason=f"{ending.by_user}{saved}", code=128 + ending.sent, state="CANCELLED"
        )
    wrong = [rank for rank, code in codes.items() if code == 2]
    if wrong and not ending.machine_fault:  # a faulty machine can make a rank reject good input
        return RestartDecision(
            restart=False, reason=f"the input cannot be used, see the log of rank {wrong[0]}", code=2
        )
    if because := ending.cause or ending.machine_fault:
        reason = f"{because}{saved}"
    elif signal.SIGUSR2 in stops:  # a rank that was only asked by its peers to stop reports SIGTERM
        reason = "saved before the time limit"
    elif stops and not ending.failed:
        name = signal.Signals(min(stops)).name
        reason = f"{name} to the processes, saved; the run continues because nobody cancelled its job"
    else:
        failed = [
            f"rank {rank} ended with {code}"
            for rank, code in codes.items()
            if code not in (0, EXIT_RETRY) and code - 128 not in stops
        ]
        reason = ", ".join(failed) or ending.summary
    if restarts_without_progress >= max_restarts:
        reason = f"given up after {restarts_without_progress} starts without a new checkpoint: {reason}"
        return RestartDecision(restart=False, reason=reason, code=1)
    return RestartDecision(restart=True, reason=reason)


def begin(submission: Submission, index: int, number: int, nodes: str, port: int | None = None) -> None:
    """Records that start `number` of run `index` begins, once there is room for a checkpoint.

    Raises UserError if the user has cancelled the run, or the last starts brought no checkpoint. `port`: where its
    processes meet; None: torchrun finds one.
    """
    job = submission.job
    starts, step = attempts(submission, index), newest_step(Path(job.runs[index]))
    cancelled = submission.is_cancelled(index)
    if starts and "ended" not in starts[-1]:
        how = {"reason": CANCELLED, "again": False, "state": "CANCELLED"}
        if not cancelled:
            how = {"reason": "ended from outside", "again": True}
        _write(submission, index, {**starts[-1], "ended": None, **how})
    if cancelled:
        raise UserError(CANCELLED)
    restarts_without_progress = _restarts_without_progress(starts, step)
    if restarts_without_progress >= job.max_restarts_without_checkpoint:
        last = starts[-1].get("reason", "ended from outside: preemption, a lost node or a requeue")
        raise UserError(f"given up after {restarts_without_progress} starts without a new checkpoint: {last}")
    require_room(Path(job.runs[index]), submission.attempts(index))
    clock = {"boot": boot_id(), "uptime": time.clock_gettime(time.CLOCK_BOOTTIME)}
    start = {"number": number, "began": now(), "step": step, "nodes": nodes, "port": port, "clock": clock}
    _write(submission, index, start)


def end(submission: Submission, index: int, number: int, ending: Ending) -> RestartDecision:
    """Records how start `number` of run `index` ended, and decides what follows: see decide()."""
    job = submission.job
    step = newest_step(Path(job.runs[index]))
    starts = attempts(submission, index)
    ending = replace(ending, machine_fault=next(iter(faulty_nodes(submission, index, number).values()), None))
    start = next((start for start in starts if start["number"] == number), {"number": number, "step": step})
    decision = decide(
        rank_codes(submission, index, number),
        ending,
        restarts_without_progress=_restarts_without_progress(starts, step),
        max_restarts=job.max_restarts_without_checkpoint,
    )
    state = {} if decision.restart else {"state": decision.state}
    how = {"reason": decision.reason, "again": decision.restart, **state}
    _write(submission, index, {**start, "ended": now(), "seconds": _seconds_since(start), **how})
    return decision


def note_rank(submission: Submission, index: int, number: int, rank: int, code: int, error: str | None = None) -> None:
    """Records the exit code of rank 0, and of any other rank that failed. `error`: the last one it printed, one line.

    Raises OSError if it cannot be written.
    """
    if rank == 0 or code:
        record = {"rank": rank, "code": code, "error": error, "host": socket.gethostname(), "ended": now()}
        replace_text(submission.attempts(index) / f"{number:03}.rank{rank}", json.dumps(record))


def rank_codes(submission: Submission, index: int, number: int) -> dict[int, int]:
    """The exit codes that note_rank recorded, the oldest first."""
    return {rank: record["code"] for rank, record in _rank_records(submission, index, number).items()}


def rank_errors(submission: Submission, index: int, number: int) -> dict[int, str]:
    """Returns the errors that note_rank recorded, the oldest first. Raises OSError if they cannot be read."""
    records = _rank_records(submission, index, number)
    return {rank: error for rank, record in records.items() if (error := record.get("error"))}


def _rank_records(submission: Submission, index: int, number: int) -> dict[int, dict[str, Any]]:
    files = submission.attempts(index).glob(f"{number:03}.rank*[0-9]")  # not of a rank killed in writing: .partial
    ordered = sorted(files, key=lambda file: file.stat().st_mtime)
    return {int(file.suffix.removeprefix(".rank")): json.loads(file.read_text(encoding="utf-8")) for file in ordered}


def node_name() -> str:
    """The name of this machine, as Slurm calls it."""
    return os.environ.get("NODE_NAME") or socket.gethostname()


def faulty_node_file(submission: Submission, index: int, number: int) -> Path:
    """Where a rank of that start reports that this machine is at fault: trainer/distributed/faulty_node.py."""
    return submission.attempts(index) / f"{number:03}.faulty.{node_name()}"


def faulty_nodes(submission: Submission, index: int, number: int) -> dict[str, str]:
    """Node -> why, of the machines that were at fault in that start."""
    files = sorted(submission.attempts(index).glob(f"{number:03}.faulty.*"))
    return {file.name.split(".", 2)[2]: file.read_text(encoding="utf-8") for file in files}


def attempts(submission: Submission, index: int) -> list[dict[str, Any]]:
    """The starts of a run so far: number, began, step, nodes, port, and after the end ended, seconds, reason, again."""
    files = sorted(submission.attempts(index).glob("*.json"))
    return sorted((json.loads(file.read_text(encoding="utf-8")) for file in files), key=lambda start: start["number"])


def require_room(run_dir: Path, otherwise: Path) -> None:
    """Raises OSError if a file as large as the newest checkpoint cannot be written, because of a quota for example.

    `otherwise`: a folder on the same disk, where the run's own does not exist yet.
    """
    sizes = [path.stat().st_size for path in (run_dir / "checkpoints").glob("step_*.pt")]
    probe = (run_dir if run_dir.is_dir() else otherwise) / f".room-{os.getpid()}"
    try:
        with probe.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(sizes, default=0) + _LOGS)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(run_dir)) from error
    finally:
        probe.unlink(missing_ok=True)


def free_port(seed: int) -> int:
    """A port that is free here, as is the next one. It depends on the seed, so that jobs of a node do not clash."""
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


def _write(submission: Submission, index: int, start: dict[str, Any]) -> None:
    replace_text(submission.attempts(index) / f"{start['number']:03}.json", json.dumps(start))


def boot_id() -> str:
    """Differs between machines, and between two boots of one."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()


def _seconds_since(start: dict[str, Any]) -> float | None:
    """How long a start took, whatever was done to the clock meanwhile; None if it began on a different machine."""
    clock = start.get("clock", {})
    if clock.get("boot") != boot_id():
        return None
    return float(round(time.clock_gettime(time.CLOCK_BOOTTIME) - clock["uptime"], 1))
