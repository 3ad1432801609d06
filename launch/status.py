"""A table of launched runs: what the cluster says of each, and what the run itself has written."""

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from launch.attempt import attempts
from launch.jobs import state_of
from launch.logs import first_trouble
from launch.settings import StatusSettings
from launch.state import State
from launch.submission import Submission, launched_runs, submission_of
from trainer.errors import UserError, rate
from trainer.process.rows import hanging
from trainer.run.progress import RunProgress, read_progress

_COLUMNS = ("run", "job", "state", "nodes", "step", "epoch", "images/s", "top-1", "left", "starts", "why")
_UNBROKEN = 10_000  # columns, in which every table fits
_STYLES = {"RUNNING": "green", "COMPLETED": "dim", "FAILED": "red", "GONE": "red", "TIMEOUT": "red", "NODE_FAIL": "red"}


def status(options: StatusSettings) -> None:
    """Prints a line for each run. Raises UserError if a folder holds none."""
    found = [run for folder in options.runs or (Path(),) for run in launched_runs(folder)]
    rows = [row(run_dir) for run_dir in dict.fromkeys(found)]
    table = Table(*_COLUMNS, box=None, pad_edge=False, header_style="bold")
    for cells in rows:
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in cells))
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=250)  # for a file, or `watch`: no line is broken
    if Measurement.get(console, console.options.update(width=_UNBROKEN), table).maximum <= console.width:
        console.print(table)
        return
    for cells in rows:  # in a narrow window the table would cut its cells
        named = [
            cell if name in ("state", "why") else f"{name} {cell}"
            for name, cell in zip(_COLUMNS[1:], cells[1:], strict=True)
            if cell
        ]
        print(cells[0])
        print(hanging("  ", ", ".join(named), console.width))


def row(run_dir: Path) -> list[str]:
    """The cells of one run."""
    try:
        submission, index = submission_of(run_dir)
        state = state_of(submission, index)
    except UserError as error:
        return [str(run_dir), "", "UNKNOWN", *[""] * 7, str(error)]
    progress = read_progress(run_dir)
    starts = attempts(submission, index)
    nodes = "" if state.nodes == state.job else state.nodes  # without Slurm, the job is named after its machine
    why = _why(submission, index, state)
    if state.name == "RUNNING" and _is_starting(starts, progress):
        why = "; ".join(filter(None, ("starting", why)))
    return [str(run_dir), state.job, state.name, nodes, *_progress(progress, state), str(len(starts)), why]


def _is_starting(starts: list[dict[str, Any]], at: RunProgress) -> bool:
    """Whether no process of the last start has written of a step."""
    if not starts or at.finished:
        return False
    began = datetime.strptime(starts[-1]["began"], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
    return at.last_written is None or at.last_written < began.timestamp()


def _progress(at: RunProgress, state: State) -> list[str]:
    step = f"{at.step:,}" + (f"/{at.steps:,}" if at.steps else "")
    left = "" if at.seconds_left is None or at.finished or state.is_over else _hours_and_minutes(at.seconds_left)
    return [
        step if at.step else "",
        f"{at.epoch:.2f}/{at.epochs}" if at.epochs else "",
        rate(at.images_per_second) if at.images_per_second and not at.finished and not state.is_over else "",
        f"{at.top1:.2f} %" if at.top1 is not None else "",
        left,
    ]


def _why(submission: Submission, index: int, state: State) -> str:
    """Why it waits or how it ended; and what ended its earlier starts."""
    starts = attempts(submission, index)
    ends = [start.get("reason") or "ended from outside" for start in starts[:-1]]
    last = starts[-1].get("reason") if starts else None
    now = "" if state.name == "RUNNING" else state.reason
    if state.is_over:
        now = last or state.reason
        if now not in ("finished", "") and state.name != "CANCELLED" and (trouble := first_trouble(submission, index)):
            now += f": {trouble[1]}"
    elif last:
        ends.append(last)
    counted = Counter(ends)
    before = ", ".join(f"{count} x {reason}" if count > 1 else reason for reason, count in counted.items())
    return "; ".join(part for part in (now, f"before: {before}" if before else "") if part)


def _hours_and_minutes(seconds: float) -> str:
    """7,380 s -> "2 h 03 min": what a person adds to the clock. Also "40 s", "12 min" and "3 d 4 h"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"
