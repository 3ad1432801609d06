"""benchmarks/gpu.py on a CPU: everything it measures is there, so that a GPU's minutes are not lost to a mistake."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from processes import ROOT
from torch import nn

from benchmarks.roofline import _Traffic


def test_one_command_measures_loader_step_peers_and_roofline(photo_betons: Path, tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    words = ["--data", photo_betons, "--device", "cpu", "--depth", 18, "--resolution", 32, "--batch", 4, "--seconds",
             0.05, "--rounds", 1, "--workers", 2, "--no-compile", "--json", found]  # fmt: skip
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *map(str, words)],
        cwd=ROOT, capture_output=True, text=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    figures = json.loads(found.read_text())
    assert figures["failed"] == {}
    names = ["loader", "copy", "synthetic", "real", "timm's step, synthetic", "torchvision's step, synthetic"]
    assert list(figures["images_per_second"]) == names
    assert all(len(rates) == 1 and min(rates) > 0 for rates in figures["images_per_second"].values())
    limit = figures["roofline"]
    assert limit["by_fused"] > limit["by_bytes"] > 0
    assert limit["by_flops"] > max(figures["images_per_second"]["synthetic"])
    assert "NOT A GPU" in ended.stdout
    assert "real / synthetic: " in ended.stdout


def test_the_bytes_of_an_operation_are_its_inputs_and_outputs() -> None:
    """A convolution of 1 x 1 from 4 to 8 channels and a ReLU, by hand; views move nothing."""
    images = torch.zeros(2, 4, 10, 10)
    layer = nn.Conv2d(4, 8, 1, bias=False)
    with torch.no_grad(), _Traffic() as traffic:
        layer(images).relu().view(2, -1)
    convolution = 4 * (2 * 4 * 100 + 8 * 4 + 2 * 8 * 100)
    assert traffic.products == convolution
    assert traffic.all == convolution + 2 * 4 * 2 * 8 * 100
