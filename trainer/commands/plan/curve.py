"""The learning-rate curve of a recipe over its epochs: drawn in a terminal, or saved as a PNG."""

from __future__ import annotations

import math
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from trainer.atomic import atomic_write
from trainer.errors import UserError, first_line
from trainer.recipe import Cosine, Recipe, Steps
from trainer.schedule import lr_of

BLOCKS = " ▁▂▃▄▅▆▇█"
ASCII = " .:-=+*%#"  # if the output's encoding lacks them
WIDTH, HEIGHT = 72, 8  # characters
MARGIN = 11  # characters left of the bars
_SAMPLES = 1000  # points among which the peak is searched


class Mark(NamedTuple):
    """A named point of the curve."""

    name: str
    epoch: float
    lr: float


def marks(recipe: Recipe, steps_per_epoch: int) -> list[Mark]:
    """First step, end of the warmup, start of a late cosine, milestones, peak and last step, each at a real step.

    Points at the same step are merged into one mark.
    """
    schedule, last = recipe.schedule, recipe.epochs - 1 / steps_per_epoch
    places = [("first step", 0.0), ("last step", last)]
    if schedule.warmup:
        places.append(("warmup ends", schedule.warmup.epochs))
    if isinstance(schedule, Cosine) and schedule.start_epoch:
        places.append(("cosine begins", schedule.start_epoch))
    if isinstance(schedule, Steps):
        places += [("milestone", milestone) for milestone in schedule.milestones]
    found = []
    for name, wanted in places:
        epoch = math.ceil(round(wanted * steps_per_epoch, 6)) / steps_per_epoch  # the first step at or after it
        if epoch <= last:
            found.append(Mark(name, epoch, lr_of(recipe, epoch)))
    sampled = [math.floor(last * steps_per_epoch * at / _SAMPLES) / steps_per_epoch for at in range(_SAMPLES + 1)]
    peak = max([*(mark.epoch for mark in found), *sampled], key=lambda epoch: (lr_of(recipe, epoch), -epoch))
    found.append(Mark("peak", peak, lr_of(recipe, peak)))
    by_epoch = groupby(sorted(found, key=lambda mark: mark.epoch), key=lambda mark: mark.epoch)
    return [
        Mark(", ".join(mark.name for mark in together), epoch, together[0].lr)
        for epoch, together in ((epoch, list(group)) for epoch, group in by_epoch)
    ]


def draw(recipe: Recipe, steps_per_epoch: int, blocks: str = BLOCKS, columns: int = WIDTH) -> list[str]:
    """The curve as lines: bars, an axis with the marks, and a legend of the marks. `columns`: the number of bars.

    Each column is the rate of the first step at or after its epoch. For a step schedule the scale is logarithmic, so
    that all its steps are visible. `blocks`: nine characters, from empty to full.
    """
    total = recipe.epochs * steps_per_epoch
    rates = [lr_of(recipe, math.ceil(column * total / columns) / steps_per_epoch) for column in range(columns)]
    places = marks(recipe, steps_per_epoch)
    top = max(*rates, *(mark.lr for mark in places))
    bottom = min([rate for rate in rates if rate > 0], default=0.0) if isinstance(recipe.schedule, Steps) else 0.0
    heights = [_eighths(rate, bottom, top) for rate in rates]
    labels = [f"{top:>9.4g} ", *[" " * (MARGIN - 1)] * (HEIGHT - 2), f"{bottom:>9.4g} "]
    lines = []
    for row, label in zip(reversed(range(HEIGHT)), labels, strict=True):
        lines.append(f"{label}|{''.join(blocks[min(8, max(0, height - 8 * row))] for height in heights)}".rstrip())
    axis = ["-"] * columns
    for mark in places:
        axis[min(columns - 1, int(mark.epoch * columns / recipe.epochs))] = "^"
    margin = " " * MARGIN
    lines.append(f"{margin[:-1]}+{''.join(axis)}")
    lines.append(f"{margin}epoch 0{recipe.epochs:>{columns - 7}}")
    lines.append(f"{margin}scale {'logarithmic' if bottom else 'linear'}; marked ^:")
    lines += [f"{margin}{mark.name:<19} epoch {mark.epoch:>8.6g}   lr {mark.lr:.4g}" for mark in places]
    return lines


def save_picture(recipe: Recipe, steps_per_epoch: int, path: Path) -> None:
    """Writes the curve with its marks as PNG, drawn through about 2,000 steps. Raises UserError if it cannot."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError(f"{path} needs matplotlib: pip install matplotlib, or no --out") from error
    total, places = recipe.epochs * steps_per_epoch, marks(recipe, steps_per_epoch)
    sampled = [step / steps_per_epoch for step in range(0, total, max(1, total // 2000))]
    epochs = sorted({*sampled, *(mark.epoch for mark in places)})
    figure = Figure(figsize=(9, 4.5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(epochs, [lr_of(recipe, epoch) for epoch in epochs])
    for mark in places:
        axes.plot(mark.epoch, mark.lr, "o", label=f"{mark.name}: epoch {mark.epoch:.6g}, lr {mark.lr:.4g}")
    if isinstance(recipe.schedule, Steps) and min(lr_of(recipe, epoch) for epoch in epochs) > 0:
        axes.set_yscale("log")
    axes.set(title=recipe.name, xlabel="epoch", ylabel="learning rate")
    axes.legend(fontsize="small")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as partial:
            figure.savefig(partial, format="png")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or first_line(error)}") from error


def _eighths(rate: float, bottom: float, top: float) -> int:
    """The height of a bar in eighths of a character, at least 1 if not zero. `bottom`: 0 for a linear scale."""
    if rate <= 0:
        return 0
    if not bottom:
        return max(1, round(8 * HEIGHT * rate / top))
    share = math.log(rate / bottom) / math.log(top / bottom) if top > bottom else 1.0
    return max(1, round(8 + 8 * (HEIGHT - 1) * share))
