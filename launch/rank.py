"""What each process of a job does once torchrun's variables are set: trains, and records its exit code."""

import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

from launch.attempt import note_rank
from launch.checks import quick
from launch.submission import Submission


def run_rank(submission: Submission, index: int, words: list[str], preflight: bool = False) -> NoReturn:
    """Runs python -m trainer WORDS in this process, records its exit code and exits.

    With 0 after a signal, when everything is saved: another code would have the peers killed while they end.
    """
    rank, number = int(os.environ["RANK"]), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    code = 1
    try:
        from trainer.__main__ import main

        code = quick(words) if preflight else 0
        if code == 0:
            code = main(words)
    finally:
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # one that comes late must not look like a crash
        note_rank(submission, index, number, rank, code)
    sys.exit(0 if code > 128 else code)


if __name__ == "__main__":  # under torchrun, which counts only the restarts that it makes itself
    os.environ["TORCHELASTIC_RESTART_COUNT"] = sys.argv[3]
    run_rank(Submission(Path(sys.argv[1])), int(sys.argv[2]), sys.argv[4:])
