"""Exceptions that the user sees as one line of text instead of a traceback."""

import errno
import signal
from collections.abc import Sequence

EXIT_RETRY = 75  # EX_TEMPFAIL of sysexits.h: starting again may help
DISK_AWAY = (
    errno.EIO, errno.ESTALE, errno.EREMOTEIO, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH,
    errno.ENETDOWN, errno.ENETUNREACH,
)  # fmt: skip
"""The errors that NFS, Lustre and other shared disks return while their server is unreachable."""
NOT_JSON = (ValueError, RecursionError)
"""The errors that json.loads raises for text that is not JSON, is damaged, or is nested too deeply."""


class Stopped(Exception):  # noqa: N818
    """The run was stopped after saving, and can be continued. The message says so. All ranks raise it together."""

    def __init__(self, message: str, number: signal.Signals) -> None:
        super().__init__(message)
        self.signal = number


class UserError(Exception):
    """Invalid input. The message states the value, the reason and how to fix it; the process exits with code 2.

    If its cause is an OSError of an unreachable disk, the process exits with EXIT_RETRY instead.
    """

    @property
    def exit_code(self) -> int:
        return EXIT_RETRY if isinstance(self.__cause__, OSError) and self.__cause__.errno in DISK_AWAY else 2


class DiskError(UserError):
    """A full or absent disk: starting again may help, once it can be written."""

    exit_code = EXIT_RETRY


class NodeError(UserError):
    """A fault of this machine, which it names. Other machines may be sound, so the process exits with code 75."""

    exit_code = EXIT_RETRY


class SharedError(UserError):
    """An error that all ranks raise together, after one of them found it. Rank 0 alone prints it."""

    exit_code = 2

    def __init__(self, message: str, exit_code: int = 2) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class LocalError(UserError):
    """An error of this process alone, e.g. a damaged image among its own. It is printed whatever the rank."""


class UnreachableError(LocalError):
    """Processes cannot reach each other. A retry may help, so the process exits with code 75."""

    exit_code = EXIT_RETRY


def one_line(text: str) -> str:
    """Escapes line ends and terminal control codes, which the text of a file or a user may contain."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def first_few(names: Sequence[str], most: int = 3) -> str:
    """first_few(["a", "b", "c", "d"], 2) is "a, b and 2 more"; in one line, as the names may come from a file."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return one_line(", ".join(names[:most])) + more


def counted(number: int, noun: str) -> str:
    """counted(1, "step") is "1 step", counted(2000, "process") "2,000 processes"."""
    hisses = noun.endswith(("s", "ch")) and not noun.endswith("epoch")
    plural = noun if number == 1 else f"{noun}es" if hisses else f"{noun}s"
    return f"{number:,} {plural}"


def rate(per_second: float) -> str:
    """Formats images a second: whole from ten on, and below with a decimal, so that 0.6 is not shown as 1 or 0."""
    return f"{per_second:,.0f}" if per_second >= 9.95 else f"{per_second:.1f}"


def first_line(error: BaseException) -> str:
    """Returns the first line of an exception's message, or the name of its type where the message is empty."""
    return (str(error) or type(error).__name__).splitlines()[0]
