"""Huge pages for the heap: glibc asks Linux for them only where a variable says so when the process starts."""

import contextlib
import multiprocessing
import os
import platform
import sys
from pathlib import Path

_ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")
TUNABLE = "glibc.malloc.hugetlb"  # The GNU C Library Reference Manual, section "Memory Allocation Tunables"
_FIRST_GLIBC = (2, 35)
_RESTARTED = "SHORTCUT_RESTARTED"  # id of the process that has: glibc removes GLIBC_TUNABLES from privileged ones


def huge_page_variables() -> dict[str, str]:
    """Returns the variables with which a process has to start for malloc to use pages of 2 MiB instead of 4 KiB.

    A step on a CPU goes through hundreds of megabytes, and in a virtual machine each page's address costs two searches:
    1.2 to 1.4 times as fast (docs/experiments.md). Empty if there is nothing to gain: Linux gives huge pages to every
    process or to none, the C library is another one or older than 2.35, or GLIBC_TUNABLES has the tunable already.
    Also empty if this is not x86-64: elsewhere a huge page may have 512 MiB.
    """
    given = os.environ.get("GLIBC_TUNABLES", "")
    if platform.machine() != "x86_64" or not _given_on_request() or _glibc() < _FIRST_GLIBC or TUNABLE in given:
        return {}
    return {"GLIBC_TUNABLES": ":".join([given] * bool(given) + [f"{TUNABLE}=1"])}


def restart_with_huge_pages() -> None:
    """Replaces this process with itself, same id and arguments, if it started without huge_page_variables().

    Returns otherwise; under a debugger, which would lose the process; and in a fork or another program that calls
    run(), because that one would start again.
    """
    variables, this = huge_page_variables(), str(os.getpid())
    if not variables or os.environ.get(_RESTARTED) == this or _is_debugged() or not _is_the_command():
        return
    os.environ.update(variables | {_RESTARTED: this})
    for stream in (sys.stdout, sys.stderr):
        if stream:  # None if it was closed at the start
            stream.flush()
    with contextlib.suppress(OSError):  # trains without
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _is_debugged() -> bool:
    monitoring = getattr(sys, "monitoring", None)  # PEP 669, from Python 3.12 on
    watched = sys.gettrace() or (monitoring and monitoring.get_tool(monitoring.DEBUGGER_ID))
    return bool(watched or {"debugpy", "pydevd"} & sys.modules.keys())


def _is_the_command() -> bool:
    """Whether this process was started as `python -m trainer` or `shortcut`, with the arguments that it has now."""
    program, *arguments = sys.argv
    is_ours = Path(program).name == "shortcut" or Path(program) == Path(__file__).parents[1] / "__main__.py"
    started_with = sys.orig_argv[len(sys.orig_argv) - len(arguments) :]
    return is_ours and arguments == started_with and multiprocessing.parent_process() is None


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
