"""Exact top-1, top-5 and loss: every image is evaluated once, on any number of processes.

Nothing is padded: each image's result is stored under its index, with the number of times it was evaluated, and the
report states both. Neither the batches nor the order of summation depends on the number of processes. So on CPUs with
the same number of threads the sums do not depend on it either.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from trainer.data.crop import eval_view
from trainer.data.device import device_batches
from trainer.data.loader import Loader
from trainer.data.order import eval_batches
from trainer.distributed.process_group import World, share_buffers, sum_over_ranks
from trainer.distributed.run_ahead import RunAhead
from trainer.distributed.stop import StopSignal
from trainer.errors import SharedError
from trainer.evaluation.protocol import TrainedWeights
from trainer.evaluation.result import EvalResult, Evaluation
from trainer.precision import autocast
from trainer.recipe import CenterCrop, Recipe


class Predictions(NamedTuple):
    """A network's prediction for each validation image. All arrays have the shape (number of images,)."""

    labels: np.ndarray  # int64
    predicted: np.ndarray  # int64
    confidence: np.ndarray  # float64: the predicted class's softmax


def evaluate_networks(
    networks: dict[str, nn.Module],
    loader: Loader,
    recipe: Recipe,
    world: World,
    stop_signal: StopSignal | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    *,
    crop: CenterCrop | None = None,
) -> dict[str, Evaluation]:
    """Evaluates the centre crop of every image with each network, in one pass over the images.

    The networks are the modules themselves: DDP's wrapper would wait for its peers. `crop`: instead of the recipe's.
    With flip_tta, an image's logits are the mean over both views. All ranks use rank 0's buffers, and every module
    keeps its mode. Called by all ranks together. `on_progress`: see evaluate_images. Raises Stopped on a `stop_signal`,
    and SharedError where logits are not finite, with what a training can do.
    """
    tables = evaluate_images(
        [*networks.values()], loader, recipe, world, crop or recipe.eval_crop, stop_signal, on_progress
    )
    remedy = ": try --precision bf16 in another --run-dir"
    return {name: summarize(table, remedy) for name, table in zip(networks, tables, strict=True)}


def evaluate_images(
    models: Sequence[nn.Module],
    loader: Loader,
    recipe: Recipe,
    world: World,
    crop: CenterCrop,
    stop_signal: StopSignal | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    *,
    predictions: bool = False,
    right: torch.Tensor | None = None,
) -> list[torch.Tensor]:
    """Evaluates every image once with each model. Called by all ranks together.

    Returns for each float64 of shape (images, 4) on the CPU, the same on all ranks: times seen, top-1, top-5, loss.
    With `predictions` there are two more columns: the predicted class and its softmax. `right`: bool of shape (images,
    classes), the correct labels of each image, for the two accuracies; None: its label. `on_progress` is called after
    each batch with about how many images all ranks have read so far, and how many there are. Raises Stopped on a
    `stop_signal`.
    """
    total, columns = len(loader), 6 if predictions else 4
    tables = [torch.zeros(total, columns, dtype=torch.float64, device=world.device) for _ in models]
    batches = eval_batches(total, batch_size=evaluation_batch_size(recipe), rank=world.rank, world_size=world.size)
    crops = loader.batches(batches, eval_view(crop), crop.resolution)
    on_device = device_batches(crops, world.device, recipe.mean, recipe.std, is_ready=lambda: loader.is_ready)
    if stop_signal:
        on_device = stop_signal.watch(on_device)
    for model in models:
        share_buffers(world, model)
    right = None if right is None else right.to(world.device)
    run_ahead = RunAhead(world.device)
    with evaluation_mode(models), torch.inference_mode(), autocast(recipe.precision, world.device):
        for number, (images, labels, indices) in enumerate(on_device, start=1):
            answers = None if right is None else right[indices]
            for model, table in zip(models, tables, strict=True):
                rows = evaluate_batch(model, images, labels, crop, answers, predictions=predictions)
                table.index_add_(0, indices, rows)
            run_ahead.after_batch()
            if on_progress:  # the other ranks are about as far
                on_progress(min(number * evaluation_batch_size(recipe) * world.size, total), total)
    return [sum_over_ranks(world, table) for table in tables]  # a row is zero on all ranks but one


