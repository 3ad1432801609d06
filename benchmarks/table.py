"""Ratios of two things measured in turn, and the table they go into."""

import json
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line: what was compared, the figure, and what is wanted of it."""

    what: str
    figure: str
    target: str
    reached: bool | None  # None: there is no target
    detail: str  # absolute figures, n


def ratio_row(what: str, ours: list[float], theirs: list[float], target: float) -> Row:
    """`ours` and `theirs`: rates, a pair for each round. The best of all rounds are compared.

    What disturbs a machine makes a round slower, never faster: the best are the least disturbed.
    """
    ratio = max(ours) / max(theirs)
    rounds = [our / their for our, their in zip(ours, theirs, strict=True)]
    return Row(
        what=what,
        figure=f"{ratio:.2f} (rounds {min(rounds):.2f} to {max(rounds):.2f}, median {median(rounds):.2f})",
        target=f">= {target:g}",
        reached=ratio >= target,
        detail=f"{max(ours):,.4g} / {max(theirs):,.4g} per s, n = {len(ours)}",
    )


def pairs_row(what: str, ours: list[float], theirs: list[float], images: int, target: float) -> Row:
    """`ours` and `theirs`: seconds for the same images, one right after the other. The median pair is printed."""
    pairs = sorted(their / our for our, their in zip(ours, theirs, strict=True))
    ratio, quarter = median(pairs), len(pairs) // 4
    return Row(
        what=what,
        figure=f"{ratio:.2f} (half of the pairs {pairs[quarter]:.2f} to {pairs[-1 - quarter]:.2f})",
        target=f">= {target:g}",
        reached=ratio >= target,
        detail=f"medians {images / median(ours):,.4g} / {images / median(theirs):,.4g} per s, n = {len(pairs)} pairs",
    )


def seconds_row(what: str, seconds: list[float], target: float, detail: str = "") -> Row:
    """The fastest of several tries, in seconds."""
    return Row(
        what=what,
        figure=f"{min(seconds):.1f} s (to {max(seconds):.1f})",
        target=f"<= {target:g} s",
        reached=min(seconds) <= target,
        detail=f"n = {len(seconds)}{detail and ', '}{detail}",
    )


def markdown(rows: list[Row], heading: str) -> str:
    """The table, with what makes its numbers results above it."""
    lines = [heading, "", "| what | measured | target | reached | |", "|---|---|---|---|---|"]
    return "\n".join([*lines, *map(line, rows)])


def line(row: Row) -> str:
    reached = {True: "yes", False: "**no**", None: ""}[row.reached]
    return f"| {row.what} | {row.figure} | {row.target} | {reached} | {row.detail} |"


def as_json(rows: list[Row], hardware: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps({"hardware": hardware, "rows": [asdict(row) for row in rows]}, indent=2) + "\n")


def in_a_process(function: Callable[..., T], *arguments: Any) -> T:
    """The result of a function of a module, called in a new process: nothing of it is left behind."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()
