"""What the processes of a run wrote, of all its starts."""

import re
import sys
import time
from pathlib import Path

from launch.attempt import attempts, rank_errors
from launch.cluster import cluster_of
from launch.jobs import state_of
from launch.settings import LogsSettings
from launch.submission import START, Submission, submission_of
from trainer.errors import UserError

_TROUBLE = re.compile(r"^(error: .*|Traceback \(most recent call last\):)$", re.MULTILINE)
_OFTEN, _SELDOM = 0.5, 5.0  # s from one look at the file to the next, and from one question to Slurm to the next


def logs(options: LogsSettings) -> None:
    """Prints the log of one rank, and the first error of the others. Raises UserError if there is no log."""
    submission, index = submission_of(options.run)
    path = log_file(submission, index, options.rank)
    waits = options.follow and not state_of(submission, index).is_over
    if not path.is_file() and not waits:
        raise UserError(f"{options.run} has no log of rank {options.rank} yet: {path} is not there")
    if note := trouble_elsewhere(submission, index, options.rank):
        print(note, file=sys.stderr)
    _print(path, submission, index, options.follow)


def log_file(submission: Submission, index: int, rank: int) -> Path:
    """The file with a rank's output. Raises UserError if there is no such rank."""
    job = submission.job
    if rank not in range(job.processes):
        raise UserError(f"--rank {rank}: the run has {job.processes} processes, ranks 0 to {job.processes - 1}")
    return cluster_of(job).log_file(submission, index, rank)


def trouble_elsewhere(submission: Submission, index: int, rank: int) -> str | None:
    """What went wrong first, where that was not on `rank`."""
    found = first_trouble(submission, index)
    if found is None or found[0] == rank:
        return None
    return f"--- rank {found[0]} was in trouble first: {found[1]} (--rank {found[0]} has all of it)"


def first_trouble(submission: Submission, index: int) -> tuple[int, str] | None:
    """The rank that ended first with an error of its own, and this error; None if none has one.

    Ranks record their last error. Where none has, as of processes that were killed or ended themselves at once, the
    logs are searched for it, in the order in which they were finished. An error about a lost peer does not count: it
    follows from the failure of another rank.
    """
    starts = attempts(submission, index)
    if starts and (recorded := rank_errors(submission, index, starts[-1]["number"])):
        return next(iter(recorded.items()))
    ranks: dict[Path, int] = {}
    for rank in range(submission.job.processes):
        ranks.setdefault(log_file(submission, index, rank), rank)  # ranks may share a file
    logs = [(rank, path) for path, rank in ranks.items() if path.is_file()]
    for rank, path in sorted(logs, key=lambda entry: entry[1].stat().st_mtime):
        text = path.read_text(encoding="utf-8", errors="replace")
        text = text[max(0, text.rfind(START)) :]  # logs are of all starts: only the last one's trouble is of today
        if found := [trouble for trouble in _TROUBLE.finditer(text) if "another process of this run" not in trouble[0]]:
            said = [line for line in text[found[-1].start() :].splitlines() if line.strip()]
            return rank, said[0].removeprefix("error: ") if said[0].startswith("error: ") else _exception(said)
    return None


def _exception(lines: list[str]) -> str:
    """Of a traceback: the first line after the frames, which are indented."""
    return next((line for line in lines[1:] if not line.startswith(" ")), lines[-1])


def _print(path: Path, submission: Submission, index: int, follow: bool) -> None:
    place, over, asked, waiting = 0, not follow, -_SELDOM, ""
    while True:
        if not over and time.monotonic() - asked > _SELDOM:
            state = state_of(submission, index)
            over, asked = state.is_over, time.monotonic()
            if state.name != waiting and not path.is_file():
                waiting = state.name
                print(f"--- no log yet: {state.name} {state.reason}".rstrip(), file=sys.stderr, flush=True)
        if path.is_file():
            with path.open(encoding="utf-8", errors="replace") as file:
                file.seek(place)
                sys.stdout.write(file.read())
                place = file.tell()
            sys.stdout.flush()
        if over:
            return
        time.sleep(_OFTEN)
