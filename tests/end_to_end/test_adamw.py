"""A run with AdamW and AutoAugment: stopped and continued it ends the same, and so it does on two processes but for
rounding."""

import shutil
from pathlib import Path

import pytest

from tests.support.processes import assert_same_run, metrics, run

pytestmark = pytest.mark.slow

RECIPE = """
from dataclasses import replace
from tests.support.small_recipe import recipe as small
from trainer.recipe import AdamW, AutoAugment

recipe = replace(
    small, name="adamw", epochs=1, precision="fp32", optimizer=AdamW(lr=0.01, decay_norm=False, decay_bias=False),
    augmentation=AutoAugment(policy="cifar10"),
)
"""
LAST = 1437 // 96


@pytest.fixture(scope="module")
def runs(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The run directory of an undisturbed run on 1 and 2 processes."""
    folder = tmp_path_factory.mktemp("adamw")
    (folder / "adamw.py").write_text(RECIPE)
    for processes in (1, 2):
        ended = run(words(digits, folder / str(processes)), processes)
        assert ended.returncode == 0, ended.stderr
    return {processes: folder / str(processes) for processes in (1, 2)}


def words(digits: Path, run_dir: Path) -> list[str]:
    options = ["--log-every", "1", "--checkpoint-steps", "1", "--keep-last-checkpoints", "100"]
    return ["train", str(run_dir.parent / "adamw.py"), "--data", str(digits), "--run-dir", str(run_dir), *options]


@pytest.mark.parametrize("processes", [1, 2])
def test_adamw_run_continues_bit_for_bit_after_a_stop(processes: int, runs: dict[int, Path], digits: Path) -> None:
    whole = runs[processes]
    stopped = whole.with_name(f"stopped{processes}")
    shutil.copytree(whole, stopped)
    for step in range(6, LAST + 1):
        (stopped / "checkpoints" / f"step_{step:08d}.pt").unlink()
    ended = run(words(digits, stopped), processes)
    assert ended.returncode == 0, ended.stderr
    assert "after step 5" in ended.stdout
    assert_same_run(stopped, whole)


def test_adamw_run_differs_by_rounding_only_on_two_processes(runs: dict[int, Path]) -> None:
    one, two = (
        [record["loss"] for record in metrics(runs[processes]) if record["kind"] == "train"] for processes in (1, 2)
    )
    assert len(one) == len(two) == LAST
    assert two[:5] == pytest.approx(one[:5], rel=1e-4)
    assert one[-1] < one[0]
