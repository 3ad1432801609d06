"""The command evaluate: measures a run's weights or a file's, prints the result and writes an evaluation record."""

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from trainer.commands.evaluate.classes import RestrictedNetwork, class_positions, is_part_of
from trainer.commands.evaluate.real_labels import RealLabels, read_real_labels
from trainer.commands.evaluate.record import write_record
from trainer.commands.out_file import require_folder, require_replaceable
from trainer.commands.weights import Network, Weights, find_weights, load_network
from trainer.data.formats import open_dataset
from trainer.data.listing import composed
from trainer.data.loader import Loader
from trainer.distributed import process_group
from trainer.distributed.cpus import default_workers
from trainer.distributed.process_group import World, on_every_rank, require_same
from trainer.errors import UserError, first_line
from trainer.evaluation.calibration import details
from trainer.evaluation.evaluate import evaluate_images, summarize
from trainer.evaluation.imagenet import imagenet_classes
from trainer.evaluation.protocol import TrainedWeights, WeightsFile
from trainer.evaluation.result import EvalResult, report
from trainer.precision import autocast, set_tf32
from trainer.process.long_task import LongTask
from trainer.recipe import CenterCrop, Recipe
from trainer.weights_settings import EvaluateSettings


def evaluate_weights(settings: EvaluateSettings) -> None:
    """Evaluates a run's weights or a file's, prints the result and writes the evaluation record. Raises UserError."""
    with process_group.initialize(settings.device, timeout_minutes=30) as world:
        evaluate_in(world, settings)


def evaluate_in(world: World, settings: EvaluateSettings) -> None:
    """The same within processes that have found each other. Called by all ranks together."""
    weights = on_every_rank(world, lambda: _find(settings))
    found = f"{weights.file.name} (sha256:{weights.sha256[:12]})"
    require_same(world, "checkpoint", found)  # a run that is still training may save another one
    if world.is_main and weights.notes:
        print(*weights.notes, sep="\n", file=sys.stderr)
    recipe = on_every_rank(world, lambda: _at_protocol(weights, settings))
    set_tf32(recipe.precision)
    with on_every_rank(world, lambda: _open_data(weights, recipe, settings, world)) as loader:
        answers = on_every_rank(world, lambda: _answers(weights, recipe, loader, settings))
        recipe = replace(recipe, num_classes=answers.network_classes)
        results: list[EvalResult] = []
        for trained, network in weights.networks:
            results += _read_in_detail(weights, trained, network, loader, answers, recipe, world)
        here = (weights, recipe, loader.source, results, world)
        place = on_every_rank(world, lambda: write_record(*here, settings) if world.is_main else None)
        if world.is_main:  # after the record, which is there then, whatever becomes of the printing
            print("".join(f"note: {note}\n" for note in loader.source.notes), end="", file=sys.stderr)
            print(f"{report(recipe, loader.source, results)}\n  written   {place}", flush=True)


class Answers(NamedTuple):
    """How a network's outputs correspond to the classes of the images."""

    network_classes: int
    positions: list[int] | None
    """the network's output for each class of the images; None: it has the same classes"""
    real: RealLabels | None
    """None: an image has one correct label"""


def _answers(weights: Weights, recipe: Recipe, loader: Loader, settings: EvaluateSettings) -> Answers:
    """Raises UserError if the classes of the weights are known and the images have others."""
    found = loader.source.classes
    known, data = _known_classes(weights), settings.data or str(weights.data_folder)
    imagenet = imagenet_classes(recipe)
    if known is None and imagenet and is_part_of(found, imagenet):  # else the file may have other classes
        known = imagenet
    positions = class_positions(found, known, data) if known else None
    network_classes = len(known or found)
    real = read_real_labels(settings.real, loader.source, network_classes, positions) if settings.real else None
    return Answers(network_classes, positions, real)


def _read_in_detail(
    weights: Weights,
    trained: TrainedWeights | WeightsFile,
    network: Network,
    loader: Loader,
    answers: Answers,
    recipe: Recipe,
    world: World,
) -> list[EvalResult]:
    """As evaluate_protocols, with each class's accuracy and the calibration if an image has one correct label."""
    model = on_every_rank(world, lambda: load_network(weights, network, recipe.num_classes, world.device))
    real, positions = answers.real, answers.positions
    if positions is not None:
        model = RestrictedNetwork(model, positions).to(world.device)
    crops = [recipe.eval_crop, *([recipe.also_eval_crop] if recipe.also_eval_crop else [])]
    for crop in crops:
        on_every_rank(world, partial(_try_out, model, recipe, crop, world))
    results = []
    for crop in crops:
        (images,) = evaluate_images(
            [model],
            loader,
            recipe,
            world,
            crop,
            on_progress=_lines_of_progress(len(loader)) if world.is_main else None,
            predictions=True,
            right=real.right if real else None,
        )
        if real:
            evaluation = replace(summarize(images[real.right.any(dim=1)]), total=len(images))
            found = None
        else:
            evaluation = summarize(images)
            predicted, confidence = images[:, 4].long().numpy(), images[:, 5].numpy()
            found = details(loader.source.labels, predicted, confidence, loader.source.classes)
        results.append(
            EvalResult(
                evaluation,
                crop,
                trained,
                weights.of_run,
                found,
                restricted_to=len(positions) if positions and len(positions) < answers.network_classes else None,
                real_labels=real.checksum if real else None,
            )
        )
    return results


def _lines_of_progress(images: int) -> Callable[[int, int], None]:
    task = LongTask("evaluating", images, "images")
    return lambda done, _: task.update(done)


def _find(settings: EvaluateSettings) -> Weights:
    """The weights to evaluate. Raises UserError for options that do not apply to them."""
    if settings.out:
        require_folder(settings.out)
        read = (settings.weights, settings.recipe, settings.real, settings.data)
        require_replaceable(settings.out, read=read)
    return find_weights(settings.weights, settings.recipe, settings.checkpoint, settings.weights_key)


def _at_protocol(weights: Weights, settings: EvaluateSettings) -> Recipe:
    """The recipe with the crop of the options, which then is the only one."""
    recipe = weights.recipe_at_evaluation
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
    """The images to evaluate. Raises UserError if it is not known which."""
    data = settings.data or weights.data_folder
    if data is None:
        raise UserError(f"on which images? {weights.file} does not say: add --data DIR")
    if settings.out:
        require_replaceable(settings.out, data=(data,))
    resolution = recipe.eval_crop.resolution
    source = open_dataset(
        data,
        "val",
        num_classes=recipe.num_classes,
        resolution=resolution,
        check_content=world.local_rank == 0,
        class_order=settings.class_order,
        like=_known_classes(weights),
    )
    workers = settings.workers or default_workers(world.cpus)
    return Loader(source, workers=workers, pin_memory=world.device.type == "cuda")


def _known_classes(weights: Weights) -> list[str] | None:
    return [composed(name) for name in weights.classes] if weights.classes else None


def _try_out(model: nn.Module, recipe: Recipe, crop: CenterCrop, world: World) -> None:
    """Runs one empty image first, because some networks take one resolution only."""
    images = torch.zeros(1, 3, crop.resolution, crop.resolution, device=world.device)
    model.eval()
    try:
        with torch.inference_mode(), autocast(recipe.precision, world.device):
            model(images.to(memory_format=torch.channels_last))
    except (AssertionError, RuntimeError, ValueError) as error:  # whatever the network raises
        raise UserError(f"the network does not take images of {crop.resolution} px: {first_line(error)}") from error
