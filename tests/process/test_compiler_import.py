"""A training in eager mode starts without torch's compiler, in one process or several."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.optim import SGD, AdamW, Optimizer

from tests.support.processes import ROOT, SUPPORT, TIMEOUT
from trainer.process.compiler_import import eager_optimizer


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_compiler_is_not_imported_by_training_in_eager_mode(processes: int, tmp_path: Path) -> None:
    words = ["train", str(SUPPORT / "small_recipe.py"), "--data", "synthetic:96", "--run-dir", str(tmp_path / "run")]
    code = (
        "import sys\n"
        "from trainer.__main__ import main\n"
        "code = main(sys.argv[1:])\n"
        "print('torch.optim' in sys.modules, 'torch._dynamo' in sys.modules)\n"
        "sys.exit(code)\n"
    )
    with socket.create_server(("localhost", 0)) as free:
        place = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free.getsockname()[1])}
    place |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", code, *words, "--no-pictures"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, cwd=ROOT, env={**os.environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(processes)
    ]  # fmt: skip
    said = [rank.communicate(timeout=TIMEOUT) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * processes, said
    assert [out.splitlines()[-1] for out, _ in said] == ["True False"] * processes


def test_whatever_the_constructor_of_ddp_asks_for_the_compiler_answers_itself() -> None:
    code = (
        "import sys, torch\n"
        "from trainer.process.compiler_import import eager_ddp\n"
        "with eager_ddp():\n"
        "    before = torch._dynamo.utils.get_optimize_ddp_mode()\n"
        "    assert 'torch._dynamo' not in sys.modules\n"
        "    utils = torch._dynamo.utils\n"
        "    assert utils.dynamo_timed is sys.modules['torch._dynamo.utils'].dynamo_timed\n"
        "    assert torch._dynamo.config.optimize_ddp is True\n"
        "assert torch._dynamo is sys.modules['torch._dynamo']\n"
        "assert torch._dynamo.utils.get_optimize_ddp_mode() == before\n"
        "with eager_ddp():\n"
        "    assert torch._dynamo is sys.modules['torch._dynamo']\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=TIMEOUT, cwd=ROOT)
    assert ended.returncode == 0, ended.stderr


def test_compiler_is_not_there_after_the_block() -> None:
    code = (
        "import torch\n"
        "from trainer.process.compiler_import import eager_ddp\n"
        "with eager_ddp():\n"
        "    pass\n"
        "assert '_dynamo' not in vars(torch)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=TIMEOUT, cwd=ROOT)
    assert ended.returncode == 0, ended.stderr


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
