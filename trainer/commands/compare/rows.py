"""Which runs are one row: those of one recipe, whose seeds differ. What the row is called, and what was changed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trainer.commands.compare.protocols import differing, properties
from trainer.commands.compare.run_record import FinishedRun
from trainer.recipe_file import Change, override_diff, recipe_diff, recipe_names

NOT_RECORDED = "not recorded"
_LABEL = 40  # characters of what was changed, in the table


@dataclass(frozen=True, kw_only=True)
class Row:
    """Runs of one resolved recipe and one protocol, on the same data and from the same initial weights; they differ in
    their seeds, and may differ in their commits and hardware."""

    number: int
    label: str
    """the recipe's name, and what sets this row apart from the others of that name"""
    runs: list[FinishedRun]
    changed: list[Change]
    """what differs from the recipe of this name: one of the package, else that of the first row of this name"""

    @property
    def seeds(self) -> str:
        return "1 seed" if len(self.runs) == 1 else f"{len(self.runs)} seeds"


def rows_of(runs: Sequence[FinishedRun]) -> tuple[list[Row], list[tuple[Path, str]]]:
    """The rows, in the order of the runs; and the runs that repeat another one, with the reason.

    Runs of different commits are one row, unless a seed was run again at another commit: then each commit is a row.
    """
    found: dict[Any, list[FinishedRun]] = {}
    repeated = []
    identities = [_identity(run) for run in runs]
    run_again = _run_again(identities, runs)
    for identity, run in zip(identities, runs, strict=True):
        alike = found.setdefault((identity, run.commit if identity in run_again else None), [])
        same = next((other for other in alike if other.recipe.seed == run.recipe.seed), None)
        if same:
            at = f" at commit {run.commit}" if run.commit and run.commit == same.commit else ""
            repeated.append((run.folder, f"the same recipe and seed as {same.folder}{at}: not an independent run"))
        else:
            alike.append(run)
    first: dict[str, FinishedRun] = {}
    changes = [_changed(alike[0], first.setdefault(alike[0].recipe.name, alike[0])) for alike in found.values()]
    labels = []
    for alike, of_this in zip(found.values(), changes, strict=True):
        name = alike[0].recipe.name
        of_name = [one for other, one in zip(found.values(), changes, strict=True) if other[0].recipe.name == name]
        labels.append(_label(name, of_this, of_name))
    told_apart = zip(_told_apart(labels, [*found.values()]), found.values(), changes, strict=True)
    rows = [
        Row(number=number, label=label, runs=alike, changed=of_this)
        for number, (label, alike, of_this) in enumerate(told_apart, 1)
    ]
    return rows, repeated


def _identity(run: FinishedRun) -> Any:
    """The key of a row. It has the coverage, which nothing else compares if other protocols are allowed."""
    data, protocol = run.result["data"], run.protocol
    recipe = replace(run.recipe, seed=0, published=None)
    coverage = protocol.images_seen, protocol.images_total, protocol.duplicates
    return recipe, run.init_weights, run.weights.teacher, data["train"], data["val"], coverage


def _run_again(identities: Sequence[Any], runs: Sequence[FinishedRun]) -> set[Any]:
    """The keys of which a seed was run at several commits."""
    commits: dict[Any, set[str]] = {}
    for identity, run in zip(identities, runs, strict=True):
        if run.commit:
            commits.setdefault((identity, run.recipe.seed), set()).add(run.commit)
    return {identity for (identity, _), of_seed in commits.items() if len(of_seed) > 1}


def _changed(run: FinishedRun, base: FinishedRun) -> list[Change]:
    if run.recipe.name in recipe_names():
        found = override_diff(run.recipe)
    else:
        found = recipe_diff(replace(base.recipe, seed=run.recipe.seed), run.recipe)
    if run.init_weights.kind == "file":
        found = [*found, Change("initial_weights", None, run.init_weights)]
    if (teacher := run.weights.teacher) and teacher.file:
        found = [*found, Change("teacher_weights", None, teacher)]
    return found


def _label(name: str, changes: list[Change], of_name: list[list[Change]]) -> str:
    if not changes:
        return name
    own = [change for change in changes if not all(change in others for others in of_name)]
    values = ", ".join(f"{change.setting} {change.new}" for change in own)
    return f"{name} (changed{': ' if own else ''}{values[:_LABEL]}{'...' if len(values) > _LABEL else ''})"


def _told_apart(labels: Sequence[str], rows: Sequence[list[FinishedRun]]) -> list[str]:
    """The labels; rows that share one also say in which protocol, data, teacher or commit they differ."""
    facts = [
        {
            **properties(runs[0]),
            "teacher": str(runs[0].weights.teacher),
            "commit": ", ".join(dict.fromkeys(run.commit or NOT_RECORDED for run in runs)),
        }
        for runs in rows
    ]
    found = []
    for label, own in zip(labels, facts, strict=True):
        names = differing([other for same, other in zip(labels, facts, strict=True) if same == label])
        found.append(label + (f" ({', '.join(f'{name} {own[name]}' for name in names)})" if names else ""))
    return found
