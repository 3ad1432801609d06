"""Exact top-1, top-5 and loss: every image once on any number of processes, on the buffers that are saved.

Nothing is padded and nothing assumed: each image's result is stored under its index, together with how often it was
seen, and the report says so. The batches, and the order in which the results are added, do not depend on the number of
processes; so on CPUs with the same number of threads neither do the sums.
"""

import math
import sys
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from trainer.commands.evaluate.record import write_passport
from trainer.commands.weights import Network, Weights, file_weights, load_network, run_weights
from trainer.data.anywhere import open_anywhere
from trainer.data.crop import eval_view
from trainer.data.device import device_batches
from trainer.data.loader import Loader, Source, default_workers
from trainer.data.order import eval_batches
from trainer.distributed import process_group
from trainer.distributed.process_group import World, on_every_rank, require_same, share_buffers, sum_over_ranks
from trainer.distributed.stop import Requests
from trainer.errors import UserError, first_line
from trainer.evaluation.calibration import details
from trainer.evaluation.result import Evaluation, Reading, report
from trainer.precision import allow_tensor_float, autocast
from trainer.recipe import CenterCrop, Recipe
from trainer.run.directory import Run
from trainer.settings import EvaluateSettings


def evaluate(
    model: nn.Module,
    loader: Loader,
    recipe: Recipe,
    world: World,
    crop: CenterCrop | None = None,
    requests: Requests | None = None,
) -> Evaluation:
    """Evaluates the centre crop of every image. `model` is the module itself: DDP's wrapper would wait for its peers.

    `crop`: another one than the recipe's. With flip_tta an image's logits are the mean of both views'. Ranks other than
    0 get rank 0's buffers; the modules keep the modes they are in. Called by all ranks together. `requests`: raises
    Stopped when they ask for it.
    """
    return _summary(_answers(model, loader, recipe, world, crop or recipe.eval_crop, requests))


def _answers(
    model: nn.Module,
    loader: Loader,
    recipe: Recipe,
    world: World,
    crop: CenterCrop,
    requests: Requests | None = None,
    *,
    predictions: bool = False,
) -> torch.Tensor:
    """What the network made of each image: float64, on the CPU, the same on all ranks, a row for each image.

    Columns: times seen, top-1, top-5, loss; with `predictions` also the predicted class and its softmax.
    """
    share_buffers(world, model)
    total = len(loader)
    top_k = min(5, recipe.num_classes)
    table = torch.zeros(total, 6 if predictions else 4, dtype=torch.float64, device=world.device)
    batch_size = max(64, recipe.micro_batch_size)
    batches = eval_batches(total, batch_size=batch_size, rank=world.rank, world_size=world.size)
    crops = loader.batches(batches, eval_view(crop), crop.resolution)
    on_device = device_batches(crops, world.device, recipe.mean, recipe.std)
    if requests:
        on_device = requests.watch(on_device, rounds=math.ceil(total / (batch_size * world.size)))
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    forward = model.forward  # not the model: what one process has compiled, several have not, and `evaluate` has not
    with torch.inference_mode(), autocast(recipe.precision, world.device):
        for images, labels, indices in on_device:
            logits = forward(images).float()
            if crop.flip_tta:
                logits = (logits + forward(images.flip(3)).float()) / 2
            best = logits.topk(top_k).indices
            hits = best == labels[:, None]
            losses = nn.functional.cross_entropy(logits, labels, reduction="none")
            columns = [torch.ones_like(losses), hits[:, 0].float(), hits.any(dim=1).float(), losses]
            if predictions:
                columns += [best[:, 0].float(), logits.softmax(dim=1).amax(dim=1)]
            table.index_add_(0, indices, torch.stack(columns, dim=1).double())
    for module, training in modes:
        module.training = training
    return sum_over_ranks(world, table)  # a row is zero on all ranks but one


def _summary(answers: torch.Tensor) -> Evaluation:
    times, top1, top5, losses = answers[:, :4].unbind(dim=1)
    if wrong := int((~losses.isfinite()).sum()):
        raise UserError(
            f"the logits of {wrong:,} of {len(answers):,} images are not finite: the weights are damaged, or too large "
            f"for their precision: try --precision bf16 in another --run-dir"
        )
    evaluated = int(times.sum())
    return Evaluation(
        top1=100 * int(top1.sum()) / evaluated,
        top5=100 * int(top5.sum()) / evaluated,
        loss=math.fsum(losses.tolist()) / evaluated,  # exactly rounded, so the order of addition cannot matter
        seen=int((times > 0).sum()),
        duplicates=int((times > 1).sum()),
        total=len(answers),
    )


def read_all(
    model: nn.Module,
    loader: Loader,
    recipe: Recipe,
    world: World,
    weights: str,
    known: Evaluation,
    requests: Requests,
) -> list[Reading]:
    """The reading under each protocol of the recipe, that of its result first, whose evaluation is `known`.

    `weights`: what `model` is, in words. Raises Stopped when asked to.
    """
    readings = [Reading(known, recipe.eval_crop, weights)]
    if other := recipe.also_eval_crop:
        readings.append(Reading(evaluate(model, loader, recipe, world, other, requests), other, weights))
    return readings


