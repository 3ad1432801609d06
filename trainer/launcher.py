"""A rank ends with its launcher: torchrun that is killed leaves its ranks running, and their run directory in use."""

import os
import threading
import time

TEMPORARY = 75  # EX_TEMPFAIL of sysexits.h: starting again may help
_INTERVAL = 0.5  # s


def end_with_launcher() -> None:
    """From here on, where torchrun has started this process. Ends it whatever it is doing, with exit code 75."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        threading.Thread(target=_watch, args=(os.getppid(),), name="launcher", daemon=True).start()


def _watch(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(_INTERVAL)
    rank = os.environ.get("RANK", "0")
    os.write(
        2, f"error: rank {rank}: torchrun has ended; the same command continues from the last checkpoint\n".encode()
    )
    os._exit(TEMPORARY)
