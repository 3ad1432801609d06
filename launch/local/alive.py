"""The process of this machine that runs a local submission: it holds the lock of the submission's file `alive`.

Until then the process that launches it holds the lock of `starting`.
"""

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

from launch.attempt import attempts, boot_id
from launch.disk import patiently
from launch.submission import Submission
from trainer.errors import UserError

_LATELY = 300.0  # s; a run that trains or evaluates writes to its log every ten seconds
_TO_START = 60.0  # s from job.json to the process, where no lock says whether it is being started


class Runner(NamedTuple):
    """The process that runs a submission."""

    pid: int
    is_here: bool
    """whether it is a process of this machine; in a container the number may be that of a different one"""


@contextlib.contextmanager
def runs_here(submission: Submission) -> Iterator[None]:
    """While this process is in the block, runner() returns it. Waits for a disk that is full or away."""
    with _locked(_file(submission)):
        yield


@contextlib.contextmanager
def starts_here(submission: Submission) -> Iterator[None]:
    """While this process is in the block, is_being_started() is true, until runs_here() begins. Raises OSError."""
    with _locked(submission.folder / "starting", lambda write: write()):
        yield


@contextlib.contextmanager
def _locked(path: Path, until_written: Callable[[Callable[[], Any]], Any] = patiently) -> Iterator[None]:
    new = path.with_suffix(".partial")
    with until_written(partial(new.open, "wb")) as file:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)  # it ends with the process, however that ends
        until_written(partial(_publish, file.fileno(), new, path))
        yield


def _publish(file: int, new: Path, path: Path) -> None:
    """Nobody sees the file before it is locked and complete, also on a different machine."""
    os.pwrite(file, f"{os.getpid()} {_began(os.getpid())}".encode(), 0)
    os.fsync(file)
    os.replace(new, path)


def runner(submission: Submission) -> Runner | None:
    """The process that runs a local submission; None: it has ended, or is not there yet.

    Raises UserError if nobody can tell from here: on another machine, and without locks that it shares.
    """
    path = _file(submission)
    try:
        with path.open(encoding="utf-8") as file:
            is_free = _takes_lock(file)
            pid, _, began = file.read().partition(" ")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    if is_free is not False and (host := submission.job.id) != socket.gethostname():
        _require_gone(submission, host, has_locks=is_free is True)
    if is_free:
        return None
    if not pid:  # of an earlier version, which wrote after it had taken the lock
        if is_free is None:
            return None
        raise UserError(f"{path}: is being written: look again")
    here = _began(int(pid))
    is_here = bool(here) and began in ("", here)  # earlier versions wrote the number alone
    return Runner(int(pid), is_here) if is_here or is_free is False else None


def has_begun(submission: Submission) -> bool:
    """Whether the process that runs it has been there."""
    return _file(submission).exists()


def is_being_started(submission: Submission) -> bool:
    """Whether a process launches it, and the one that runs it is not there yet."""
    if has_begun(submission):
        return False
    is_free: bool | None = True
    with contextlib.suppress(OSError), (submission.folder / "starting").open(encoding="utf-8") as file:
        is_free = _takes_lock(file)
    sees_locks = is_free is not None and submission.job.id == socket.gethostname()
    return is_free is False or (not sees_locks and _is_younger(submission.folder / "job.json", _TO_START))


def _file(submission: Submission) -> Path:
    return submission.folder / "alive"


def _require_gone(submission: Submission, host: str, *, has_locks: bool) -> None:
    """Raises UserError if a run of a machine called `host` may be alive, though nobody is seen to hold its lock."""
    otherwise = f"ask there, or remove launch.json from the run's folder if {host} is gone"
    if not has_locks:
        raise UserError(f"{host} ran it, and this disk has no locks to say whether it still does: {otherwise}")
    for index, run_dir in enumerate(submission.job.runs):
        starts = attempts(submission, index)
        # some shared disks have locks that only one machine sees: NFS with local_lock, Lustre with localflock
        is_open = bool(starts) and "ended" not in starts[-1] and starts[-1].get("clock", {}).get("boot") != boot_id()
        if is_open and _is_younger(log := Path(run_dir) / "log.txt", _LATELY):
            raise UserError(
                f"{host} ran it, and {log} was written less than {_LATELY / 60:.0f} minutes ago: look again after "
                f"them, {otherwise}"
            )


def _is_younger(path: Path, seconds: float) -> bool:
    try:
        return time.time() - path.stat().st_mtime < seconds
    except OSError:
        return False


def _takes_lock(file: IO[str]) -> bool | None:
    """Whether nobody else holds the file's lock; None on a file system without locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _began(pid: int) -> str:
    """When a process of this machine began, in ticks since its boot: other ones get its number later. Empty for none.

    Field 22 of /proc/PID/stat (proc_pid_stat(5)), after the program's name in brackets, which may hold anything.
    """
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
    except OSError:
        return ""
