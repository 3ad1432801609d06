"""Rows of one recipe lined up by the settings in which they differ: what a sweep found, at a glance."""

import statistics
from collections.abc import Sequence
from typing import Any

from trainer.commands.compare.rows import Row
from trainer.commands.compare.statistics import deviation
from trainer.process.rows import text_table
from trainer.recipe_file import settings_of

VARIED = "by varied values"  # title of these tables, whose columns need a font of one width
_NOT_VARIED = ("name", "seed", "published")


def by_varied_values(rows: Sequence[Row]) -> list[str]:
    """A small table for each recipe with several rows: the values that differ, in ascending order, and the top-1."""
    lines: list[str] = []
    names = list(dict.fromkeys(row.runs[0].recipe.name for row in rows))
    for name in names:
        of_name = [row for row in rows if row.runs[0].recipe.name == name]
        varied = varied_settings(of_name)
        if not varied:
            continue
        if len(names) > 1:
            lines.append(name)
        lines += _table(of_name, varied)
    return lines


def varied_settings(rows: Sequence[Row]) -> list[str]:
    """The settings in which rows of one recipe differ, in the order of the recipe's fields."""
    settings = [_settings(row) for row in rows]
    every = dict.fromkeys(name for one in settings for name in one)
    return [name for name in every if len({repr(one.get(name)) for one in settings}) > 1]


def _table(rows: Sequence[Row], varied: list[str]) -> list[str]:
    found = [(row, [_settings(row).get(name) for name in varied]) for row in rows]
    found.sort(key=lambda pair: [_sortable(value) for value in pair[1]])
    cells = [[*varied, "n", "top-1, %", "row"]]
    for row, values in found:
        top1 = [run.top1 for run in row.runs]
        sd = deviation(top1)
        accuracy = f"{statistics.fmean(top1):.2f}" + ("" if sd is None else f" +- {sd:.2f}")
        cells.append(
            [*("-" if value is None else str(value) for value in values), str(len(top1)), accuracy, str(row.number)]
        )
    return text_table(cells)


def _settings(row: Row) -> dict[str, Any]:
    found = settings_of(row.runs[0].recipe)
    return {name: value for name, value in found.items() if name.partition(".")[0] not in _NOT_VARIED}


def _sortable(value: Any) -> tuple[int, float, str]:
    """Numbers first, by size; then everything else, by its text."""
    if isinstance(value, int | float):
        return 0, float(value), ""
    return 1, 0.0, str(value)