def evaluation_batch_size(recipe: Recipe) -> int:
    """Returns the images of a batch of each rank; the last one of all may be smaller."""
    return max(64, recipe.micro_batch_size)


@contextmanager
def evaluation_mode(models: Sequence[nn.Module]) -> Iterator[None]:
    """Puts the models into evaluation mode within the block, and restores the mode of each module after it."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _logits(model: nn.Module, images: torch.Tensor, crop: CenterCrop) -> torch.Tensor:
    # not model(): a compiled call would round differently from DDP's and from the evaluate command's
    logits: torch.Tensor = model.forward(images).float()
    if crop.flip_tta:
        logits = (logits + model.forward(images.flip(3)).float()) / 2
    return logits


def evaluate_batch(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    crop: CenterCrop,
    right: torch.Tensor | None = None,
    *,
    predictions: bool = False,
) -> torch.Tensor:
    """Computes the columns of evaluate_images for a batch: float64, shape (images, columns).

    `right`: that of these images.
    """
    logits = _logits(model, images, crop)
    best = logits.topk(min(5, logits.shape[1])).indices
    hits = best == labels[:, None] if right is None else right.gather(1, best)
    losses = nn.functional.cross_entropy(logits, labels, reduction="none")
    columns = [torch.ones_like(losses), hits[:, 0].float(), hits.any(dim=1).float(), losses]
    if predictions:
        columns += [best[:, 0].float(), logits.softmax(dim=1).amax(dim=1)]
    return torch.stack(columns, dim=1).double()


def summarize(images: torch.Tensor, remedy: str = "") -> Evaluation:
    """Computes the mean over all rows of evaluate_images.

    Raises SharedError, which ends in `remedy`, for logits not finite.
    """
    times, top1, top5, losses = images[:, :4].unbind(dim=1)
    if wrong := int((~losses.isfinite()).sum()):
        raise SharedError(
            f"the logits of {wrong:,} of {len(images):,} images are not finite: the weights are damaged, or too large "
            f"for their precision{remedy}"
        )
    evaluated = int(times.sum())
    return Evaluation(
        top1=100 * int(top1.sum()) / evaluated,
        top5=100 * int(top5.sum()) / evaluated,
        loss=math.fsum(losses.tolist()) / evaluated,  # exactly rounded, so the order of addition cannot matter
        seen=int((times > 0).sum()),
        duplicates=int((times > 1).sum()),
        total=len(images),
    )


def predict(
    model: nn.Module, loader: Loader, recipe: Recipe, world: World, crop: CenterCrop | None = None
) -> Predictions:
    """Computes the prediction for every image, the same on all ranks. Called by all ranks together.

    `crop`: instead of the recipe's.
    """
    (images,) = evaluate_images([model], loader, recipe, world, crop or recipe.eval_crop, predictions=True)
    return Predictions(loader.source.labels, images[:, 4].long().numpy(), images[:, 5].numpy())


def evaluate_protocols(
    networks: dict[str, nn.Module],
    loader: Loader,
    recipe: Recipe,
    world: World,
    weights: dict[str, TrainedWeights],
    known: dict[str, Evaluation],
    stop_signal: StopSignal,
    on_progress: Callable[[int, int], None],
) -> list[EvalResult]:
    """Evaluates each network at each crop of the recipe.

    The first is the crop of its result, whose evaluations are `known`. `weights`: those that each network has. Raises
    Stopped on request.
    """
    results = {name: [EvalResult(known[name], recipe.eval_crop, weights[name])] for name in networks}
    if other := recipe.also_eval_crop:
        for name, found in evaluate_networks(
            networks, loader, recipe, world, stop_signal, on_progress, crop=other
        ).items():
            results[name].append(EvalResult(found, other, weights[name]))
    return [result for of_network in results.values() for result in of_network]