def evaluate_weights(settings: EvaluateSettings) -> None:
    """Evaluates a run's weights or a file's, prints the result and writes its passport. Raises UserError."""
    with process_group.world(settings.device, timeout_minutes=30) as world:
        weights = on_every_rank(world, lambda: _find(settings))
        found = f"{weights.file.name} (sha256:{weights.sha256[:12]})"
        require_same(world, "checkpoint", found)  # a run may be going on
        if world.is_main and weights.notes:
            print(*weights.notes, sep="\n", file=sys.stderr)
        recipe = on_every_rank(world, lambda: _at_protocol(weights, settings))
        allow_tensor_float(recipe.precision)
        with on_every_rank(world, lambda: _open_data(weights, recipe, settings, world)) as loader:
            recipe = replace(recipe, num_classes=len(loader.source.classes))
            readings: list[Reading] = []
            for averaged, network in weights.networks.items():
                words = f"{weights.trained}{_chosen(weights, loader.source)}{averaged}"
                readings += _read_in_detail(weights, network, loader, recipe, world, words)
            if world.is_main:
                print(report(recipe, loader.source, readings), flush=True)
            here = (weights, recipe, loader.source, readings, world)
            on_every_rank(world, lambda: write_passport(*here, settings) if world.is_main else None)


def _read_in_detail(
    weights: Weights, network: Network, loader: Loader, recipe: Recipe, world: World, words: str
) -> list[Reading]:
    """As read_all, with the accuracy of each class and the calibration. `words`: what `network` is."""
    model = on_every_rank(world, lambda: load_network(weights, network, recipe.num_classes, world.device))
    crops = [recipe.eval_crop, *([recipe.also_eval_crop] if recipe.also_eval_crop else [])]
    for crop in crops:
        on_every_rank(world, partial(_try_out, model, recipe, crop, world))
    readings = []
    for crop in crops:
        answers = _answers(model, loader, recipe, world, crop, predictions=True)
        predicted, confidence = answers[:, 4].long().numpy(), answers[:, 5].numpy()
        found = details(loader.source.labels, predicted, confidence, loader.source.classes)
        readings.append(Reading(_summary(answers), crop, words, weights.of_run, found))
    return readings


def _find(settings: EvaluateSettings) -> Weights:
    """What is evaluated; options that it has no use for are said to be."""
    if settings.out and not settings.out.absolute().parent.is_dir():
        raise UserError(f"--out {settings.out}: there is no folder {settings.out.parent}")
    if not settings.weights.is_file():
        if settings.recipe:
            raise UserError(
                f"--recipe {settings.recipe} is for a file: {settings.weights} is none, and a run has its own"
            )
        return run_weights(Run(settings.weights), settings.checkpoint)
    if settings.checkpoint == "best":
        raise UserError(f"--checkpoint best chooses among the checkpoints of a run, and {settings.weights} is a file")
    return file_weights(settings.weights, settings.recipe)


def _at_protocol(weights: Weights, settings: EvaluateSettings) -> Recipe:
    """The recipe with the crop that was asked for. Where one was, it is the only one."""
    recipe = weights.recipe
    if weights.file.suffix == ".onnx":
        recipe = replace(recipe, precision="fp32")  # what the file says, whatever the recipe trains with
    flip_tta = settings.flip_tta if settings.flip_tta or settings.no_flip_tta else None
    scaled = settings.scaled_decoding if settings.scaled_decoding or settings.no_scaled_decoding else None
    asked = {
        "resolution": settings.resolution,
        "crop_ratio": settings.crop_ratio,
        "flip_tta": flip_tta,
        "scaled_decoding": scaled,
    }
    changes: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    try:
        return (
            replace(recipe, eval_crop=replace(recipe.eval_crop, **changes), also_eval_crop=None) if changes else recipe
        )
    except ValueError as error:
        raise UserError(str(error)) from error


def _open_data(weights: Weights, recipe: Recipe, settings: EvaluateSettings, world: World) -> Loader:
    """The validation images, with the same classes as the weights, as far as those are known."""
    data = settings.data or weights.data_folder
    if data is None:
        raise UserError(f"on which images? {weights.file} does not say: add --data DIR")
    resolution = recipe.eval_crop.resolution
    source = open_anywhere(
        data, "val", num_classes=recipe.num_classes, resolution=resolution, check_content=world.local_rank == 0
    )
    known = weights.classes
    if known is not None and source.classes != known:
        source.close()
        raise UserError(f"{data} has other classes than the weights: {_differ(source.classes, known)}")
    workers = settings.workers or default_workers(world.local_size)
    return Loader(source, workers=workers, pin_memory=world.device.type == "cuda")


def _differ(here: list[str], known: list[str]) -> str:
    if len(here) != len(known):
        return f"{len(here)} instead of {len(known)}"
    which = next(index for index in range(len(here)) if here[index] != known[index])
    return f"class {which} is {here[which]!r} instead of {known[which]!r}"


def _try_out(model: nn.Module, recipe: Recipe, crop: CenterCrop, world: World) -> None:
    """One empty image, before all the others: some networks are for one resolution only."""
    images = torch.zeros(1, 3, crop.resolution, crop.resolution, device=world.device)
    model.eval()
    try:
        with torch.inference_mode(), autocast(recipe.precision, world.device):
            model(images.to(memory_format=torch.channels_last))
    except (AssertionError, RuntimeError, ValueError) as error:  # whatever the network itself says
        raise UserError(f"the network does not take images of {crop.resolution} px: {first_line(error)}") from error


def _chosen(weights: Weights, source: Source) -> str:
    if weights.is_best is None:
        return ", of an epoch that may have been chosen"
    if not weights.is_best:
        return ""
    same = weights.data is not None and weights.data.get("val") == source.checksum
    return f", the best epoch on {'these images and so optimistic' if same else 'other images'}"
