"""The evaluation record: a JSON file of the results, their protocols, the weights, the images and the hardware."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trainer.atomic import replace_text
from trainer.commands.weights import Weights
from trainer.data.loader import Source
from trainer.distributed.process_group import World
from trainer.errors import UserError
from trainer.evaluation.protocol import WeightsFile
from trainer.evaluation.result import EvalResult, record
from trainer.recipe import Recipe
from trainer.recipe_file import overrides_of, recipe_source
from trainer.run.environment import environment
from trainer.settings import TrainSettings
from trainer.weights_settings import EvaluateSettings


def write_record(
    weights: Weights,
    recipe: Recipe,
    source: Source,
    results: list[EvalResult],
    world: World,
    settings: EvaluateSettings,
) -> Path:
    """Writes the evaluation record and returns its path. Raises UserError if it cannot be written."""
    content = evaluation_record(weights, recipe, source, results, world)
    place = settings.out or _default_place(weights, recipe, source, results[0], settings)
    try:
        if not settings.out and not settings.weights.is_file():
            place.parent.mkdir(exist_ok=True)
        replace_text(place, json.dumps(content, indent=2, allow_nan=False) + "\n")
    except OSError as error:
        raise UserError(f"{place} cannot be written ({error.strerror}): use --out FILE") from error
    return place


def evaluation_record(
    weights: Weights,
    recipe: Recipe,
    source: Source,
    results: list[EvalResult],
    world: World,
) -> dict[str, Any]:
    """The first result, with the others in "also". Accuracies, confidences and calibration errors are in %."""
    found = [record(recipe, source, evaluated) for evaluated in results]
    # an evaluation uses none of these three, and the rest does not depend on the settings
    key = results[0].weights.key if isinstance(results[0].weights, WeightsFile) else ""
    here = environment(world, TrainSettings(data="", run_dir=Path()))
    return {
        "recipe": recipe.name,
        "seed": recipe.seed if weights.of_run else None,
        **found[0],
        "also": found[1:],
        "weights": {"file": weights.file.name, "sha256": weights.sha256, "key": key},
        "data": {"name": source.name, "checksum": source.checksum},
        "changed": overrides_of(recipe),
        "published": asdict(recipe.published) if recipe.published else None,
        "ran_on": {
            name: value for name, value in here.items() if name not in ("compile", "cpu_kernels", "deterministic")
        },
    }


def _default_place(
    weights: Weights, recipe: Recipe, source: Source, result: EvalResult, settings: EvaluateSettings
) -> Path:
    """Beside a file, or in a run: one file for each checkpoint, protocol, other data set and --recipe."""
    crop = result.crop
    protocol = f"{crop.resolution}px_{crop.crop_ratio:.3f}{'_flip' if crop.flip_tta else ''}"
    protocol += "_scaled" if crop.scaled_decoding else ""
    protocol += f"_real-{_digits(result.real_labels)}" if result.real_labels else ""
    if weights.data is None or weights.data.get("val") != source.checksum:
        protocol += f"_data-{_digits(source.checksum)}"
    if not settings.weights.is_file():
        return settings.weights / "evaluations" / f"{weights.file.stem}_{protocol}.json"
    protocol += f"_{recipe.precision}"
    protocol += f"_recipe-{_recipe_digits(weights.recipe)}" if settings.recipe else ""
    protocol += f"_{settings.weights_key.replace('/', '_')}" if settings.weights_key else ""
    return settings.weights.with_name(f"{settings.weights.name}_{protocol}.evaluation.json")


def _recipe_digits(recipe: Recipe) -> str:
    return hashlib.sha256(recipe_source(recipe).encode()).hexdigest()[:8]


def _digits(checksum: str) -> str:
    return checksum.rpartition(":")[2][:8]
