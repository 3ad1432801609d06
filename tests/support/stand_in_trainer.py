"""Takes the place of trainer/__main__.py in a copy of the code: a run without torch, which starts in a second.

It behaves as the trainer does towards its launcher: a signal to one rank stops all of them, rank 0 saves a checkpoint,
and the exit code says why. Tests steer it by files in its run directory:

    finish        the run ends well
    exit.RANK     that rank returns the exit code written in it, and removes it
    fault.RANK    that rank reports its machine with the text written in it, removes it and returns 75
    memory.RANK   that rank takes as many MiB of memory as are written in it, once
    ignore_usr2   the soft signal has no effect

and it tells them with up.START.RANK, which holds its process id, that a rank listens.
"""

import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from trainer.atomic import replace_text
from trainer.distributed.faulty_node import report_faulty_node
from trainer.distributed.parent import exit_when_parent_dies


def main(words: list[str]) -> int:
    """Returns as python -m trainer does."""
    exit_when_parent_dies()
    run_dir = Path(words[words.index("--run-dir") + 1])
    rank, start = os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]
    stopping = run_dir / f"stopping.{start}"
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if number != signal.SIGUSR2 or not (run_dir / "ignore_usr2").exists():
            received.append(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2):
        signal.signal(number, note)
    try:
        (run_dir / "checkpoints").mkdir(parents=True, exist_ok=True)
        replace_text(run_dir / f"up.{start}.{rank}", str(os.getpid()))
        while not (run_dir / "finish").exists():
            time.sleep(0.02)
            if code := _take(run_dir / f"exit.{rank}"):
                return int(code)
            if fault := _take(run_dir / f"fault.{rank}"):
                report_faulty_node(fault)
                return 75
            if size := _take(run_dir / f"memory.{rank}"):
                taken = b"x" * (int(size) * 2**20)
                assert taken
            if received and not stopping.exists():
                stopping.touch()
            if stopping.exists() or not run_dir.exists():
                if rank == "0":
                    _save(run_dir)
                return 128 + (received[0] if received else signal.SIGTERM)
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr, flush=True)
        return 75
    return 0


def _take(file: Path) -> str:
    """Removes the file and returns its text; "" while it is missing, or there and not yet written."""
    text = file.read_text() if file.exists() else ""
    if text:
        file.unlink()
    return text


def _save(run_dir: Path) -> None:
    """One step more than the newest checkpoint has."""
    steps = [int(path.stem.removeprefix("step_")) for path in (run_dir / "checkpoints").glob("step_*.pt")]
    (run_dir / "checkpoints" / f"step_{max(steps, default=0) + 1:08d}.pt").write_bytes(bytes(2**18))
