"""A result and its protocol: the words and counts without which an accuracy cannot be compared."""

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from trainer.data.loader import Source
from trainer.evaluation.calibration import BINS, ClassAccuracy, Details
from trainer.recipe import EMA, CenterCrop, Recipe
from trainer.recipe_file import overrides_of
from trainer.run.state import Position


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A result and the count that makes it exact."""

    top1: float  # %
    top5: float  # %; top-k where there are k < 5 classes
    loss: float  # mean cross-entropy, without label smoothing
    seen: int  # different images that were evaluated
    duplicates: int  # images evaluated more than once
    total: int  # images of the data set

    @property
    def coverage(self) -> str:
        return f"{self.seen:,} of {self.total:,} images, {self.duplicates} duplicates"


class EvalResult(NamedTuple):
    """One evaluation of one network: under which protocol, and of which weights."""

    evaluation: Evaluation
    crop: CenterCrop
    weights: str  # in words
    of_run: bool = True  # whether the recipe, with its seed, led to them
    details: Details | None = None  # None: not asked for


def trained_in_words(recipe: Recipe, at: Position, started_from: str, *, norms_measured: bool) -> str:
    """What was trained: for how long and from which start."""
    words = f"weights after {at.step:,} of {recipe.epochs * at.steps_per_epoch:,} steps{started_from}"
    if norms_measured:
        words += f", norms measured over {recipe.precise_norm_images:,} training samples"
    elif recipe.precise_norm_images:
        words += ", norms not measured yet: running averages"
    return words


def averaged_in_words(ema: EMA | None, epochs: float) -> str:
    """What was averaged after so many epochs; None: nothing."""
    if ema is None:
        return "no averaging"
    if epochs <= ema.start_epoch:
        return f"a copy of the weights, whose average begins at epoch {ema.start_epoch:g}"
    return f"exponential moving average (decay {ema.decay:g} every {f'{ema.every} steps' if ema.every > 1 else 'step'})"


def protocol(recipe: Recipe, source: Source, reading: EvalResult) -> str:
    """What the accuracy was measured on and how."""
    crop = reading.crop
    views = "mean logits of two views, the crop and its mirror image" if crop.flip_tta else "one view"
    run = f"1 run, seed {recipe.seed}; " if reading.of_run else ""
    return (
        f"{source.name}: {reading.evaluation.coverage}; {crop_in_words(crop)}, {views}; {reading.weights}; "
        f"{recipe.precision}; {run}data {short(source.checksum)}"
    )


def crop_in_words(crop: CenterCrop) -> str:
    """What is seen of an image."""
    scaled = ", scaled decoding" if crop.scaled_decoding else ""
    return f"{crop.resolution} px, centre crop of {crop.crop_ratio:.3f} x short side{scaled}"


def short(checksum: str) -> str:
    """The kind of a checksum and enough of its digits to tell it from others."""
    kind, _, digits = checksum.partition(":")
    return f"{kind}:{digits[:12]}"


def result(recipe: Recipe, source: Source, readings: list[EvalResult], data: dict[str, str]) -> dict[str, Any]:
    """The passport of a result, for result.json: the first reading, and the others beside it.

    `data`: the checksums of what was trained and evaluated on.
    """
    passports = [{**asdict(reading.evaluation), "protocol": protocol(recipe, source, reading)} for reading in readings]
    return {
        "recipe": recipe.name,
        "seed": recipe.seed,
        **passports[0],
        "also": passports[1:],
        "data": data,
        "changed": overrides_of(recipe),
        "published": asdict(recipe.published) if recipe.published else None,
    }


def report(recipe: Recipe, source: Source, readings: list[EvalResult]) -> str:
    """The result as a short table; further readings in one line each."""
    first = readings[0].evaluation
    rows = [
        ("recipe", recipe.name),
        ("top-1", f"{first.top1:.2f} %"),
        ("top-5", f"{first.top5:.2f} %"),
        ("loss", f"{first.loss:.4f}"),
        *_detail_rows(readings[0].details),
        ("protocol", protocol(recipe, source, readings[0])),
    ]
    for reading in readings[1:]:
        rows.append(("also", f"{reading.evaluation.top1:.2f} % top-1: {protocol(recipe, source, reading)}"))
    if changes := overrides_of(recipe):
        rows.append(("changed", "; ".join(changes)))
    elif published := recipe.published:
        sd = f" +- {published.sd:.2f}" if published.sd is not None else ""
        rows.append(("published", f"{published.top1:.2f} %{sd} ({published.protocol}; {published.source})"))
    return "\n".join(f"  {name:<9} {text}" for name, text in rows)


def printable(name: str, longest: int = 24) -> str:
    """A class's name for a line of text: no control characters, nothing that is not Unicode, not too long."""
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
        rows += [("worst", _in_words(ranked[:few])), ("best", _in_words(ranked[: -few - 1 : -1]))]
    if empty := len(details.classes) - len(seen):
        rows.append(("empty", f"{empty} of {len(details.classes)} classes have no images here"))
    return rows


def _in_words(classes: list[ClassAccuracy]) -> str:
    return ", ".join(f"{printable(one.name)} {one.top1:.1f} % of {one.images:,}" for one in classes)
