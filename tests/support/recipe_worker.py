"""Trains two steps of every recipe, reduced; stops some after the first, continues, and compares the results.

Of recipes that differ in numbers alone, one is stopped. One of several ranks; test_recipe_runs.py starts them.
Usage: recipe_worker.py PHOTOS SMALL_IMAGES WEIGHTS OUT. Rank 0 prints a line for each recipe,
{"name": ..., "as": the one that was stopped, "different": [...], ...}.
"""

import contextlib
import io
import itertools
import json
import os
import shutil
import sys
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

import trainer.setup.prepare as setup
from tests.support.processes import metrics, weights
from trainer import recipe as vocabulary
from trainer.model import resnet
from trainer.model.block import BasicBlock, Bottleneck, conv3x3
from trainer.recipe import LibraryModel, PaddedCrop, Recipe
from trainer.recipe_file import load_recipe, recipe_names
from trainer.settings import TrainSettings
from trainer.train import train


class NarrowBasicBlock(BasicBlock):
    """With an eighth of the channels between its convolutions.

    What a start costs here is mostly summing, saving, hashing and reading weights, most of them in the last stage.
    """

    def __init__(
        self, in_channels: int, channels: int, stride: int, *rest: Any, blur: bool = False, **options: Any
    ) -> None:
        super().__init__(in_channels, channels, stride, *rest, blur=blur, **options)
        inner = channels // 8
        self.conv1, self.bn1 = conv3x3(in_channels, inner, stride, blur=blur), nn.BatchNorm2d(inner)
        self.conv2 = conv3x3(inner, channels)


