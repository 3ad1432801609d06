"""A training in eager mode, in one process, starts without torch's compiler."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.optim import SGD, AdamW, Optimizer

from tests.support.processes import ROOT, SUPPORT, TIMEOUT
from trainer.process.compiler_import import eager_optimizer


@pytest.mark.slow
def test_compiler_is_not_imported_by_training_in_eager_mode(tmp_path: Path) -> None:
    words = ["train", str(SUPPORT / "small_recipe.py"), "--data", "synthetic:96", "--run-dir", str(tmp_path / "run")]
    process = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "trainer", *words, "--precision", "fp32", "--no-pictures"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        cwd=ROOT,
    )
    assert process.returncode == 0, process.stderr[-2000:]
    imported = {line.rpartition("|")[2].strip() for line in process.stderr.splitlines() if "import time:" in line}
    assert "torch.optim" in imported
    assert "torch._dynamo" not in imported


@pytest.mark.parametrize("kind", [SGD, AdamW])
def test_eager_optimizer_computes_what_torchs_does(kind: type[Optimizer]) -> None:
    weights = []
    for optimizer_of in (kind, eager_optimizer(kind)):
        weight = torch.nn.Parameter(torch.linspace(-1, 1, 12))
        optimizer = optimizer_of([weight], lr=0.1, weight_decay=0.01)  # type: ignore[call-arg]
        for _ in range(3):
            optimizer.zero_grad()
            weight.pow(3).sum().backward()
            optimizer.step()
        assert not any(value.requires_grad for value in optimizer.state[weight].values() if value is not None)
        weights.append(weight.detach())
    assert torch.equal(*weights)
    assert not torch.equal(weights[0], torch.linspace(-1, 1, 12))
