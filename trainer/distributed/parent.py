"""A rank ends with its launcher: one that is killed leaves its ranks running, and their run directory in use."""

import contextlib
import os
import threading
import time
from typing import NoReturn

EXIT_RETRY = 75  # EX_TEMPFAIL of sysexits.h: starting again may help
GO_ON = "the same command continues from the last checkpoint"
_INTERVAL = 0.5  # s


def exit_when_parent_dies() -> None:
    """From here on, where torchrun or the like has started this process."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        threading.Thread(target=_watch, args=(os.getppid(),), name="launcher", daemon=True).start()


def _watch(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(_INTERVAL)
    end_now(f"the launcher of rank {os.environ.get('RANK', 0)} has ended; {GO_ON}")


def end_now(message: str | None) -> NoReturn:
    """Ends this process with exit code 75, from any thread, whatever the main thread is doing."""
    if message:
        with contextlib.suppress(OSError):  # who would read it may have ended too
            os.write(2, f"error: {message}\n".encode())
    os._exit(EXIT_RETRY)
