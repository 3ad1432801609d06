"""What the training loop costs: ours on synthetic images beside a bare PyTorch loop of the same model and precision.

    python benchmarks/loop.py [--rounds 3] [--steps 60]

Both train ResNet-20 at 32 px, batch 96, bf16, channels-last, SGD, in this process, in turn. The bare loop has its
images in memory; ours reads, normalises, logs, saves and counts. Prints images per second and the ratio.
"""

import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
import tyro

from trainer.model import build_model
from trainer.recipe import Recipe
from trainer.recipe_file import load_recipe
from trainer.settings import TrainSettings
from trainer.train import train


def ours(recipe: Recipe, steps: int) -> float:
    """The median rate over the log's intervals."""
    with tempfile.TemporaryDirectory() as folder:
        images = steps * recipe.global_batch_size
        train(recipe, TrainSettings(data=f"synthetic:{images}", run_dir=Path(folder), log_every=10))
        records = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    rates = sorted(record["images_per_second"] for record in records if record["kind"] == "train")
    return rates[len(rates) // 2]


def bare(recipe: Recipe, steps: int) -> float:
    """The median rate over intervals of 10 steps."""
    model = build_model(recipe.model, recipe.num_classes).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True)
    size = recipe.train_crop.resolution
    images = torch.randn(recipe.global_batch_size, 3, size, size).to(memory_format=torch.channels_last)
    labels = torch.randint(recipe.num_classes, (recipe.global_batch_size,))
    rates = []
    for _ in range(steps // 10):
        start = time.perf_counter()
        for _ in range(10):
            with torch.autocast("cpu", torch.bfloat16):
                loss = torch.nn.functional.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        rates.append(10 * recipe.global_batch_size / (time.perf_counter() - start))
    return sorted(rates)[len(rates) // 2]


def main(rounds: int = 3, steps: int = 60) -> None:
    """Trains `steps` steps with each loop in turn, `rounds` times; the best round of each counts."""
    recipe = replace(load_recipe("resnet20_digits"), name="loop", epochs=1, micro_batch_size=96)
    best = {"ours": 0.0, "bare": 0.0}
    for _ in range(rounds):
        best["ours"] = max(best["ours"], ours(recipe, steps))
        best["bare"] = max(best["bare"], bare(recipe, steps))
    for name, rate in best.items():
        print(f"{name:<5} {rate:8.0f} images/s   {rate / best['bare']:.2f}")


if __name__ == "__main__":
    tyro.cli(main)
