"""Huge pages for the heap: glibc asks Linux for them only where a variable says so when the process starts."""

import multiprocessing
import os
import sys
from pathlib import Path

_ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")
TUNABLE = "glibc.malloc.hugetlb"  # The GNU C Library Reference Manual, section "Memory Allocation Tunables"
_FIRST_GLIBC = (2, 35)


def huge_page_variables() -> dict[str, str]:
    """Returns the variables with which a process has to start for malloc to use pages of 2 MiB instead of 4 KiB.

    A step on a CPU goes through hundreds of megabytes, and in a virtual machine each page's address costs two searches:
    1.2 to 1.4 times as fast (docs/experiments.md). Empty if there is nothing to gain: Linux gives huge pages to every
    process or to none, the C library is another one or older than 2.35, or GLIBC_TUNABLES has the tunable already.
    """
    given = os.environ.get("GLIBC_TUNABLES", "")
    if TUNABLE in given or not _given_on_request() or _glibc() < _FIRST_GLIBC:
        return {}
    return {"GLIBC_TUNABLES": ":".join([given] * bool(given) + [f"{TUNABLE}=1"])}


def restart_with_huge_pages() -> None:
    """Replaces this process with itself, same id and arguments, if it started without huge_page_variables().

    Returns otherwise; under a debugger, which would lose the process; and in a fork or another program that calls
    run(), whose own command line would be started again.
    """
    variables = huge_page_variables()
    if not variables or sys.gettrace() or "debugpy" in sys.modules or not _is_the_command():
        return
    os.environ.update(variables)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _is_the_command() -> bool:
    """Whether this process was started with the arguments that it runs, and is no copy made by multiprocessing."""
    arguments = sys.argv[1:]
    started_with = sys.orig_argv[len(sys.orig_argv) - len(arguments) :]
    return arguments == started_with and multiprocessing.parent_process() is None


def _given_on_request() -> bool:
    try:
        return "[madvise]" in _ENABLED.read_text(encoding="ascii")
    except OSError:  # not Linux, or a kernel without huge pages
        return False


def _glibc() -> tuple[int, ...]:
    """Returns the C library's version; (0,) for another library than glibc."""
    try:
        name, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()
    except (ValueError, OSError):
        return (0,)
    return tuple(int(part) for part in version.split(".")) if name == "glibc" else (0,)
