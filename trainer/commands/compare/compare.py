"""The command compare: finds finished runs, requires equal protocols, and prints one row for each recipe."""

import sys
from collections.abc import Sequence
from pathlib import Path
from shlex import quote

from trainer.commands.compare.comparison import HEADER, NOTES, cells, details, differences, reached
from trainer.commands.compare.protocols import differing_properties
from trainer.commands.compare.rows import Row, rows_of
from trainer.commands.compare.run_record import FinishedRun, read_run
from trainer.commands.compare.varied import VARIED, by_varied_values
from trainer.commands.out_file import require_replaceable
from trainer.errors import UserError
from trainer.process.rows import hanging, text_table, width
from trainer.run.usable import is_run
from trainer.settings import CompareSettings

_RIGHT = {"n", "images/s", "training"}  # right-aligned columns


def compare(settings: CompareSettings) -> None:
    """Prints the runs side by side, and writes an HTML report on request.

    Raises UserError if a folder neither is a run nor holds one, if a named run is damaged, if no run is
    finished, and if protocols or data differ and settings.allow_different_protocols does not allow it.
    """
    if settings.html:
        require_replaceable(settings.html, option="--html")
    runs, not_counted = read_runs(settings.runs)
    if not runs:
        listed = "; ".join(f"{folder} ({why})" for folder, why in not_counted)
        raise UserError(f"no finished run: {listed}. {_how_to_continue([folder for folder, _ in not_counted])}")
    differing = differing_properties(runs)
    if differing and not settings.allow_different_protocols:
        raise UserError(
            f"protocols or data differ: {'; '.join(differing)}. Compare such runs apart, or add "
            f"--allow-different-protocols"
        )
    rows, repeated = rows_of(runs)
    sections = {
        VARIED: by_varied_values(rows),
        **{f"to {top1:g} % top-1": reached(rows, top1) for top1 in settings.time_to_accuracy},
        "differences of top-1": differences(rows),
        "differ": differing,
        "not counted": [f"{folder}: {why}" for folder, why in (*not_counted, *repeated)],
        "how to read": list(NOTES),
    }
    if settings.html:
        from trainer.commands.compare.report import write_report

        write_report(settings.html, rows, sections)  # before anything is printed, which may fail
    print(as_text(rows, sections, width() if sys.stdout.isatty() else None))
    if settings.html:
        print(f"wrote {settings.html}")


def _how_to_continue(folders: list[Path]) -> str:
    run = quote(str(folders[0])) if len(folders) == 1 else "RUN"
    command = f"python -m trainer train {run}/recipe.py --data DIR --run-dir {run}"
    return f"To continue a run, give its command again; also this continues it: {command}"


def read_runs(folders: Sequence[Path]) -> tuple[list[FinishedRun], list[tuple[Path, str]]]:
    """The finished runs in these folders, two levels deep, each once; and the other runs, with the reason.

    Raises UserError for a folder that neither is a run nor holds one, and for a damaged run that was named itself.
    """
    finished: dict[Path, FinishedRun] = {}
    others: dict[Path, tuple[Path, str]] = {}
    for named in folders:
        for folder in [named] if is_run(named) else _runs_within(named):
            if folder.resolve() in finished or folder.resolve() in others:
                continue
            try:
                run = read_run(folder)
            except UserError as error:
                if folder == named:
                    raise
                others[folder.resolve()] = folder, str(error)
                continue
            if isinstance(run, FinishedRun):
                finished[folder.resolve()] = run
            else:
                others[folder.resolve()] = folder, run.state
    return list(finished.values()), list(others.values())


def _runs_within(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder")
    found = sorted(path.parent for levels in ("*", "*/*") for path in folder.glob(f"{levels}/recipe.py"))
    runs = [path for path in found if is_run(path)]
    if not runs:
        raise UserError(f"{folder} is not the folder of a run, and neither its folders nor theirs are: give RUN ...")
    return runs


def as_text(rows: Sequence[Row], sections: dict[str, list[str]], columns: int | None = None) -> str:
    """The comparison as plain text. `columns`: of the terminal, to wrap texts to; None: each is one line."""

    def wrapped(first: str, text: str) -> str:
        return hanging(first, text, columns) if columns else first + text

    right = [number for number, name in enumerate(HEADER) if name in _RIGHT]
    lines = text_table([HEADER, *map(cells, rows)], right)
    for row in rows:
        lines += ["", f"{row.number}  {row.label}"]
        lines += [wrapped(f"   {what:<9}  ", words) for what, words in details(row)]
    for title, content in sections.items():
        if content:
            is_table = title == VARIED
            lines += ["", title, *(f"   {line}" if is_table else wrapped("   ", line) for line in content)]
    return "\n".join(lines)
