"""Waits until a full or unreachable disk recovers: it is no fault of the run."""

import sys
import time
from collections.abc import Callable
from typing import TypeVar

from trainer.errors import UserError

T = TypeVar("T")
_INTERVAL, _LIMIT = 2.0, 3600.0  # s between two tries, and in all


def patiently(action: Callable[[], T]) -> T:
    """The result of `action`, called again after an OSError for an hour. Raises UserError when that is over."""
    began = time.monotonic()
    waited = False
    while True:
        try:
            result = action()
        except (OSError, UserError) as error:
            if not (what := disk_error(error)):
                raise
            if time.monotonic() - began > _LIMIT:
                raise UserError(f"{what}: waited for an hour") from error
            if not waited:
                print_waiting(what)
            waited = True
            time.sleep(_INTERVAL)
            continue
        if waited:
            print("launch: the disk is usable again", file=sys.stderr, flush=True)
        return result


def disk_error(error: OSError | UserError) -> str | None:
    """File and reason, where an OSError is the cause; else None."""
    reason = error if isinstance(error, OSError) else error.__cause__
    return f"{reason.filename or 'the run directory'}: {reason.strerror}" if isinstance(reason, OSError) else None


def print_waiting(what: str) -> None:
    print(f"launch: {what}: waiting for up to an hour until it can be written", file=sys.stderr, flush=True)
