"""Rows side by side: the table, the details of each row, and the differences between rows."""

import statistics
from collections.abc import Sequence
from typing import Any

from trainer.commands.compare.protocols import differing, properties
from trainer.commands.compare.published import LAST_EPOCHS, against_published, median_of_last
from trainer.commands.compare.rows import NOT_RECORDED, Row
from trainer.commands.compare.statistics import Interval, deviation, difference, mean_of

HEADER = ("", "recipe", "n", "top-1, %", f"last {LAST_EPOCHS}, %", "vs published", "images/s", "training")
NOTES = (
    f"n: seeds. top-1: mean +- standard deviation (n - 1) over the seeds, final weights. last {LAST_EPOCHS}: the same "
    f"of each run's median over its last {LAST_EPOCHS} epochs (Goyal et al. 2017).",
    "training: time without evaluation, saving between epochs and stops, from images_per_second; images/s: median. "
    "Accuracies are reached at the end of an epoch.",
    "Intervals are Welch's, 95 %: one of 20 misses the true difference. Within the noise: the interval holds 0, which "
    "does not show that the two are equal. A result published without deviation is taken to vary as ours do.",
)
_ALL_PAIRS = 6  # rows of which all pairs are compared; of more, each with the first


def cells(row: Row) -> list[str]:
    """One line of the table, as HEADER names its columns."""
    rates = [record["images_per_second"] for run in row.runs for record in run.train]
    last = [median_of_last(run) for run in row.runs]
    times = [run.seconds(run.evaluations[-1]["step"]) for run in row.runs]
    return [
        str(row.number),
        row.label,
        str(len(row.runs)),
        _spread([run.top1 for run in row.runs]),
        _spread(last),
        against_published(row.runs).short,
        f"{statistics.median(rates):,.0f}" if rates else "-",
        _mean_duration(times),
    ]


def details(row: Row) -> list[tuple[str, str]]:
    """The details of a row: (name, text)."""
    found = [("changed", "; ".join(map(str, row.changed)))] if row.changed else []
    runs = ", ".join(f"{run.recipe.seed} ({run.folder})" for run in row.runs)
    found.append(("seeds" if len(row.runs) > 1 else "seed", runs))
    found.append(("published", against_published(row.runs).text))
    if commits := _differing_commits(row):
        found.append(("commits", commits))
    found += [("hardware", words) for words in hardware(row)]
    found.append(("protocol", row.runs[0].protocol.text(seed=False)))
    return found


def reached(rows: Sequence[Row], top1: float) -> list[str]:
    """The images and the time that the runs of each row needed to reach this accuracy, in %."""
    return [f"{row.number}: {_reached(row, top1)}" for row in rows]


def hardware(row: Row) -> list[str]:
    """The hardware and versions of the runs, each combination once."""
    found = (words for run in row.runs for words in [*map(_hardware, run.starts)] or [NOT_RECORDED])
    return list(dict.fromkeys(found))


def differences(rows: Sequence[Row]) -> list[str]:
    """The differences of mean final top-1, pair by pair, and whether the seeds are enough to separate the pair.

    Of different protocols or data it is the difference alone.
    """
    pairs = [(first, second) for first in rows for second in rows if first.number < second.number]
    lines = []
    if len(rows) > _ALL_PAIRS:
        pairs = [(rows[0], row) for row in rows[1:]]
        lines.append(f"of {len(rows)} rows, each against the first only; name fewer runs for other pairs")
    intervals = [_interval(first, second) for first, second in pairs]
    for (first, second), found in zip(pairs, intervals, strict=True):
        words = f"; {found}" if isinstance(found, str) else f", {_conclusion(first, second, found)}"
        lines.append(f"{first.number} - {second.number}: {_mean(first) - _mean(second):+z.2f} points{words}")
    if (tested := sum(isinstance(found, Interval) for found in intervals)) > 1:
        by_chance = 100 * (1 - 0.95**tested)  # at most, also where pairs share a row (Sidak 1967, JASA 62)
        equal = f"{tested} intervals: if all these rows were equally good, one or more would still be called better"
        lines.append(f"{equal} in up to {by_chance:.0f} of 100 such comparisons")
    recorded = [{*hardware(row)} - {NOT_RECORDED} for row in rows]
    if len({frozenset(one) for one in recorded if one}) > 1:
        lines.append("hardware or versions differ between rows, so images/s and times are not of the recipes alone")
    return lines


