"""The same recipe by our trainer and by timm's and torchvision's own pipelines: do the accuracies agree?

    python -m benchmarks.fidelity DATA --out FILE [--beton DIR] [--resolution 128] [--epochs 5] [--seeds 0 1 2]
    python -m benchmarks.fidelity DATA --out FILE --only ours timm --seeds 0      # some of the trainings

DATA: class folders below train/ and val/. ResNet-18 as torchvision starts it; SGD with 0.05, a tenth of it in the last
third of the epochs; momentum 0.9, weight decay 5e-4 on all parameters, batches of 64, random crops of 8 to 100 % of the
area, flips, fp32. The central square is evaluated. Each training is a process of its own with one thread of torch and
one that reads images. It adds a line to FILE. What FILE has is not trained again, so an interrupted run can continue,
and several runs may share the work. The table has the mean and standard deviation of top-1, the difference to ours with
its 95 % interval (Welch), and CPU seconds, evaluations included.
"""

import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import tyro

from benchmarks.fidelity_peers import timm_training, torchvision_training
from benchmarks.table import in_a_process
from trainer.commands.compare.statistics import difference, mean_of
from trainer.errors import UserError
from trainer.recipe import SGD, CenterCrop, CrossEntropy, RandomResizedCrop, Recipe, ResNet, Steps

OURS = "ours"


def main(
    data: tyro.conf.Positional[Path],
    out: Path,
    beton: Path | None = None,
    resolution: int = 128,
    epochs: int = 5,
    seeds: tuple[int, ...] = (0, 1, 2),
    only: tuple[str, ...] = (),
) -> None:
    """Trains what FILE lacks and prints the table. Raises UserError for names and folders that are not there.

    `beton`: folder with train.beton and val.beton of the same images, for one more row; `only`: names of rows.
    """
    classes = len(list((data / "train").glob("*/")))
    if not classes:
        raise UserError(f"{data} has no class folders below train/")
    recipe = fidelity_recipe(resolution, epochs, classes)
    trainings = trainings_of(recipe, data, beton)
    if unknown := set(only) - set(trainings):
        raise UserError(f"no training is called {', '.join(sorted(unknown))}; there are {', '.join(trainings)}")
    for seed in seeds:
        for name in only or trainings:
            key = {"training": name, "resolution": resolution, "epochs": epochs, "seed": seed}
            if not any(key.items() <= found.items() for found in results(out)):
                append(out, key | in_a_process(measure, trainings[name], seed))
    print(table([found for found in results(out) if (found["resolution"], found["epochs"]) == (resolution, epochs)]))


def fidelity_recipe(resolution: int, epochs: int, classes: int) -> Recipe:
    """Of parts that all three have, with the same meaning."""
    return Recipe(
        name="fidelity",
        dataset="class folders",
        published=None,
        model=ResNet(depth=18),
        num_classes=classes,
        train_crop=RandomResizedCrop(resolution=resolution),
        flip=True,
        eval_crop=CenterCrop(resolution=resolution, crop_ratio=1.0),
        loss=CrossEntropy(),
        optimizer=SGD(lr=0.05, momentum=0.9, weight_decay=5e-4),
        schedule=Steps(milestones=(float(epochs - epochs // 3),)),
        epochs=epochs,
        global_batch_size=64,
        micro_batch_size=64,
        precision="fp32",
    )


def trainings_of(recipe: Recipe, data: Path, beton: Path | None) -> dict[str, Callable[[int], float]]:
    """By name: functions of a seed that return top-1 in per cent."""
    found: dict[str, Callable[[int], float]] = {
        OURS: partial(our_training, recipe, data),
        "ours-scaled-decoding": partial(our_training, recipe, data, scaled_decoding=True),
        "torchvision": partial(torchvision_training, recipe, data),
        "torchvision-bicubic": partial(torchvision_training, recipe, data, interpolation="bicubic"),
        "timm": partial(timm_training, recipe, data),
    }
    if beton:
        found["ours-beton"] = partial(our_training, recipe, beton)
    return found


def our_training(recipe: Recipe, data: Path, seed: int, scaled_decoding: bool = False) -> float:
    """Top-1 in per cent by `trainer train`."""
    from trainer.settings import TrainSettings
    from trainer.train import train

    crop = replace(recipe.train_crop, scaled_decoding=scaled_decoding)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainSettings(data=str(data), run_dir=Path(folder), workers=1, pictures=False)
        train(replace(recipe, train_crop=crop, seed=seed), settings)
        return float(json.loads((Path(folder) / "result.json").read_text())["top1"])


def measure(training: Callable[[int], float], seed: int) -> dict[str, Any]:
    """In a process of its own: the result and what it took."""
    import torch

    from trainer.run.commit import commit

    multiprocessing.set_start_method("fork", force=True)  # of DataLoader's workers, as in a script
    torch.set_num_threads(1)
    began = time.monotonic()
    top1 = training(seed)
    used = os.times()
    return {
        "top1": top1,
        "seconds": time.monotonic() - began,
        "cpu_seconds": used.user + used.system + used.children_user + used.children_system,
        "load": os.getloadavg()[0],
        "commit": commit(),
    }


def results(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def append(file: Path, result: dict[str, Any]) -> None:
    with file.open("a") as lines:
        lines.write(json.dumps(result) + "\n")
    print(json.dumps(result), flush=True)


def table(results: list[dict[str, Any]]) -> str:
    """In Markdown."""
    lines = ["| training | n | top-1 | minus ours, 95 % interval | CPU seconds, mean |", "|---|---|---|---|---|"]
    names = dict.fromkeys(row["training"] for row in results)
    top1 = {name: [row["top1"] for row in results if row["training"] == name] for name in names}
    for name, values in top1.items():
        spread, interval = "", ""
        if len(values) > 1:
            spread = f" +- {stdev(values):.2f}"
            between = difference(mean_of(values), mean_of(top1[OURS])) if len(top1.get(OURS, ())) > 1 else None
            interval = f"{between.low:+.2f} to {between.high:+.2f} points" if between and name != OURS else ""
        seconds = mean(row["cpu_seconds"] for row in results if row["training"] == name)
        lines.append(f"| {name} | {len(values)} | {mean(values):.2f}{spread} % | {interval} | {seconds:,.0f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
