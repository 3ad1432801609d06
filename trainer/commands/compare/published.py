"""Ours against the published number: whether the two can be compared at all, and whether they differ by noise."""

import re
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from trainer.commands.compare.run_record import FinishedRun
from trainer.commands.compare.statistics import difference, mean_of, published_mean
from trainer.recipe import Published, Recipe
from trainer.recipe.datasets import IMAGES
from trainer.recipe_file import load_recipe, overrides_of, recipe_names

LAST_EPOCHS = 5  # Goyal et al. 2017, section 5: the median over the last 5 epochs


class Verdict(NamedTuple):
    """How ours compares with the published number."""

    short: str
    """for a table: "+0.03, within noise"; "-" where it is not compared"""
    words: str
    """the published number, its protocol, and how ours compares or why it does not"""


def published_of(recipe: Recipe) -> Published | None:
    """The published result of a recipe of this package, as it is known today; for others, as the run has it."""
    return load_recipe(recipe.name).published if recipe.name in recipe_names() else recipe.published


def changed(recipe: Recipe) -> list[str]:
    """What differs from the recipe of this name, but for the seed and the words about the published result."""
    return [change for change in overrides_of(recipe) if not change.startswith("published")]


def median_of_last(run: FinishedRun) -> float | None:
    """The median top-1 of the last five epochs, in %; None where there were fewer."""
    last = [record["top1"] for record in run.evaluations[-LAST_EPOCHS:]]
    return statistics.median(last) if len(last) == LAST_EPOCHS else None


def against_published(runs: Sequence[FinishedRun]) -> Verdict:
    """Says how runs of one recipe, which differ by their seeds, compare with its published result, or why they do not.

    Within the noise: 0 lies in Welch's 95 % interval of the difference. A published result without a deviation is taken
    as exact, so that only our noise counts; one without a number of runs as one run.
    """
    published = published_of(runs[0].recipe)
    if not published:
        return Verdict("-", "none")
    sd = f" +- {published.sd:.2f}" if published.sd is not None else ""
    stated = f"{published.top1:.2f}{sd} % ({published.protocol}; {published.source})"
    if reason := not_comparable(runs[0], published):
        return Verdict("-", f"{stated}: not compared, {reason}")
    by_median = "median of the last 5 epochs" in published.protocol
    values = [value for run in runs if (value := median_of_last(run) if by_median else run.top1) is not None]
    if not values:
        return Verdict("-", f"{stated}: not compared, ours has fewer than {LAST_EPOCHS} epochs to take the median of")
    delta = f"{statistics.fmean(values) - published.top1:+z.2f}"
    said = f"{stated}: {'ours, median of the last 5 epochs,' if by_median else 'ours'} {delta} points"
    if len(values) == 1:
        return Verdict(f"{delta}, noise unknown", f"{said}; one run: noise unknown")
    stated_runs = runs_stated(published)
    found = difference(mean_of(values), published_mean(published.top1, published.sd, stated_runs))
    if not found:
        equal = f"{len(values)} equal results, published without deviation: noise unknown"
        return Verdict(f"{delta}, noise unknown", f"{said}; {equal}")
    noise = "the noise" if published.sd is not None else "our noise, published without deviation"
    if published.sd is not None and not stated_runs:
        noise += ", published without number of runs, so taken as one"
    place = "within" if found.holds_zero else "outside"
    interval = f"(95 % interval {found.low:+z.2f} to {found.high:+z.2f})"
    return Verdict(f"{delta}, {place} noise", f"{said} {interval}: {place} {noise}")


def not_comparable(run: FinishedRun, published: Published) -> str | None:
    """Why a run cannot be held against the published result; None where it can. The recipes' tests hold the rest."""
    if run.recipe.name not in recipe_names():
        return f"{run.recipe.name} is a recipe of your own, and nobody knows what it changes"
    if changed(run.recipe):
        return "the recipe was changed"
    if "not comparable" in published.protocol:
        return "the protocols differ"
    if run.started_from:
        return f"ours started from {run.started_from}"
    result = run.result
    if result["data"]["val"].startswith("synthetic:"):
        return "ours is on labelled noise"
    if result["duplicates"] or result["seen"] != result["total"]:
        return f"ours is on {result['seen']:,} of {result['total']:,} images, {result['duplicates']} of them repeated"
    for dataset, (training, validation) in IMAGES.items():
        name = dataset.removesuffix("-1k")
        if published.protocol.startswith(name):
            if result["total"] != validation:
                return f"ours is on {result['total']:,} images, not on the {validation:,} of {name}"
            if run.steps_per_epoch != training // run.recipe.global_batch_size:
                return f"ours has {run.steps_per_epoch:,} steps in an epoch: not the {training:,} images of {name}"
            return None
    return f"the data of {published.protocol!r} are not known here"


def runs_stated(published: Published) -> int | None:
    """How many runs the published result is of; None where its protocol does not say."""
    found = re.search(r"\b(\d+) runs?\b", published.protocol)
    return int(found.group(1)) if found else None