class NarrowBottleneck(Bottleneck):
    """With a quarter of the channels, within and after it."""

    expansion = 1  # what stages and the classifier count with

    def __init__(self, in_channels: int, channels: int, *rest: Any, **options: Any) -> None:
        self.expansion = Bottleneck.expansion
        super().__init__(in_channels, channels // self.expansion, *rest, **options)


setup.collected_by_steps = contextlib.nullcontext  # it looks through all that was imported, at each of many starts

for depth, (block, _) in resnet.LAYOUTS.items():  # every kind of block there is, once
    resnet.LAYOUTS[depth] = (NarrowBottleneck if block is Bottleneck else NarrowBasicBlock, (1, 1, 1, 1))


def reduced(recipe: Recipe) -> Recipe:
    """Everything the recipe has, in small: 2 steps of 8 x 4 images of 32 px."""
    small: dict[str, Any] = {"epochs": 1, "global_batch_size": 32, "micro_batch_size": 8}
    small["num_classes"] = 10 if isinstance(recipe.train_crop, PaddedCrop) else 4
    if isinstance(recipe.model, vocabulary.CifarResNet):
        small["model"] = replace(recipe.model, depth=11 if recipe.model.bottleneck else 8)
    elif isinstance(recipe.model, vocabulary.WideResNet):
        small["model"] = replace(recipe.model, depth=10, width=1)
    elif isinstance(recipe.model, LibraryModel):
        small["model"] = replace(recipe.model, name="torchvision/resnet18", pretrained=False)
    small["train_crop"] = replace(recipe.train_crop, resolution=32)
    if isinstance(recipe.train_crop, vocabulary.ScaleJitterCrop):
        small["train_crop"] = replace(recipe.train_crop, resolution=32, short_side=(36, 64))
    small["eval_crop"] = replace(recipe.eval_crop, resolution=32)
    if recipe.also_eval_crop:
        small["also_eval_crop"] = replace(recipe.also_eval_crop, resolution=24)
    if recipe.progressive:
        small["progressive"] = replace(recipe.progressive, start_resolution=24)
    if recipe.distillation:
        small["distillation"] = replace(recipe.distillation, teacher=vocabulary.CifarResNet(depth=8))
    if recipe.ema:
        small["ema"] = replace(recipe.ema, every=1, start_epoch=min(recipe.ema.start_epoch, 0.5))
    if recipe.norm_batch_size:
        small["norm_batch_size"] = 4
    if recipe.precise_norm_images:
        small["precise_norm_images"] = 32
    return replace(recipe, **small)


def code_paths(part: Any) -> Any:
    """What is the same for two reduced recipes that run the same code: all but their numbers that are not zero."""
    if is_dataclass(part):
        named = {"name", "dataset", "published"} if isinstance(part, Recipe) else set()
        return type(part).__name__, [
            (field.name, code_paths(getattr(part, field.name))) for field in fields(part) if field.name not in named
        ]
    if isinstance(part, bool | str) or part is None:
        return part
    if isinstance(part, dict):
        return [(key, code_paths(value)) for key, value in sorted(part.items())]
    if part in resnet.LAYOUTS:
        return resnet.LAYOUTS[part][0].__name__  # the depth decides the block
    return (type(part).__name__, part == 0) if isinstance(part, int | float) else [code_paths(one) for one in part]


def main(photos: str, small_images: str, initial_weights: str, out: str) -> None:
    is_main = os.environ["RANK"] == "0"
    starts = itertools.count()
    stopped: dict[str, str] = {}  # code path -> the recipe that is stopped for it
    for name in recipe_names():
        recipe = reduced(load_recipe(name))
        folder = Path(out) / name
        settings = TrainSettings(
            data=small_images if isinstance(recipe.train_crop, PaddedCrop) else photos,
            run_dir=folder / "whole",
            initial_weights=Path(initial_weights) if recipe.fine_tuning else None,
            teacher_weights=Path(initial_weights).with_name("teacher.pt") if recipe.distillation else None,
            workers=1,
            log_every=1,
            checkpoint_steps=1,
        )
        start(recipe, settings, next(starts))
        one = stopped.setdefault(str(code_paths(recipe)), name)
        if one != name:
            if is_main:
                print(
                    json.dumps({"name": name, "as": one, **told(folder / "whole", weights(folder / "whole"))}),
                    flush=True,
                )
                shutil.rmtree(folder)
            continue
        if is_main:  # as if it had been killed after the first step
            shutil.copytree(folder / "whole", folder / "stopped")
            for file in (folder / "stopped" / "checkpoints").glob("*00000002.pt*"):
                file.unlink()
        start(recipe, replace(settings, run_dir=folder / "stopped", pictures=False), next(starts))
        if is_main:
            whole = weights(folder / "whole")
            found = {**told(folder / "whole", whole), **compared(folder / "whole", whole, folder / "stopped")}
            print(json.dumps({"name": name, "as": name, **found}), flush=True)
            shutil.rmtree(folder)


def start(recipe: Recipe, settings: TrainSettings, number: int) -> None:
    os.environ["TORCHELASTIC_RESTART_COUNT"] = str(number)  # names of its own in the store, as torchrun's starts have
    with contextlib.redirect_stdout(io.StringIO()) as said:
        train(recipe, settings)
    print(said.getvalue(), file=sys.stderr)


def told(whole: Path, trained: dict[str, Tensor]) -> dict[str, Any]:
    """That something was trained."""
    story = metrics(whole)
    return {
        "steps": [record["step"] for record in story if record["kind"] == "train"],
        "tensors": len(trained),
        "kinds": sorted({record["kind"] for record in story}),
        "results": 1 + len(json.loads((whole / "result.json").read_text())["also"]),
    }


def compared(whole: Path, first: dict[str, Tensor], stopped: Path) -> dict[str, Any]:
    """What differs. `first`: the weights of `whole`."""
    second = weights(stopped)
    return {
        "different": [key for key in first if key not in second or not first[key].equal(second[key])],
        "same_story": metrics(whole) == metrics(stopped),
        "continued": len(json.loads((stopped / "result.json").read_text())["starts"]),
    }


main(*sys.argv[1:])
