"""benchmarks/fidelity.py: the peers train the recipe of ours, once each, and the table says what they reached."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.fidelity import fidelity_recipe, table, trainings_of
from benchmarks.fidelity_peers import timm_scheduler
from tests.support.processes import ROOT, TIMEOUT
from trainer.recipe import Steps
from trainer.schedule import lr_of


def run(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.fidelity", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT)


@pytest.mark.slow
def test_peers_train_once_each_and_what_is_there_is_not_trained_again(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "found.jsonl"
    words = [photos, "--out", out, "--resolution", 32, "--epochs", 1, "--seeds", 0, "--only", "torchvision", "timm"]
    ended = run(*words)
    assert ended.returncode == 0, ended.stderr
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(each["training"], each["seed"]) for each in found] == [("torchvision", 0), ("timm", 0)]
    assert all(0 <= each["top1"] <= 100 and each["cpu_seconds"] > 0 and "commit" in each for each in found)
    again = run(*words)
    assert again.returncode == 0 and out.read_text().count("\n") == 2
    assert again.stdout == f"{table(found)}\n"


@pytest.mark.slow
def test_training_or_folder_that_there_is_not_is_one_line(photos: Path, tmp_path: Path) -> None:
    trained = ", ".join(trainings_of(fidelity_recipe(32, 1, 10), photos, None))
    for words, line in (
        ([photos, "--only", "fastai"], f"error: no training is called fastai; there are {trained}\n"),
        ([tmp_path], f"error: {tmp_path} has no class folders below train/\n"),
    ):
        ended = run(*words, "--out", tmp_path / "found.jsonl")
        assert (ended.returncode, ended.stderr) == (2, line)


@pytest.mark.parametrize(("epochs", "rates"), [(1, [0.05]), (3, [0.05, 0.05, 0.005]), (5, [0.05] * 4 + [0.005])])
def test_rate_drops_for_the_last_third(epochs: int, rates: list[float]) -> None:
    """By ours and by timm's scheduler."""
    recipe = fidelity_recipe(128, epochs, 10)
    assert [lr_of(recipe, epoch) for epoch in range(epochs)] == pytest.approx(rates)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], recipe.optimizer.lr)
    assert isinstance(recipe.schedule, Steps)
    scheduler, found = timm_scheduler(optimizer, recipe.schedule, epochs), []
    for epoch in range(epochs):
        scheduler.step(epoch)
        found.append(optimizer.param_groups[0]["lr"])
    assert found == pytest.approx(rates)


def test_table_has_the_interval_of_welch() -> None:
    """By hand: 2 points, standard error 1 / sqrt(3) each, 4 degrees of freedom, t = 2.776."""
    rows = {"ours": (60.0, 61.0, 62.0), "timm": (62.0, 63.0, 64.0), "torchvision": (70.0,)}
    found = [
        {"training": name, "top1": top1, "cpu_seconds": 1000.0} for name, values in rows.items() for top1 in values
    ]
    lines = table(found).splitlines()[2:]
    assert lines == [
        "| ours | 3 | 61.00 +- 1.00 % |  | 1,000 |",
        "| timm | 3 | 63.00 +- 1.00 % | -0.27 to +4.27 points | 1,000 |",
        "| torchvision | 1 | 70.00 % |  | 1,000 |",
    ]
