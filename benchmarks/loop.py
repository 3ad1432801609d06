"""Training side by side: our loop, and bare PyTorch loops of the same model."""

import os
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path

from benchmarks.in_turn import Tick, in_turn
from benchmarks.table import Row, pairs_row
from trainer.commands.benchmark.peers import job
from trainer.process.huge_pages import TUNABLE
from trainer.recipe import Recipe, ResNet
from trainer.recipe_file import load_recipe

LONG = 1000  # epochs: more than is measured
HUGE_PAGES = {"GLIBC_TUNABLES": f"{TUNABLE}=1"}  # as python -m trainer starts itself


def ours(recipe: Recipe, data: str, run_dir: Path, steps: int, tick: Tick) -> None:
    """`trainer train`. An interval with an evaluation in it does not count: the others evaluate nothing."""
    from trainer import train
    from trainer.log.lines import LogLines
    from trainer.run.state import Position
    from trainer.settings import TrainSettings

    class TickingLines(LogLines):
        def after_step(self, at: Position, lr: float) -> None:
            super().after_step(at, lr)
            if at.step % steps == 0:
                tick(at.batch > steps)  # else the last epoch's evaluation was in it

    train.LogLines = TickingLines  # type: ignore[attr-defined]
    settings = TrainSettings(data=data, run_dir=run_dir, log_every=steps, pictures=False)
    train.train(replace(recipe, epochs=LONG), settings)


def ours_on_ranks(recipe: Recipe, data: str, run_dir: Path, steps: int, processes: int, tick: Tick) -> None:
    """`trainer train` in so many processes, which share the batch and the cores."""
    import torch

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    recipe = replace(recipe, micro_batch_size=recipe.global_batch_size // processes)
    threads = max(1, len(os.sched_getaffinity(0)) // processes)
    sizes = {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "OMP_NUM_THREADS": threads}
    torch.set_num_threads(threads)  # of this process, where OpenMP has read its variable already
    for rank in reversed(range(processes)):
        here = {"RANK": rank, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, **sizes}
        os.environ.update({name: str(value) for name, value in here.items()})  # torchrun's
        if rank:
            target, arguments = ours, (recipe, data, run_dir, steps, _no_tick)
            get_context("spawn").Process(target=target, args=arguments, daemon=True).start()
    ours(recipe, data, run_dir, steps, tick)


def _no_tick(counts: bool) -> None:
    """Rank 0 ends the intervals."""


def bare_loop(recipe: Recipe, steps: int, tick: Tick) -> None:
    """A plain loop of the recipe's model, in its precision, on one batch in memory."""
    import torch

    size = recipe.train_crop.resolution
    images = torch.randn(recipe.global_batch_size, 3, size, size)
    labels = torch.randint(recipe.num_classes, (recipe.global_batch_size,))
    images = images.to(memory_format=torch.channels_last)
    _train(recipe, repeat((images, labels)), steps, tick, channels_last=True)


def reference_training(recipe: Recipe, folder: Path, workers: int, steps: int, tick: Tick) -> None:
    """A plain loop in fp32, contiguous, fed by the reference pipeline from the original files."""
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
    batches = (batch for _ in range(LONG) for batch in loader)
    _train(replace(recipe, precision="fp32"), batches, steps, tick, channels_last=False)


def _train(recipe: Recipe, batches: Iterator, steps: int, tick: Tick, *, channels_last: bool) -> None:
    """The bare loop: what a tutorial has."""
    import torch
    from torch.nn.functional import cross_entropy

    from trainer.cpu.accelerate import accelerate
    from trainer.model import build_model

    model = build_model(recipe.model, recipe.num_classes)
    if channels_last:  # the network of `ours`: what is compared is the loop around it
        model = model.to(memory_format=torch.channels_last)
        accelerate(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4, fused=True)
    for number, (images, labels) in enumerate(batches, start=1):
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bf16"):
            loss = cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if number % steps == 0:
            loss.item()
            tick(True)


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


def loop_rows(intervals: int) -> Iterator[Row]:
    for name, batch, images, steps in (("resnet20_he2015", 128, 32, 20), ("resnet18_he2015", 32, 224, 5)):
        recipe, data = small(name, 10, batch), f"synthetic:{2 * intervals * steps * batch}"
        with tempfile.TemporaryDirectory() as folder:
            programs = {
                "ours": partial(ours, recipe, data, Path(folder), steps),
                "bare": partial(bare_loop, recipe, steps),
            }
            seconds = in_turn(programs, intervals, dict.fromkeys(programs, HUGE_PAGES))
        what = f"loop, {name.split('_')[0]} at {images} px, batch {batch}, bf16: ours on synthetic images / bare loop"
        yield pairs_row(what, seconds["ours"], seconds["bare"], steps * batch, 0.98)


def ranks_row(data: Path, intervals: int) -> Row:
    recipe, steps = small("resnet20_he2015", 10, 128), 20
    with tempfile.TemporaryDirectory() as folder:
        programs = {
            number: partial(ours_on_ranks, recipe, str(data), Path(folder) / number, steps, int(number))
            for number in "21"
        }
        seconds = in_turn(programs, intervals, dict.fromkeys(programs, HUGE_PAGES))
    what = "ResNet-20 end to end: 2 processes / 1 process, same cores, same global batch"
    return pairs_row(what, seconds["2"], seconds["1"], steps * recipe.global_batch_size, 0.95)


def end_to_end_rows(
    name: str, num_classes: int, batch: int, data: Path, original: Path, *, target: float, intervals: int, workers: int
) -> list[Row]:
    """Ours from .beton, bf16 and channels-last, beside fp32, contiguous, from the original files through PIL."""
    recipe = small(name, num_classes, batch)
    steps = 5 if isinstance(recipe.model, ResNet) else 20
    with tempfile.TemporaryDirectory() as folder:
        words = (recipe, str(data))
        programs = {
            "in one process": partial(ours, *words, Path(folder) / "1", steps),
            "in two": partial(ours_on_ranks, *words, Path(folder) / "2", steps, 2),
            "reference": partial(reference_training, recipe, original, workers, steps),
        }
        seconds = in_turn(programs, intervals, {"in one process": HUGE_PAGES, "in two": HUGE_PAGES})
    theirs = seconds.pop("reference")
    what = f"end to end, {name.split('_')[0]}, batch {batch}: ours, bf16 channels-last, {{}} / reference pipeline, fp32"
    return [pairs_row(what.format(how), mine, theirs, steps * batch, target) for how, mine in seconds.items()]
