"""Memory, threads and open files of a run, epoch by epoch: they have to stay as they are, for a week.

    python -m tests.support.long_run --epochs 200

test_long_run.py runs the short form.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from tests.support.processes import LONGEST, ROOT

RECIPE = Path(__file__).parent / "small_recipe.py"

# The process looks at itself, so that no epoch is missed: its first word is the file that it adds a line to.
RECORDING = """
import json, os, sys
from pathlib import Path
from trainer import __main__ as entry, train

file, evaluate_really = sys.argv.pop(1), train.evaluate_networks

def evaluate(*given, **named):
    found = evaluate_really(*given, **named)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    files = len(os.listdir("/proc/self/fd"))
    with open(file, "a") as lines:
        print(json.dumps([int(status["VmRSS"].split()[0]) / 1024, int(status["Threads"]), files]), file=lines)
    return found

train.evaluate_networks = evaluate
entry.run()
"""


class Usage(NamedTuple):
    """Of the process, after an epoch's evaluation."""

    megabytes: float  # resident
    threads: int
    files: int


def usage_by_epoch(data: str, run_dir: Path, epochs: int, *options: str) -> list[Usage]:
    """Trains for `epochs` epochs, with an evaluation and a checkpoint in each, and returns the usage after each."""
    run_dir.mkdir(exist_ok=True)
    file = run_dir / "usage.jsonl"
    small = ["--epochs", str(epochs), "--log-every", "4", "--checkpoint-steps", "5", "--workers", "2", *options]
    words = ["train", str(RECIPE), "--data", data, "--run-dir", str(run_dir), *small]
    command = [sys.executable, "-c", RECORDING, str(file), *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=LONGEST)
    assert ended.returncode == 0, ended.stderr
    return [Usage(*json.loads(line)) for line in file.read_text().splitlines()]


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
