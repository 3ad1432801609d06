"""A run with parts that everything_recipe.py lacks: stopped and continued it ends the same, and so it does on two
processes but for rounding."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.support.processes import assert_same_run, metrics, run, weights
from trainer.__main__ import main
from trainer.model import build_model
from trainer.recipe import CifarResNet

pytestmark = pytest.mark.slow

RECIPE = """
from dataclasses import replace
from tests.support.small_recipe import recipe as small
from trainer.recipe import SWA, AdamW, AugMix, CifarResNet, Distillation, Mixing, ProgressiveResizing
from trainer.recipe import RandomResizedCrop

recipe = replace(
    small, name="parts", epochs=1, precision="fp32", optimizer=AdamW(lr=0.01, decay_norm=False, decay_bias=False),
    train_crop=RandomResizedCrop(resolution=16, scale=(0.5, 1.0)),
    progressive=ProgressiveResizing(start_resolution=8, start_epoch=0, end_epoch=1, multiple=8),
    augmentation=AugMix(), mixing=Mixing(mixup_alpha=0.2, cutmix_alpha=1.0),
    distillation=Distillation(teacher=CifarResNet(depth=8, width=2), temperature=2.0),
    clip_grad_norm=None, clip_grad_agc=0.05, swa=SWA(start_epoch=1), precise_norm_images=96,
)
"""
LAST = 1437 // 96


@pytest.fixture(scope="module")
def runs(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The run directory of an undisturbed run on 1 and 2 processes."""
    folder = tmp_path_factory.mktemp("parts")
    (folder / "parts.py").write_text(RECIPE)
    for seed in (1, 2):
        torch.manual_seed(seed)
        torch.save(build_model(CifarResNet(depth=8, width=2), 10).state_dict(), folder / f"teacher{seed}.pt")
    for processes in (1, 2):
        ended = run(words(digits, folder / str(processes)), processes)
        assert ended.returncode == 0, ended.stderr
    return {processes: folder / str(processes) for processes in (1, 2)}


def words(digits: Path, run_dir: Path, teacher: str = "teacher1.pt") -> list[str]:
    options = ["--log-every", "1", "--checkpoint-steps", "1", "--keep-last-checkpoints", "100", "--no-pictures"]
    options += ["--teacher-weights", str(run_dir.parent / teacher)]
    return ["train", str(run_dir.parent / "parts.py"), "--data", str(digits), "--run-dir", str(run_dir), *options]


@pytest.mark.parametrize("processes", [1, 2])
def test_run_with_all_parts_continues_bit_for_bit_after_a_stop(
    processes: int, runs: dict[int, Path], digits: Path
) -> None:
    whole = runs[processes]
    stopped = whole.with_name(f"stopped{processes}")
    shutil.copytree(whole, stopped)
    for step in range(6, LAST + 1):
        (stopped / "checkpoints" / f"step_{step:08d}.pt").unlink()
    ended = run(words(digits, stopped), processes)
    assert ended.returncode == 0, ended.stderr
    assert "after step 5" in ended.stdout
    assert_same_run(stopped, whole)


def test_run_with_all_parts_differs_by_rounding_only_on_two_processes(runs: dict[int, Path]) -> None:
    one, two = (
        [record["loss"] for record in metrics(runs[processes]) if record["kind"] == "train"] for processes in (1, 2)
    )
    assert len(one) == len(two) == LAST
    assert two[:5] == pytest.approx(one[:5], rel=1e-3)  # Adam's first steps amplify the rounding of small gradients
    assert one[-1] < one[0]
    evaluated = [
        {record["kind"]: record["loss"] for record in metrics(runs[processes]) if record["kind"].startswith("eval")}
        for processes in (1, 2)
    ]
    assert evaluated[0].keys() == {"eval", "eval_swa"}
    assert evaluated[1] == pytest.approx(evaluated[0], rel=1e-2)
    measured = [
        {name: tensor for name, tensor in weights(runs[processes]).items() if "running_" in name}
        for processes in (1, 2)
    ]
    assert len(measured[0]) == 2 * 7 * 2  # of both networks, each measured over the same 96 images
    torch.testing.assert_close(measured[1], measured[0], rtol=1e-2, atol=1e-2)


def test_result_names_the_teacher_and_a_run_keeps_it(
    runs: dict[int, Path], digits: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = runs[1]
    result = json.loads((whole / "result.json").read_text())
    sha256 = hashlib.sha256((whole.parent / "teacher1.pt").read_bytes()).hexdigest()
    teacher = {"network": "CifarResNet-8", "file": "teacher1.pt", "sha256": sha256}
    assert result["protocol"]["weights"]["teacher"] == teacher
    assert f"distilled from CifarResNet-8 (teacher1.pt, sha256:{sha256[:12]})" in result["protocol_text"]
    assert main(words(digits, whole, "teacher2.pt")) == 2
    assert "was distilled from CifarResNet-8 (teacher1.pt, sha256:" in capfd.readouterr().err
    assert main(words(digits, whole)[:-2]) == 2
    assert capfd.readouterr().err == "error: distillation needs the teacher's weights: add --teacher-weights FILE\n"
