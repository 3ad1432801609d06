"""The speed of a whole epoch: its steps, its evaluation and the copy of a save, each measured alone and added up.

Left out is what a window cannot see: the start of each stream of images, recomputing norms, and a disk that is
slower than the evaluation. `train` prints the speed of its real epochs, where all of that counts.
"""

from collections.abc import Generator
from itertools import count
from time import perf_counter
from typing import Any

import numpy as np
import torch

from trainer.commands.benchmark.measure import WARM_UP, Part
from trainer.commands.benchmark.peak import wait_for
from trainer.data.crop import eval_view
from trainer.data.device import DeviceBatch, device_batches
from trainer.data.loader import Loader
from trainer.distributed.process_group import World
from trainer.evaluation.evaluate import evaluate_batch, evaluation_batch_size, evaluation_mode
from trainer.precision import autocast
from trainer.recipe import Recipe
from trainer.run.background import copied
from trainer.run.state import TrainingState


def evaluation_part(recipe: Recipe, loader: Loader, state: TrainingState, world: World) -> Part:
    """The evaluation of all networks, on full batches of the validation images without end."""
    size, models, crop = evaluation_batch_size(recipe), [*state.networks.values()], recipe.eval_crop
    tables = [torch.zeros(len(loader), 4, dtype=torch.float64, device=world.device) for _ in models]

    def batches(_: int) -> Generator[DeviceBatch, None, None]:
        starts = count(world.rank * size, step=world.size * size)
        samples = (np.arange(start, start + size) % len(loader) for start in starts)
        crops = loader.batches(samples, eval_view(crop), crop.resolution)
        with evaluation_mode(models):
            yield from device_batches(crops, world.device, recipe.mean, recipe.std, is_ready=lambda: loader.is_ready)

    def work(batch: DeviceBatch) -> None:
        images, labels, indices = batch
        with torch.inference_mode(), autocast(recipe.precision, world.device):
            for model, table in zip(models, tables, strict=True):
                table.index_add_(0, indices, evaluate_batch(model, images, labels, crop))

    return Part(batches=batches, work=work, images=size, warm_up=WARM_UP)


def seconds_of_copy(state: TrainingState, world: World) -> float:
    """How long training waits for a save: for the copy of its tensors, which a thread then writes."""
    average = state.average.state_dict() if state.average else None
    wait_for(world.device)
    began = perf_counter()
    copied([state.module.state_dict(), average, state.optimizer.state_dict()])
    return perf_counter() - began


def whole_epoch(
    *, images: int, images_per_second: float, evaluated: int, evaluated_per_second: float, copy_seconds: float
) -> dict[str, Any]:
    """The seconds of an epoch with `images` training images and `evaluated` validation images, and its images/s."""
    steps, evaluation = images / images_per_second, evaluated / evaluated_per_second
    return {
        "images_per_second": images / (steps + evaluation + copy_seconds),
        "images": images,
        "evaluated": evaluated,
        "seconds": {"steps": steps, "evaluation": evaluation, "copy": copy_seconds},
    }


def epoch_line(epoch: dict[str, Any]) -> str:
    """One line that states the sum."""
    took = epoch["seconds"]
    return (
        f"whole epoch: {epoch['images_per_second']:,.0f} images/s with evaluation and saving = {epoch['images']:,} "
        f"images / ({took['steps']:,.1f} s of steps + {took['evaluation']:,.1f} s for {epoch['evaluated']:,} "
        f"validation images + {took['copy']:.2f} s for the copy that is saved)"
    )
