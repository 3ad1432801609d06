"""Our accuracy against the published one: whether they can be compared, and whether noise explains the difference."""

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from trainer.commands.compare.run_record import FinishedRun
from trainer.commands.compare.statistics import published_difference
from trainer.recipe import Published, Recipe
from trainer.recipe.datasets import IMAGES
from trainer.recipe_file import load_recipe, override_diff, recipe_names

LAST_EPOCHS = 5  # Goyal et al. 2017, section 5: the median over the last 5 epochs


class PublishedComparison(NamedTuple):
    """How our accuracy compares with the published one."""

    short: str
    """for a table: "+0.03, within noise"; "-" where the two are not compared"""
    text: str
    """the published result, its protocol, and how ours compares or why it does not"""


def published_of(recipe: Recipe) -> Published | None:
    """The published result as this package's recipe states it now; for other recipes, as the run's recipe states it."""
    return load_recipe(recipe.name).published if recipe.name in recipe_names() else recipe.published


def median_of_last(run: FinishedRun) -> float | None:
    """The median top-1 of the last five epochs, in %; None if one of them is not there or was not evaluated."""
    before = run.recipe.epochs - LAST_EPOCHS
    last = {record["epoch"]: record["top1"] for record in run.evaluations if record["epoch"] > before}
    return statistics.median(last.values()) if len(last) == LAST_EPOCHS else None


def against_published(runs: Sequence[FinishedRun]) -> PublishedComparison:
    """Compares runs of one recipe, which differ in their seeds, with its published result, or says why it cannot.

    Within the noise: 0 lies in the 95 % interval of the difference; see published_difference.
    """
    published = published_of(runs[0].recipe)
    if not published:
        return PublishedComparison("-", "none")
    if reason := not_comparable(runs[0], published):
        return PublishedComparison("-", f"{published}: not compared, {reason}")
    values = compared_values(runs, published)
    if not values:
        reason = f"no run of ours has an evaluation of each of its last {LAST_EPOCHS} epochs"
        return PublishedComparison("-", f"{published}: not compared, {reason}")
    delta = f"{statistics.fmean(values) - published.top1:+z.2f}"
    ours = {"median of the last 5": f"ours, median of the last {LAST_EPOCHS} epochs,", "best": "ours, best epoch,"}
    compared = f"{published}: {ours.get(published.statistic or 'final', 'ours')} {delta} points"
    if len(values) < len(runs):
        compared += f" ({len(values)} of {len(runs)} runs)"
    if len(values) == 1:
        return PublishedComparison(f"{delta}, noise unknown", f"{compared}; one run: noise unknown")
    found = published_difference(values, published.top1, published.sd, published.runs)
    if not found:
        equal = f"{len(values)} equal results, published without deviation: noise unknown"
        return PublishedComparison(f"{delta}, noise unknown", f"{compared}; {equal}")
    noise = "the noise" + (", published without deviation, so taken to vary as ours" if published.sd is None else "")
    if not published.runs:
        noise += ", published without number of runs, so taken as one"
    place = "within" if found.holds_zero else "outside"
    return PublishedComparison(f"{delta}, {place} noise", f"{compared} ({found}): {place} {noise}")


def not_comparable(run: FinishedRun, published: Published) -> str | None:
    """Why a run cannot be compared with the published result; None if it can. The recipes' tests cover the rest."""
    recipe, protocol = run.recipe, run.protocol
    if recipe.name not in recipe_names():
        return f"{recipe.name} is a recipe of your own, so its differences are unknown"
    if override_diff(recipe):
        return "the recipe was changed"
    if not published.comparable:
        return f"the protocols differ: {published.incomparable}"
    if run.init_weights.kind != "recipe":
        return f"ours started from {run.init_weights}"
    if (teacher := run.weights.teacher) and teacher.file is not None:
        return f"ours was distilled from {teacher}, which nothing shows to be the source's teacher"
    if run.result["data"]["val"].startswith("synthetic:"):
        return "ours is on labelled noise"
    if protocol.duplicates or protocol.images_seen != protocol.images_total:
        return f"ours is on {protocol.coverage}"
    if recipe.dataset not in IMAGES:
        return f"the size of {recipe.dataset} is not known here"
    training, validation = IMAGES[recipe.dataset]
    if protocol.images_total != validation:
        return f"ours is on {protocol.images_total:,} images, not on the {validation:,} of {recipe.dataset}"
    if run.steps_per_epoch != training // recipe.global_batch_size:
        return f"ours has {run.steps_per_epoch:,} steps in an epoch: not the {training:,} images of {recipe.dataset}"
    return None


def compared_values(runs: Sequence[FinishedRun], published: Published) -> list[float]:
    """Our top-1 by the statistic that was published, in %, for each run that has it; final where none is stated."""
    match published.statistic:
        case "median of the last 5":
            return [median for run in runs if (median := median_of_last(run)) is not None]
        case "best":
            return [max(record["top1"] for record in run.evaluations) for run in runs]
        case "final" | None:
            return [run.top1 for run in runs]
