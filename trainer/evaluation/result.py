"""A result with its protocol, without which an accuracy cannot be compared: its record and its report."""

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from trainer.data.loader import Source
from trainer.evaluation.calibration import BINS, ClassAccuracy, Details
from trainer.evaluation.protocol import (
    Averaging,
    Protocol,
    Selection,
    TrainedWeights,
    WeightMean,
    WeightsFile,
    coverage_text,
)
from trainer.process.rows import rows
from trainer.recipe import CenterCrop, Recipe
from trainer.recipe_file import overrides_of
from trainer.run.init_weights import InitWeights
from trainer.run.state import Position
from trainer.run.teacher import Teacher

FEW_CLASSES = 10  # top-5 of so few classes says little: it is recorded but not shown


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The accuracy and the loss of one evaluation, with the counts that show they are exact."""

    top1: float  # %
    top5: float  # %; top-k where there are k < 5 classes
    loss: float  # mean cross-entropy, without label smoothing
    seen: int  # different images that were evaluated
    duplicates: int  # images evaluated more than once
    total: int  # images of the data set

    @property
    def coverage(self) -> str:
        return coverage_text(seen=self.seen, total=self.total, duplicates=self.duplicates)


class EvalResult(NamedTuple):
    """One evaluation of one network: its numbers, the crop, and the weights."""

    evaluation: Evaluation
    crop: CenterCrop
    weights: TrainedWeights | WeightsFile
    of_run: bool = True  # whether the weights come from this recipe with its seed
    details: Details | None = None  # None: not asked for
    restricted_to: int | None = None  # as Protocol's fields of these names
    real_labels: str | None = None


def trained_weights(
    recipe: Recipe,
    at: Position,
    init_weights: InitWeights,
    *,
    norms_measured: bool,
    averaged: bool,
    of_run: bool = True,
    selection: Selection = "newest",
    selected_on: str | None = None,
    teacher: Teacher | None = None,
) -> TrainedWeights:
    """Returns the facts about weights at this position. `averaged`: those of the recipe's EMA or SWA.

    `of_run`: whether the recipe is the run's own; if not, it does not say how long the training was.
    """
    averaging: Averaging | WeightMean | None = None
    if averaged and recipe.ema:
        averaging = Averaging.of(recipe.ema, at.epochs)
    elif averaged and recipe.swa:
        averaging = WeightMean.of_swa(recipe.swa, at.epochs)
    pending = of_run and recipe.precise_norm_images is not None
    return TrainedWeights(
        step=at.step,
        steps=recipe.epochs * at.steps_per_epoch if of_run else None,
        epoch=at.epochs,
        init_weights=init_weights,
        norms="measured" if norms_measured else "not measured yet" if pending else "running averages",
        norm_images=recipe.precise_norm_images if norms_measured and of_run else None,
        averaging=averaging,
        selection=selection,
        selected_on=selected_on,
        teacher=teacher,
    )


def protocol(recipe: Recipe, source: Source, evaluated: EvalResult) -> Protocol:
    """Returns what the accuracy was measured on, and how."""
    evaluation, crop = evaluated.evaluation, evaluated.crop
    return Protocol(
        dataset=source.name,
        checksum=source.checksum,
        images_seen=evaluation.seen,
        images_total=evaluation.total,
        duplicates=evaluation.duplicates,
        resolution=crop.resolution,
        crop_ratio=crop.crop_ratio,
        scaled_decoding=crop.scaled_decoding,
        views=2 if crop.flip_tta else 1,
        precision=recipe.precision,
        seed=recipe.seed if evaluated.of_run else None,
        weights=evaluated.weights,
        restricted_to=evaluated.restricted_to,
        real_labels=evaluated.real_labels,
    )


def record(recipe: Recipe, source: Source, evaluated: EvalResult) -> dict[str, Any]:
    """Returns an evaluation for a JSON file: numbers, protocol as fields, and the protocol as a sentence for people."""
    evaluation, measured = evaluated.evaluation, protocol(recipe, source, evaluated)
    return {
        "top1": evaluation.top1,
        "top5": evaluation.top5,
        "loss": evaluation.loss,
        "protocol": measured.to_dict(),
        "protocol_text": measured.text(),
        **(asdict(evaluated.details) if evaluated.details else {}),
    }


def result(recipe: Recipe, source: Source, results: list[EvalResult], data: dict[str, str]) -> dict[str, Any]:
    """Returns the content of result.json: the first result, and the others in "also".

    `data`: the checksums of the training and the validation images.
    """
    first, *others = (record(recipe, source, evaluated) for evaluated in results)
    return {
        "recipe": recipe.name,
        "seed": recipe.seed,
        **first,
        "also": others,
        "data": data,
        "changed": overrides_of(recipe),
        "published": asdict(recipe.published) if recipe.published else None,
    }


def report(recipe: Recipe, source: Source, results: list[EvalResult]) -> str:
    """Formats the result as a short table, with one line for each further result."""
    first = results[0].evaluation
    named = [
        ("recipe", recipe.name),
        ("top-1", f"{first.top1:.2f} %"),
        *([("top-5", f"{first.top5:.2f} %")] if len(source.classes) > FEW_CLASSES else []),
        ("loss", f"{first.loss:.4f}"),
        *_detail_rows(results[0].details),
        ("protocol", protocol(recipe, source, results[0]).text()),
    ]
    for evaluated in results[1:]:
        measured = protocol(recipe, source, evaluated)
        named.append(("also", f"{evaluated.evaluation.top1:.2f} % top-1: {measured.text()}"))
    if changes := overrides_of(recipe):
        named.append(("changed", "; ".join(changes)))
    elif recipe.published:
        named.append(("published", str(recipe.published)))
    return rows(named)


def printable(name: str, longest: int = 24) -> str:
    """Returns a class's name for one line of text: printable characters only, and not too long."""
    clean = "".join(letter if letter.isprintable() else "?" for letter in name)
    return clean if len(clean) <= longest else f"{clean[: longest - 2]}.."


def _detail_rows(details: Details | None) -> list[tuple[str, str]]:
    if details is None:
        return []
    seen = [one for one in details.classes if one.images]
    ranked = sorted(seen, key=lambda one: one.top1 or 0.0)  # stable: equals stay in the order of the classes
    few = min(5, len(ranked) // 2)
    rows = [("ECE", f"{details.ece:.2f} % (expected calibration error, {BINS} bins)")]
    if few:
        rows += [("worst", _listed(ranked[:few])), ("best", _listed(ranked[: -few - 1 : -1]))]
    if empty := len(details.classes) - len(seen):
        rows.append(("empty", f"{empty} of {len(details.classes)} classes have no images here"))
    return rows


def _listed(classes: list[ClassAccuracy]) -> str:
    return ", ".join(f"{printable(one.name)} {one.top1:.1f} % of {one.images:,}" for one in classes)
