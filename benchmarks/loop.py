"""Training side by side: our loop, and bare PyTorch loops of the same model."""

import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from statistics import median

from benchmarks.table import Row, in_a_process, ratio_row
from trainer.benchmark.peers import job
from trainer.recipe import Recipe, ResNet
from trainer.recipe_file import load_recipe

INTERVAL = 5  # steps: the median of the rates over so many counts


def ours(recipe: Recipe, data: str, steps: int) -> float:
    """Images/s of `trainer train` as its log tells them, without the first interval."""
    from trainer.settings import TrainSettings
    from trainer.train import train

    with tempfile.TemporaryDirectory() as folder:
        settings = TrainSettings(data=data, run_dir=Path(folder), log_every=INTERVAL, pictures=False)
        recipe = replace(recipe, epochs=_epochs(recipe, data, steps))
        with contextlib.redirect_stdout(sys.stderr):  # stdout is the table's
            train(recipe, settings)
        return logged_rate(Path(folder))


def logged_rate(run: Path) -> float:
    """The median of the images/s that a run has logged, without the first line's."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return float(median([record["images_per_second"] for record in records if record["kind"] == "train"][1:]))


def _epochs(recipe: Recipe, data: str, steps: int) -> int:
    if data.startswith("synthetic:"):
        return 1
    count = int(json.loads((Path(data) / "train.beton.json").read_text())["count"])
    return max(1, steps * recipe.global_batch_size // count)


def bare_loop(recipe: Recipe, steps: int) -> float:
    """Images/s of a plain loop of the recipe's model, in its precision, on one batch in memory."""
    import torch

    size = recipe.train_crop.resolution
    images = torch.randn(recipe.global_batch_size, 3, size, size)
    labels = torch.randint(recipe.num_classes, (recipe.global_batch_size,))
    images = images.to(memory_format=torch.channels_last)
    return _train(recipe, ((images, labels) for _ in range(steps)), channels_last=True)


def reference_training(recipe: Recipe, folder: Path, workers: int, steps: int) -> float:
    """Images/s of a plain loop in fp32, contiguous, fed by the reference pipeline from the original files."""
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    wanted = job(recipe, folder, workers)
    crop = (
        transforms.RandomResizedCrop(wanted.crop.resolution)
        if isinstance(recipe.model, ResNet)
        else transforms.RandomCrop(wanted.crop.resolution, 4)
    )
    normalise = transforms.Normalize(wanted.mean, wanted.std)
    pipeline = transforms.Compose([crop, transforms.RandomHorizontalFlip(), transforms.ToTensor(), normalise])
    loader = DataLoader(
        datasets.ImageFolder(str(folder), pipeline),
        recipe.global_batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=True,
    )
    batches = (batch for _ in range(steps) for batch in loader)
    return _train(replace(recipe, precision="fp32"), islice(batches, steps), channels_last=False)


def _train(recipe: Recipe, batches: Iterator, *, channels_last: bool) -> float:
    """The bare loop: what a tutorial has."""
    import torch
    from torch.nn.functional import cross_entropy

    from trainer.model import build_model

    model = build_model(recipe.model, recipe.num_classes)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4, fused=True)
    rates, since = [], time.perf_counter()
    for number, (images, labels) in enumerate(batches, start=1):
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bf16"):
            loss = cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if number % INTERVAL == 0:
            loss.item()
            rates.append(INTERVAL * recipe.global_batch_size / (time.perf_counter() - since))
            since = time.perf_counter()
    return median(rates[1:])


def small(name: str, num_classes: int, batch: int) -> Recipe:
    """A recipe of the ledger in one micro-batch, with other classes."""
    return replace(
        load_recipe(name),
        name="benchmark",
        published=None,
        num_classes=num_classes,
        global_batch_size=batch,
        micro_batch_size=batch,
        precise_norm_images=None,
    )


def loop_rows(rounds: int, steps: int) -> list[Row]:
    rows = []
    for name, batch, images in (("resnet20_he2015", 128, 32), ("resnet18_he2015", 32, 224)):
        recipe, data = small(name, 10, batch), f"synthetic:{steps * batch}"
        rates: dict[str, list[float]] = {"ours": [], "bare": []}
        for _ in range(rounds):
            rates["ours"].append(in_a_process(ours, recipe, data, steps))
            rates["bare"].append(in_a_process(bare_loop, recipe, steps))
        what = f"loop, {name.split('_')[0]} at {images} px, batch {batch}, bf16: ours on synthetic images / bare loop"
        rows.append(ratio_row(what, rates["ours"], rates["bare"], 0.98))
    return rows


def end_to_end_row(
    name: str, num_classes: int, batch: int, data: Path, original: Path, target: float, *, rounds: int, steps: int,
    workers: int,
) -> Row:  # fmt: skip
    """Ours from .beton, bf16 and channels-last, beside fp32, contiguous, from the original files through PIL."""
    recipe = small(name, num_classes, batch)
    rates: dict[str, list[float]] = {"ours": [], "reference": []}
    for _ in range(rounds):
        rates["ours"].append(in_a_process(ours, recipe, str(data), steps))
        rates["reference"].append(in_a_process(reference_training, recipe, original, workers, steps))
    what = f"end to end, {name.split('_')[0]}, batch {batch}: ours, bf16 channels-last / reference pipeline, fp32"
    return ratio_row(what, rates["ours"], rates["reference"], target)
