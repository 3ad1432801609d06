"""Ends a rank when its launcher ends: a launcher that is killed would leave its ranks running."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn

from trainer.errors import EXIT_RETRY

CONTINUES = "run the same command again to resume from the last checkpoint"
_INTERVAL = 0.5  # s

_at_end: list[Callable[[], object]] = []  # of this process


def exit_when_parent_dies() -> None:
    """Starts a thread that ends this process with its launcher, if torchrun or the like has started it."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        threading.Thread(target=_watch, args=(os.getppid(),), name="launcher", daemon=True).start()


def _watch(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(_INTERVAL)
    end_now(f"the launcher of rank {os.environ.get('RANK', 0)} has ended; {CONTINUES}")


def at_end(action: Callable[[], object]) -> None:
    """Has end_process() call `action` first after an error, which is printed by then; not after a signal."""
    _at_end.append(action)


def end_process(code: int) -> NoReturn:
    """Ends this process within milliseconds. Python's own end takes seconds after training, and peers wait for it.

    What has to be written is written: exit handlers do not run.
    """
    if 0 < code < 128:
        for action in _at_end:
            action()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
            stream.flush()
    os._exit(code)


def end_now(message: str | None) -> NoReturn:
    """Ends this process with exit code 75, from any thread, whatever the main thread is doing."""
    if message:
        with contextlib.suppress(OSError):  # the reader of stderr may be gone too
            os.write(2, f"error: {message}\n".encode())
    os._exit(EXIT_RETRY)
