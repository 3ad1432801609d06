"""Every recipe trains on two real processes, and a stopped run ends with the weights of one that was not.

Recipes that differ in numbers alone run the same code: one of them is stopped.
"""

import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image
from torchvision.models import resnet18

from tests.support.processes import LONGEST, ROOT, SUPPORT
from trainer.data.beton.prepare import PrepareOptions, prepare_folder
from trainer.model import build_model
from trainer.recipe import CifarResNet, Recipe
from trainer.recipe_file import load_recipe, recipe_names

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(photo_betons: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What recipe_worker.py prints, by recipe."""
    folder = tmp_path_factory.mktemp("recipe_runs")
    torch.save(resnet18(num_classes=7).state_dict(), folder / "weights.pt")
    torch.save(build_model(CifarResNet(depth=8), 4).state_dict(), folder / "teacher.pt")
    paths = [photo_betons, small_images(folder), folder / "weights.pt", folder / "runs"]
    words = [sys.executable, str(SUPPORT / "recipe_worker.py"), *map(str, paths)]
    # As torchrun has one for all its starts. A rank that comes before rank 0 would wait up to a second to try again.
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    ranks = []
    for rank in range(2):
        with (folder / f"rank{rank}.log").open("w") as log:
            environment = {
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(store.port),
                "TORCHELASTIC_USE_AGENT_STORE": "True",
                "WORLD_SIZE": "2",
                "LOCAL_WORLD_SIZE": "2",
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
            }
            ranks.append(subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=log, text=True))
    try:
        printed = [process.communicate(timeout=LONGEST)[0] for process in ranks]
    finally:
        for process in ranks:
            process.kill()
            process.wait()
    tails = "\n".join((folder / f"rank{rank}.log").read_text()[-2000:] for rank in range(2))
    assert [process.returncode for process in ranks] == [0, 0], tails
    return {found["name"]: found for found in map(json.loads, printed[0].splitlines())}


def small_images(folder: Path) -> Path:
    """64 + 20 images of 32 x 32 px in 10 classes, as train.beton and val.beton."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 64), ("val", 20)):
        for number in range(count):
            target = folder / "images" / split / f"class{number % 10}" / f"{number:03}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(target)
    prepare_folder(folder / "images", folder / "small", PrepareOptions(workers=1))
    return folder / "small"


def test_recipes_every_recipe_was_run(runs: dict[str, dict[str, Any]]) -> None:
    assert list(runs) == recipe_names()
    assert len(runs) == 86


@pytest.mark.parametrize("name", recipe_names())
def test_recipe_trains_and_is_evaluated_as_it_says(name: str, runs: dict[str, dict[str, Any]]) -> None:
    run, recipe = runs[name], load_recipe(name)
    assert run["steps"] == [1, 2]
    assert run["tensors"] > 20
    assert run["kinds"] == ["eval", "eval_ema", "train"] if recipe.ema else ["eval", "train"]
    assert run["results"] == (2 if recipe.ema else 1) * (2 if recipe.also_eval_crop else 1)


@pytest.mark.parametrize("name", recipe_names())
def test_recipe_stopped_after_its_first_step_ends_with_the_same_weights(
    name: str, runs: dict[str, dict[str, Any]]
) -> None:
    run = runs[runs[name]["as"]]
    assert run["continued"] == 2  # the copied start, and the one that went on
    assert run["different"] == []
    assert run["same_story"]


def test_recipes_that_share_a_stopped_run_have_the_same_kinds_of_parts(runs: dict[str, dict[str, Any]]) -> None:
    assert len({run["as"] for run in runs.values()}) > 40
    parts = {field.name for field in fields(Recipe)} - {"published"}
    for name, run in runs.items():
        mine, its = load_recipe(name), load_recipe(run["as"])
        assert [part for part in parts if type(getattr(mine, part)) is not type(getattr(its, part))] == []
