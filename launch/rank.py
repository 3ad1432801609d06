"""What each process of a job does once torchrun's variables are set: trains, and records how it ended."""

import contextlib
import os
import signal
import sys
import traceback
from functools import partial
from pathlib import Path
from typing import NoReturn

import trainer.process.streams  # noqa: F401  # first: for its effect
from launch.attempt import faulty_node_file, note_rank
from launch.checks import quick
from launch.disk import patiently
from launch.submission import Submission
from trainer.distributed import faulty_node
from trainer.distributed.parent import end_process
from trainer.errors import UserError, one_line
from trainer.process.unforeseen import last_error


def run_rank(submission: Submission, index: int, argv: list[str], preflight: bool = False) -> NoReturn:
    """Runs python -m trainer WORDS in this process, records its exit code and last error, and ends the process at once.

    With 0 after a signal, when everything is saved: any other code would have the peers killed while they end.
    """
    rank, number = int(os.environ["RANK"]), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    os.environ[faulty_node.VARIABLE] = str(faulty_node_file(submission, index, number))
    code, raised = 1, None
    try:
        from trainer.__main__ import main

        code = quick(argv) if preflight else 0
        if code == 0:
            code = main(argv)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException as error:
        code, raised = 1, one_line("".join(traceback.format_exception_only(error)).splitlines()[0])
        traceback.print_exc()
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # one that comes late must not look like a crash
    record = partial(note_rank, submission, index, number, rank, code, (raised or last_error()) if code else None)
    if code == 0:  # that the run has finished must not be lost
        patiently(record)
    else:
        with contextlib.suppress(OSError, UserError):  # the launcher sees the exit code
            record()
    end_process(0 if code > 128 else code)


if __name__ == "__main__":  # under torchrun, which counts only the restarts that it makes itself
    os.environ["TORCHELASTIC_RESTART_COUNT"] = sys.argv[3]
    run_rank(Submission(Path(sys.argv[1])), int(sys.argv[2]), sys.argv[4:])
