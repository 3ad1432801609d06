"""What does not compile starts without torch's compiler, in one process or several."""

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from torch.optim import SGD, AdamW, Optimizer

from tests.support.processes import ROOT, SUPPORT, TIMEOUT, rank_variables
from trainer.process.compiler_import import eager_optimizer

WITHOUT_COMPILER = """
import sys
from trainer.__main__ import main
code = main(sys.argv[1:])
print("torch.optim" in sys.modules, "torch._dynamo" in sys.modules)
sys.exit(code)
"""


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_compiler_is_not_imported_by_training_and_evaluation(processes: int, tmp_path: Path) -> None:
    recipe, data, run_dir = str(SUPPORT / "small_recipe.py"), "synthetic:96", str(tmp_path / "run")
    ranks_end(["train", recipe, "--data", data, "--run-dir", run_dir, "--no-pictures"], processes)
    ranks_end(["evaluate", run_dir, "--data", data], processes)


def ranks_end(words: list[str], processes: int) -> None:
    """New interpreters run the command, each without torch's compiler."""
    with ExitStack() as stack:
        ranks = [
            stack.enter_context(new_interpreter(WITHOUT_COMPILER, *words, **variables))
            for variables in rank_variables(processes)
        ]
        stack.callback(lambda: [rank.kill() for rank in ranks])
        said = [rank.communicate(timeout=TIMEOUT) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * processes, said
    assert [out.splitlines()[-1] for out, _ in said] == ["True False"] * processes


def new_interpreter(code: str, *words: str, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        env={**os.environ, **variables},
    )  # fmt: skip


@pytest.mark.slow
def test_stand_in_passes_other_questions_on_to_the_compiler() -> None:
    code = (
        "import sys, torch\n"
        "from trainer.process.compiler_import import eager_ddp\n"
        "with eager_ddp():\n"
        "    before = torch._dynamo.utils.get_optimize_ddp_mode()\n"
        "    assert 'torch._dynamo' not in sys.modules\n"
        "assert '_dynamo' not in vars(torch)\n"
        "with eager_ddp():\n"
        "    utils = torch._dynamo.utils\n"
        "    assert utils.dynamo_timed is sys.modules['torch._dynamo.utils'].dynamo_timed\n"
        "    assert torch._dynamo.config.optimize_ddp is True\n"
        "assert torch._dynamo is sys.modules['torch._dynamo']\n"
        "assert torch._dynamo.utils.get_optimize_ddp_mode() == before\n"
        "with eager_ddp():\n"
        "    assert torch._dynamo is sys.modules['torch._dynamo']\n"
    )
    with new_interpreter(code) as interpreter:
        _, said = interpreter.communicate(timeout=TIMEOUT)
    assert interpreter.returncode == 0, said


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
