"""--compile: the same losses as eager, from one graph; kernels that no measured time has chosen, on request."""

import shutil
from pathlib import Path

import pytest
import torch
import torch._inductor.config
from torch._dynamo.utils import counters

from tests.support.processes import SUPPORT, metrics
from trainer.__main__ import main
from trainer.step import compile_static

needs_compiler = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a C++ compiler"
)


@pytest.mark.parametrize("deterministic", [False, True])
def test_compiler_is_deterministic_where_the_kernels_are(deterministic: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(torch._inductor.config, "deterministic"):
        pytest.skip("this version of torch has no such setting")
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: deterministic)
    with torch._inductor.config.patch(deterministic=False):
        compile_static(torch.nn.Linear(2, 2), "default", resolutions=1, threads=1)
        assert torch._inductor.config.deterministic is deterministic


@pytest.mark.slow
@needs_compiler
def test_compiled_training_has_the_losses_of_eager_training_from_one_graph(tmp_path: Path) -> None:
    """Two epochs of two steps: the first losses compare the network, the later ones its gradients."""
    words = ["train", str(SUPPORT / "small_recipe.py"), "--data", "synthetic:64", "--no-pictures", "--workers", "1"]
    words += ["--precision", "fp32", "--global-batch-size", "32", "--micro-batch-size", "16", "--log-every", "1"]
    for name, option in (("eager", []), ("compiled", ["--compile"])):
        torch._dynamo.reset()
        counters.clear()
        assert main([*words, "--run-dir", str(tmp_path / name), *option]) == 0
    eager, compiled = (
        [record for record in metrics(tmp_path / name) if "loss" in record] for name in ("eager", "compiled")
    )
    assert len(eager) >= 4
    for ours, expected in zip(compiled, eager, strict=True):
        assert ours["step"] == expected["step"]
        assert ours["loss"] == pytest.approx(expected["loss"], rel=1e-3)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
