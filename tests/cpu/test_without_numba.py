"""bf16 on a CPU without Numba, llvmlite and FFCV: training says that it is slower, and trains."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import TIMEOUT

# What is hidden cannot be imported, whether or not it is installed
GATE = """
import sys

class Gate:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"numba", "llvmlite", "ffcv"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Gate())
from trainer.__main__ import main

sys.exit(main(sys.argv[1:]))
"""


def train(recipe: str, run_dir: Path, *options: str) -> subprocess.CompletedProcess[str]:
    size = ["--global-batch-size", "8", "--micro-batch-size", "8", "--epochs", "1", "--num-classes", "10"]
    data = ["--data", "synthetic:16", "--run-dir", str(run_dir), "--device", "cpu", "--no-pictures"]
    words = [sys.executable, "-c", GATE, "train", recipe, *data, *size, *options]
    return subprocess.run(words, capture_output=True, text=True, timeout=TIMEOUT)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "options"),
    [
        ("resnet20_he2015", []),
        (
            "resnet18_he2015",
            ["--train-crop.resolution", "32", "--eval-crop.resolution", "32", "--precise-norm-images", "None"],
        ),
    ],
)
def test_training_in_bf16_without_numba_is_slower_and_says_so(recipe: str, options: list[str], tmp_path: Path) -> None:
    ended = train(recipe, tmp_path / "run", "--precision", "bf16", *options)
    assert ended.returncode == 0, ended.stderr
    lines = [line for line in ended.stdout.splitlines() if "CPU kernels" in line]
    assert len(lines) == 1, ended.stdout
    assert "bf16 trains more slowly" in lines[0] and "need Numba (No module named" in lines[0]
    assert "pip install 'numba" in lines[0]
    assert json.loads((tmp_path / "run" / "starts.json").read_text())[0]["cpu_kernels"] == {}
    assert "Traceback" not in ended.stderr
