"""Errors that no check can foresee, as one line and an exit code: of the disk, memory, devices and other processes."""

import errno
import os
import re
import signal
import socket
import stat
import sys
from pathlib import Path

from trainer.atomic import MAKE_ROOM
from trainer.distributed.faulty_node import report_faulty_node
from trainer.errors import DISK_AWAY, EXIT_RETRY, first_line, one_line

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, *DISK_AWAY)
_SMALLER_BATCH = (
    "use a smaller --micro-batch-size, which changes neither the global batch nor the learning rate; "
    "python -m trainer benchmark RECIPE --fit finds the largest that fits"
)
# Of allocators: torch's, C++'s, the CUDA runtime's, cuBLAS's (CUBLAS_STATUS_ALLOC_FAILED) and cuDNN's. Not of an
# "illegal memory access".
OUT_OF_MEMORY = r"(out of|enough|allocate) memory|bad_alloc|_ALLOC(ATION)?_FAILED"
_LONGEST_REASON = 120  # characters of what gloo or NCCL says
_SOURCE_LINE = re.compile(r"\[\S+\.\w+:\d+\] ")  # gloo's own, before what it says
# What the CUDA runtime says of a GPU that is broken, gone or taken, rather than of a program's mistake:
# https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html (cudaError)
_BROKEN_GPU = re.compile(
    r"CUDA.*(uncorrectable|hardware|no CUDA-capable device|busy or unavailable|system not yet initialized|"
    r"unknown error|driver initialization failed)",
    re.IGNORECASE,
)
# torch.compile's own (torch/_inductor/exc.py), and Triton's on a GPU (triton/runtime/build.py)
_NO_COMPILER = re.compile(r"InvalidCxxCompiler|(?P<c>Failed to find C compiler)")
_NOT_DETERMINISTIC = re.compile(r"(\S+) does not have a deterministic implementation")  # ATen/Context.cpp


_printed: list[str] = []  # the last error of this process


def print_error(text: str) -> None:
    """Prints one line on stderr."""
    _printed[:] = [one_line(text)]
    print(f"error: {_printed[0]}", file=sys.stderr, flush=True)


def last_error() -> str | None:
    """Returns the last line that print_error was given; None: there was none."""
    return _printed[0] if _printed else None


def exit_code_of(error: Exception, run_dir: Path | None = None) -> int:
    """Prints what the user can use of the error and returns the exit code. Any other error is raised again.

    `run_dir`: of a training, for which only what is not below it is input.
    """
    if isinstance(error, BrokenPipeError):  # the reader closed the pipe, e.g. `| head`
        return after_broken_pipe()
    if isinstance(error, PermissionError) and error.filename and _is_unreadable(Path(error.filename), run_dir):
        print_error(f"{error.filename}: cannot be used: {error.strerror}")  # read or written: the error does not say
        return 2
    if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
        print_error(f"{error.filename or 'a file of the run'}: {error.strerror}: {MAKE_ROOM}")
        return EXIT_RETRY
    if isinstance(error, OSError) and error.filename is not None:  # a name that is too long, a loop of links, ...
        print_error(f"{error.filename}: {error.strerror}")
        return 2
    if type(error).__name__ == "OutOfMemoryError":
        print_error(f"out of GPU memory: {_SMALLER_BATCH}: {first_line(error)}")
        return 2
    if type(error).__name__.startswith("Dist") or (isinstance(error, RuntimeError) and "gloo" in str(error)):
        from trainer.distributed import lost_peer

        lost_peer.report(one_line(_communication_failure(error)))
        return EXIT_RETRY
    no_memory = isinstance(error, RuntimeError) and re.search(OUT_OF_MEMORY, str(error), re.IGNORECASE)
    if no_memory or isinstance(error, MemoryError):
        print_error(f"out of memory: {_SMALLER_BATCH}: {first_line(error)}")
        return 2
    if isinstance(error, RuntimeError) and (missing := _NO_COMPILER.search(str(error))):
        kind, program = ("C", "gcc") if missing["c"] else ("C++", "g++")
        print_error(
            f"--compile needs a {kind} compiler: install {program}, or leave --compile out: {first_line(error)}"
        )
        return 2
    if isinstance(error, RuntimeError) and (operation := _NOT_DETERMINISTIC.match(first_line(error))):
        says = f"this network needs {operation[1]}, which has no deterministic kernel here"
        print_error(f"--deterministic: {says}: leave the option out, or use another network")
        return 2
    if isinstance(error, RuntimeError) and _BROKEN_GPU.search(first_line(error)):
        reason = f"{_place()}, GPU {os.environ.get('LOCAL_RANK', '0')}: {first_line(error)}"
        report_faulty_node(reason)
        print_error(f"{reason}: leave this node out, or restart it")
        return EXIT_RETRY
    raise error


def _is_unreadable(path: Path, run_dir: Path | None) -> bool:
    """Whether it is input that this user may not read. An error does not say whether it came from reading."""
    if run_dir and path.absolute().is_relative_to(run_dir.absolute()):
        return False
    try:
        is_folder = stat.S_ISDIR(path.stat().st_mode)
    except PermissionError:  # a folder above it may not be searched
        return True
    except OSError:
        return False
    return not os.access(path, os.R_OK | os.X_OK if is_folder else os.R_OK)


def after_broken_pipe() -> int:
    """The exit code of a process whose reader closed the pipe, which from now on writes to nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python prints another error at its exit
    return 128 + signal.SIGPIPE


def _communication_failure(error: Exception) -> str:
    """One line for an error of torch.distributed. NCCL gives its own reason in the line after "Last error:"."""
    _, found, reason = str(error).partition("Last error:\n")
    if found and reason.strip():
        return f"NCCL failed on {_place()}: {reason.strip().splitlines()[0][:_LONGEST_REASON]}"
    reason = _SOURCE_LINE.sub("", first_line(error)).partition(". ")[0][:_LONGEST_REASON]
    return f"another process of this run has exited or cannot be reached: {reason}"


def _place() -> str:
    return f"node {socket.gethostname()}, rank {os.environ.get('RANK', '0')}"