def _duration(seconds: float) -> str:
    """Two decimals in every row, unlike format_duration: rows are compared with each other."""
    for unit, length in (("h", 3600.0), ("min", 60.0)):
        if seconds >= length:
            return f"{seconds / length:.2f} {unit}"
    return f"{seconds:.1f} s"


def _spread(values: Sequence[float | None]) -> str:
    """Mean and deviation of the runs that have a value."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    sd = deviation(known)
    noise = " (one run: no sd)" if sd is None else f" +- {sd:.2f}{_of(known, values)}"
    return f"{statistics.fmean(known):.2f}{noise}"


def _mean_duration(times: Sequence[float | None]) -> str:
    known = [time for time in times if time is not None]
    return _duration(statistics.fmean(known)) + _of(known, times) if known else "-"


def _of(known: Sequence[float], every: Sequence[float | None]) -> str:
    return f" ({len(known)} of {len(every)} runs)" if len(known) < len(every) else ""


def _reached(row: Row, top1: float) -> str:
    found = [(run, record) for run in row.runs if (record := run.reached(top1))]
    if not found:
        best = max(record["top1"] for run in row.runs for record in run.evaluations)
        return f"not reached, the best epoch has {best:.2f} %"
    images = statistics.fmean(run.images(record["step"]) for run, record in found)
    epochs = statistics.fmean(record["epoch"] for _, record in found)
    time = _mean_duration([run.seconds(record["step"]) for run, record in found])
    who = f"{len(found)} of {len(row.runs)} runs" + (", the mean is of these" if len(found) < len(row.runs) else "")
    return f"{images:,.0f} images, {epochs:.1f} epochs, {time} of training ({who})"


def _mean(row: Row) -> float:
    return statistics.fmean(run.top1 for run in row.runs)


def _interval(first: Row, second: Row) -> Interval | str:
    """The interval of the difference of mean top-1, or why there is none."""
    if names := differing([properties(row.runs[0]) for row in (first, second)]):
        return f"different protocols ({', '.join(names)}): not of the recipes alone, so no conclusion"
    if single := [str(row.number) for row in (first, second) if len(row.runs) == 1]:
        who = f"{single[0]} is one run" if len(single) == 1 else "both are one run"
        return f"{who}: noise unknown, so no conclusion; train 3 seeds of each, or more"
    of_first, of_second = (mean_of([run.top1 for run in row.runs]) for row in (first, second))
    unknown = "no deviation among the seeds of either: their noise is unknown, so no conclusion"
    return difference(of_first, of_second) or unknown


def _conclusion(first: Row, second: Row, found: Interval) -> str:
    if found.holds_zero:
        return f"{found}: {first.seeds} and {second.seeds} are not enough to tell them apart"
    better = first if found.delta > 0 else second
    return f"{found}: {better.number} is better; {first.seeds} and {second.seeds} are enough to tell"


def _differing_commits(row: Row) -> str | None:
    """Which seeds are of which commit; None if all are of one."""
    seeds: dict[str, list[str]] = {}
    for run in row.runs:
        seeds.setdefault(run.commit or NOT_RECORDED, []).append(str(run.recipe.seed))
    if len(seeds.keys() - {NOT_RECORDED}) < 2:
        return None
    listed = (f"{commit} (seed{'s' if len(of) > 1 else ''} {', '.join(of)})" for commit, of in seeds.items())
    return f"differ within this row: {'; '.join(listed)}"


def _hardware(start: dict[str, Any]) -> str:
    processes = "1 process" if start.get("processes") == 1 else f"{start.get('processes')} processes"
    cpus = "1 core" if start.get("cpus") == 1 else f"{start.get('cpus')} cores"
    device = f"{start['gpu']}, " if start.get("gpu") else ""
    versions = f"torch {start.get('packages', {}).get('torch')}, commit {start.get('commit')}"
    return f"{processes} on {device}{cpus} of {start.get('cpu')}; {versions}"
