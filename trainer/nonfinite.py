"""A record for finding out why values are no longer finite: the step, its images, and the ranks concerned."""

import contextlib
import json
import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from trainer.atomic import replace_text
from trainer.data.order import epoch_order, train_batches
from trainer.distributed.process_group import World
from trainer.errors import SharedError
from trainer.recipe import Recipe
from trainer.run.state import Position
from trainer.schedule import lr_of
from trainer.step_metrics import NotFiniteError

FILE = "not_finite.json"


@contextlib.contextmanager
def dump_nonfinite_step(folder: Path, recipe: Recipe, world: World, at: Position, images: int) -> Iterator[None]:
    """On a NotFiniteError in the block, writes FOLDER/not_finite.json and names that file in the error on all ranks.

    `images`: the number of training images.
    """
    try:
        yield
    except NotFiniteError as error:
        if world.is_main:
            with contextlib.suppress(OSError):  # a full disk must not hide the error
                replace_text(folder / FILE, json.dumps(_record(error, recipe, world, at, images), indent=1) + "\n")
        raise SharedError(f"{error}; its images, losses and loss scales are in {folder / FILE}") from error


def _record(error: NotFiniteError, recipe: Recipe, world: World, at: Position, images: int) -> dict[str, Any]:
    step = error.latest[-1].step - 1
    epoch = step / at.steps_per_epoch
    affected = [rank for rank, loss in enumerate(error.losses) if not math.isfinite(loss)] or [*range(world.size)]
    return {
        "what": error.what,
        "step": step + 1,
        "epoch": round(epoch, 6),
        "lr": lr_of(recipe, epoch),
        "ranks": [
            {
                "rank": rank,
                "loss": _number(error.losses[rank]),
                "images": images_of(recipe, world.size, step, at.steps_per_epoch, images, rank).tolist(),
            }
            for rank in affected
        ],
        "steps": [{name: _number(value) for name, value in record._asdict().items()} for record in error.latest],
    }


def images_of(recipe: Recipe, world_size: int, step: int, steps_per_epoch: int, count: int, rank: int) -> np.ndarray:
    """The images that a rank saw in the step after `step` complete ones: its micro-batches in order."""
    epoch, batch = divmod(step, steps_per_epoch)
    accumulation = recipe.accumulation(world_size)
    batches = train_batches(
        epoch_order(recipe.seed, epoch, count, recipe.repeats, recipe.order),
        first_step=batch,
        micro_batch_size=recipe.micro_batch_size,
        accumulation=accumulation,
        rank=rank,
        world_size=world_size,
    )
    return np.concatenate([*islice(batches, accumulation)]) % count


def _number(value: float) -> float | str:
    """A number for JSON, which has no NaN and no infinity."""
    return value if math.isfinite(value) else str(value)
