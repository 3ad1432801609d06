"""A result and its protocol: the words and counts without which an accuracy cannot be compared."""

from dataclasses import asdict, dataclass
from typing import Any

from trainer.data.loader import Source
from trainer.recipe import Recipe
from trainer.recipe_file import changes_to_named


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


def protocol(recipe: Recipe, source: Source, evaluation: Evaluation, weights: str) -> str:
    """What the accuracy was measured on and how. `weights`: which ones, in words."""
    crop = recipe.eval_crop
    return (
        f"{source.name}: {evaluation.coverage}; {crop.resolution} px, centre crop of {crop.crop_ratio:.3f} x short "
        f"side, one view; {weights}, no averaging; {recipe.precision}; "
        f"1 run, seed {recipe.seed}; data {short(source.checksum)}"
    )


def short(checksum: str) -> str:
    """The kind of a checksum and enough of its digits to tell it from others."""
    kind, _, digits = checksum.partition(":")
    return f"{kind}:{digits[:12]}"


def result(
    recipe: Recipe, source: Source, evaluation: Evaluation, weights: str, data: dict[str, str]
) -> dict[str, Any]:
    """The passport of a result, for result.json. `data`: the checksums of what was trained and evaluated on."""
    return {
        "recipe": recipe.name,
        "seed": recipe.seed,
        **asdict(evaluation),
        "protocol": protocol(recipe, source, evaluation, weights),
        "data": data,
        "changed": changes_to_named(recipe),
        "published": asdict(recipe.published) if recipe.published else None,
    }


def report(recipe: Recipe, source: Source, evaluation: Evaluation, weights: str) -> str:
    """The result as a short table."""
    rows = [
        ("recipe", recipe.name),
        ("top-1", f"{evaluation.top1:.2f} %"),
        ("top-5", f"{evaluation.top5:.2f} %"),
        ("loss", f"{evaluation.loss:.4f}"),
        ("protocol", protocol(recipe, source, evaluation, weights)),
    ]
    if changes := changes_to_named(recipe):
        rows.append(("changed", "; ".join(changes)))
    elif published := recipe.published:
        sd = f" +- {published.sd:.2f}" if published.sd is not None else ""
        rows.append(("published", f"{published.top1:.2f} %{sd} ({published.protocol}; {published.source})"))
    return "\n".join(f"  {name:<9} {text}" for name, text in rows)
