"""The training images of one epoch, as one rank sees them: ordered, cut, augmented, on its device."""

import threading
from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from trainer.data.augment import Augmenter
from trainer.data.crop import train_view
from trainer.data.device import DeviceBatch, device_batches
from trainer.data.loader import Loader
from trainer.data.order import epoch_order, train_batches
from trainer.data.resolution import resolution_at
from trainer.distributed.process_group import World
from trainer.recipe import QuasiRandom, Recipe

_LOCK = threading.Lock()


def train_stream(
    recipe: Recipe,
    loader: Loader,
    world: World,
    *,
    epoch: int,
    accumulation: int,
    first_step: int = 0,
    first_samples: int | None = None,
) -> Iterator[DeviceBatch]:
    """This rank's micro-batches from a step of the epoch on, `accumulation` of them for each step.

    `first_samples`: at most this many, the first of the epoch.
    """
    samples = train_batches(
        _order(recipe, epoch, len(loader))[:first_samples],
        first_step=first_step,
        micro_batch_size=recipe.micro_batch_size,
        accumulation=accumulation,
        rank=world.rank,
        world_size=world.size,
    )
    view = train_view(recipe.train_crop, recipe.flip, recipe.seed, epoch)
    window = None  # micro-batches of this rank in one window of the order
    if recipe.order:
        window = max(1, recipe.order.window * accumulation // recipe.global_batch_size)
    batches = loader.batches(samples, view, resolution_at(recipe, epoch), read_ahead=window)
    augmenter = Augmenter(recipe, epoch)
    return device_batches(batches, world.device, recipe.mean, recipe.std, augmenter, lambda: loader.is_ready)


def prepare_order(recipe: Recipe, loader: Loader, epoch: int) -> None:
    """Begins to make the order of this epoch, if training has it, in a thread: 14 million images take 5 s of a CPU."""
    if epoch < recipe.epochs:
        threading.Thread(target=_order, args=(recipe, epoch, len(loader)), name="order", daemon=True).start()


def _order(recipe: Recipe, epoch: int, count: int) -> np.ndarray:
    with _LOCK:  # whoever needs an order that is being made waits for it
        return _latest_orders(recipe.seed, epoch, count, recipe.repeats, recipe.order)


@lru_cache(maxsize=2)
def _latest_orders(seed: int, epoch: int, count: int, repeats: int, quasi_random: QuasiRandom | None) -> np.ndarray:
    return epoch_order(seed, epoch, count, repeats, quasi_random)
