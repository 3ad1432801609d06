"""Memory, threads and open files of a run, epoch by epoch: they have to stay as they are, for a week.

    python -m tests.support.long_run --epochs 200

test_long_run.py runs the short form.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from tests.support.processes import LONGEST, TIMEOUT, kill, metrics, start_new

RECIPE = Path(__file__).parent / "small_recipe.py"


class Usage(NamedTuple):
    """Of the process, after an epoch's evaluation."""

    megabytes: float  # resident
    threads: int
    files: int


def usage_by_epoch(data: str, run_dir: Path, epochs: int, *options: str) -> list[Usage]:
    """Trains so many epochs, each with an evaluation and a checkpoint, and looks at the process after every one."""
    small = ["--epochs", str(epochs), "--log-every", "4", "--checkpoint-steps", "5", "--workers", "2", *options]
    process = start_new(["train", str(RECIPE), "--data", data, "--run-dir", str(run_dir), *small])
    found: list[Usage] = []
    deadline = time.monotonic() + LONGEST
    try:
        while process.poll() is None and time.monotonic() < deadline:
            told = sum(record["kind"] == "eval" for record in metrics(run_dir, whole=False))
            if told > len(found):
                found += [_usage(process.pid)] * (told - len(found))
            time.sleep(0.02)
        _, said = process.communicate(timeout=TIMEOUT)
    finally:
        kill(process)
    assert process.returncode == 0, said
    return found


def _usage(pid: int) -> Usage:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    files = len(os.listdir(f"/proc/{pid}/fd"))
    return Usage(int(status["VmRSS"].split()[0]) / 1024, int(status["Threads"]), files)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=200)
    epochs = parser.parse_args().epochs
    from trainer.data.beton.prepare import prepare_digits

    with tempfile.TemporaryDirectory() as folder:
        prepare_digits(Path(folder) / "data")
        found = usage_by_epoch(str(Path(folder) / "data"), Path(folder) / "run", epochs)
    for epoch in sorted({1, 2, 5, *range(10, epochs, 10), len(found)}):
        if epoch <= len(found):
            usage = found[epoch - 1]
            print(f"epoch {epoch:4}: {usage.megabytes:8.1f} MB, {usage.threads} threads, {usage.files} open files")


if __name__ == "__main__":
    main()
