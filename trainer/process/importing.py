"""Says on a terminal that a command has begun, before the seconds in which torch is imported."""

import os
import sys


def announce(text: str) -> None:
    """One line on stderr, of rank 0. Nothing in a file or a pipe, where nobody waits for it."""
    if sys.stderr.isatty() and os.environ.get("RANK", "0") in ("", "0"):
        print(f"{text}: importing PyTorch", file=sys.stderr, flush=True)
