"""The predict command: names the class of images with a run's weights or a file's."""

import io
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from trainer.commands.weights import Weights, find_weights, load_network
from trainer.data.crop import eval_view
from trainer.data.device import device_batches
from trainer.data.encoded import image_size, read_crop
from trainer.data.images import EXTENSIONS, read_bytes
from trainer.data.listing import list_images
from trainer.data.loader import Batch
from trainer.distributed import process_group
from trainer.distributed.cpus import default_workers
from trainer.distributed.process_group import World
from trainer.errors import UserError, first_line, one_line
from trainer.evaluation.imagenet import class_name, imagenet_classes
from trainer.evaluation.protocol import describe_crop
from trainer.evaluation.result import printable
from trainer.precision import autocast, set_tf32
from trainer.process.rows import hanging, width
from trainer.recipe import CenterCrop, Recipe
from trainer.weights_settings import PredictSettings

STANDARD_INPUT = Path("-")
_NOT_FINITE = "the network's numbers for it are not finite: use a different --checkpoint, or other weights"
_BATCH = 64  # images; also how many names of standard input are read before the first line is printed


def predict_images(settings: PredictSettings) -> int:
    """Prints a line for each image: its most probable classes. An image without an answer is a line on stderr.

    It has none if it cannot be read, or the network computes NaN. Returns the exit code: 2 if there was such an
    image, else 0. Raises UserError if no image can be predicted.
    """
    weights = find_weights(settings.weights, settings.recipe, settings.checkpoint, settings.weights_key)
    recipe = weights.recipe_at_evaluation
    classes = weights.classes or imagenet_classes(recipe) or [f"class {index}" for index in range(recipe.num_classes)]
    found, failed = 0, 0
    with process_group.initialize(settings.device, timeout_minutes=30) as world:
        set_tf32(recipe.precision)
        trained, network = weights.networks[0]  # the one that gives the result
        model = load_network(weights, network, len(classes), world.device).eval()
        protocol = _protocol(weights, recipe, trained.text())
        if sys.stderr.isatty():
            protocol = hanging("", protocol, width())
        print(*weights.notes, protocol, sep="\n", file=sys.stderr, flush=True)
        with ThreadPoolExecutor(settings.workers or default_workers(world.cpus)) as threads:
            names = _names(settings.images)
            while chunk := list(islice(names, _BATCH)):
                read = list(threads.map(lambda path: _read(path, recipe.eval_crop), chunk))
                good = [(path, pixels) for path, pixels in zip(chunk, read, strict=True) if not isinstance(pixels, str)]
                probabilities = iter(_probabilities(model, [pixels for _, pixels in good], recipe, world))
                for path, pixels in zip(chunk, read, strict=True):
                    answer = pixels if isinstance(pixels, str) else next(probabilities)
                    if isinstance(answer, str):
                        print(f"error: {one_line(f'{path}: {answer}')}", file=sys.stderr, flush=True)
                        failed += 1
                    else:
                        line = _as_json if settings.json else _as_text
                        print(line(path, answer, classes, settings.top), flush=True)
                found += len(chunk)
    if not found:
        raise UserError("standard input names no image: give one file per line")
    return 2 if failed else 0


def _protocol(weights: Weights, recipe: Recipe, trained: str) -> str:
    views = ", mean logits of the crop and its mirror image" if recipe.eval_crop.flip_tta else ""
    return f"{weights.file}: {trained}; {describe_crop(recipe.eval_crop)}{views}; {recipe.precision}"


def _names(given: Iterable[Path]) -> Iterator[Path]:
    """The image files: of a folder, all images below it, see list_images; of -, the names on standard input."""
    for path in given:
        if path == STANDARD_INPUT:
            if isinstance(sys.stdin, io.TextIOWrapper):
                sys.stdin.reconfigure(errors="surrogateescape")  # a file's name may be any bytes
            yield from (Path(line.rstrip("\r\n")) for line in sys.stdin if line.strip())
        elif os.path.isdir(path):  # unlike is_dir, it never raises
            images, notes = list_images(path)
            for note in notes:
                print(note, file=sys.stderr, flush=True)
            yield from images or [path]  # without images the folder itself is the one that cannot be read
        else:
            yield path


def _read(path: Path, crop: CenterCrop) -> np.ndarray | str:
    """The crop of the evaluation, uint8 RGB of shape (resolution, resolution, 3); or why it cannot be read."""
    pixels = np.empty((crop.resolution, crop.resolution, 3), np.uint8)
    try:
        if os.path.isdir(path):
            os.listdir(path)  # raises where it cannot be read
            return f"a folder without images ({', '.join(EXTENSIONS)})"
        encoded = read_bytes(path)
        height, width = image_size(encoded)
        boxes = eval_view(crop)(np.arange(1), np.array([height]), np.array([width]))
        read_crop(encoded, (height, width), boxes, 0, pixels)
    except OSError as error:
        if error.strerror:
            return f"cannot be read: {error.strerror}"
        return f"damaged, or not an image: {first_line(error)}"
    except Exception as error:  # Pillow's decoders raise a dozen kinds for bytes that are no image
        return f"damaged, or not an image: {first_line(error)}"
    return pixels


def _probabilities(
    model: nn.Module, images: Sequence[np.ndarray], recipe: Recipe, world: World
) -> list[torch.Tensor | str]:
    """The softmax for each image, float32 of shape (classes,) on the CPU; or why there is none."""
    if not images:
        return []
    count = torch.arange(len(images))
    batch = Batch(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2), count, count)
    (on_device,) = device_batches([batch], world.device, recipe.mean, recipe.std)
    with torch.inference_mode(), autocast(recipe.precision, world.device):
        logits = model(on_device.images).float()
        if recipe.eval_crop.flip_tta:
            logits = (logits + model(on_device.images.flip(3)).float()) / 2
    return [row if row.isfinite().all() else _NOT_FINITE for row in logits.softmax(1).cpu()]


def _as_text(path: Path, probabilities: torch.Tensor, classes: list[str], top: int) -> str:
    """One line: "photo.jpg: tabby (n02123045) 93.1 %, tiger cat (n02123159) 5.0 %"."""
    found = []
    for index, share in _best(probabilities, top):
        name, own = class_name(classes[index]), classes[index]
        found.append(f"{printable(name)}{f' ({own})' if name != own else ''} {100 * share:.1f} %")
    return f"{one_line(str(path))}: {', '.join(found)}"


def _as_json(path: Path, probabilities: torch.Tensor, classes: list[str], top: int) -> str:
    """One JSON object without line ends."""
    found: list[dict[str, Any]] = [
        {"index": index, "class": classes[index], "name": class_name(classes[index]), "probability": share}
        for index, share in _best(probabilities, top)
    ]
    return json.dumps({"image": str(path), "predictions": found}, allow_nan=False)


def _best(probabilities: torch.Tensor, top: int) -> list[tuple[int, float]]:
    best = probabilities.topk(min(top, len(probabilities)))
    return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))
