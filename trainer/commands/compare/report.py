"""The comparison as one HTML file with interactive curves; it opens from disk and loads nothing from a network.

It is for other people: rows of one protocol are ranked by their mean accuracy, and paths have no folders of this
machine.
"""

import statistics
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from trainer.atomic import replace_text
from trainer.commands.compare.comparison import HEADER, cells, details
from trainer.commands.compare.protocols import differing_properties
from trainer.commands.compare.rows import Row
from trainer.commands.compare.run_record import FinishedRun
from trainer.commands.compare.varied import VARIED
from trainer.errors import UserError
from trainer.log.console_log import without_folders

_POINTS = 1000  # of one curve, at most
# D3's ten colours; rows beyond them are dashed
_COLOURS = (
    "#1f77b4",
    "#ff7f0e",
    "#2ca02c",
    "#d62728",
    "#9467bd",
    "#8c564b",
    "#e377c2",
    "#7f7f7f",
    "#bcbd22",
    "#17becf",
)
# The browser allows the file's own scripts and styles, and nothing from elsewhere.
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1200px; padding: 0 1em; color: #222 }
h1 { font-size: 1.4em } h2 { font-size: 1.1em; margin: 2em 0 .5em }
table { border-collapse: collapse } th, td { padding: .25em 1.2em .25em 0; text-align: left; vertical-align: top }
thead th { border-bottom: 2px solid #222 } tbody td { border-bottom: 1px solid #ddd }
td, th { font-variant-numeric: tabular-nums; overflow-wrap: anywhere } th { font-weight: 600 }
thead th, td:first-child { white-space: nowrap }
.lines { white-space: pre-wrap } .aligned { white-space: pre; font-family: monospace; overflow-x: auto }
.row th { white-space: nowrap; font-weight: normal; color: #555 } .row { font-size: .9em }
.swatch { display: inline-block; width: .8em; height: .8em; margin-right: .4em }
"""


class Curve(NamedTuple):
    """A panel of the figure."""

    title: str
    x: str
    of: Callable[[FinishedRun], tuple[list[float], list[float]]]
    """the points of a run: x and y"""


def write_report(path: Path, rows: Sequence[Row], sections: dict[str, list[str]]) -> None:
    """Writes the table, the curves and the sections. Raises UserError if it cannot."""
    try:
        figure = _figure(rows)
    except ImportError as error:
        raise UserError(f"--html needs plotly: pip install plotly ({error})") from error
    title = f"Comparison of {sum(len(row.runs) for row in rows)} runs"
    body = [
        f"<h1>{title}</h1>",
        _table(_ranked(rows)),
        "<p>One colour for each row: thin lines are its runs, the thick one their mean where they have equally many "
        "points. Click a name to hide it, double-click to see it alone; drag to zoom, double-click to zoom out.</p>",
        f"<div>{figure}</div>",
        *(_row(row) for row in rows),
        *(_section(name, lines) for name, lines in sections.items() if lines),
    ]
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>{title}</title><style>{_STYLE}</style>"
    )
    text = f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{chr(10).join(body)}\n</body></html>\n'
    try:
        replace_text(path, text)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from error


def _figure(rows: Sequence[Row]) -> str:
    """All panels as HTML, plotly's own script included."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    titles = [curve.title for curve in CURVES]
    figure = make_subplots(rows=2, cols=3, subplot_titles=titles, horizontal_spacing=0.06, vertical_spacing=0.14)
    for panel, curve in enumerate(CURVES):
        place = {"row": panel // 3 + 1, "col": panel % 3 + 1}
        figure.update_xaxes(title_text=curve.x, rangemode="tozero", **place)
        for row in rows:
            points = [curve.of(run) for run in row.runs]
            lines = [(*xy, f"seed {run.recipe.seed}", 1, 0.4) for run, xy in zip(row.runs, points, strict=True)]
            if mean := _mean(points):
                lines = [*lines, (*mean, "mean", 3, 1.0)] if len(lines) > 1 else [(*mean, "run", 3, 1.0)]
            for number, (x, y, name, width, opacity) in enumerate(lines):
                drawn = go.Scatter(
                    x=x,
                    y=y,
                    name=escape(f"{row.number}  {row.label}, n = {len(row.runs)}"),
                    legendgroup=str(row.number),
                    showlegend=panel == 0 and number == len(lines) - 1,
                    mode="lines" if len(x) > 1 else "markers",  # a line of one point is invisible
                    line={**_line(row), "width": width},
                    opacity=opacity,
                    hovertemplate=f"{row.number}, {name}<br>%{{x:.4~g}}: %{{y:.4~g}}<extra></extra>",
                )
                figure.add_trace(drawn, **place)
    figure.update_layout(
        height=760,
        template="plotly_white",
        margin={"l": 45, "r": 15, "t": 60, "b": 45},
        legend={"orientation": "h", "y": -0.12, "groupclick": "togglegroup"},
        hovermode="closest",
    )
    config = {"displaylogo": False, "responsive": True, "showTips": False}
    return str(figure.to_html(full_html=False, include_plotlyjs=True, config=config, div_id="curves"))


def _line(row: Row) -> dict[str, str]:
    cycle, colour = divmod(row.number - 1, len(_COLOURS))
    return {"color": _COLOURS[colour], "dash": ("solid", "dash", "dot")[cycle % 3]}


def _mean(points: Sequence[tuple[list[float], list[float]]]) -> tuple[list[float], list[float]] | None:
    """The mean of x and y, point by point; None if runs differ in their number of points, as by --log-every."""
    if len({len(x) for x, _ in points}) != 1:
        return None
    xs, ys = ([statistics.fmean(values) for values in zip(*axis, strict=True)] for axis in zip(*points, strict=True))
    return xs, ys


def _thinned(values: list[float]) -> list[float]:
    """Means over equally many neighbours, so that at most _POINTS are left."""
    size = -(-len(values) // _POINTS) or 1
    return [statistics.fmean(values[start : start + size]) for start in range(0, len(values), size)]


def _accuracy(x: Callable[[FinishedRun, dict[str, Any]], float | None]) -> Any:
    def points(run: FinishedRun) -> tuple[list[float], list[float]]:
        found = [(at, record["top1"]) for record in run.evaluations if (at := x(run, record)) is not None]
        return [at for at, _ in found], [top1 for _, top1 in found]

    return points


def _hours(run: FinishedRun, record: dict[str, Any]) -> float | None:
    seconds = run.seconds(record["step"])
    return None if seconds is None else seconds / 3600


def _training(name: str) -> Any:
    def points(run: FinishedRun) -> tuple[list[float], list[float]]:
        return _thinned([record["epoch"] for record in run.train]), _thinned([record[name] for record in run.train])

    return points


CURVES = (
    Curve("top-1, %", "epoch", _accuracy(lambda run, record: float(record["epoch"]))),
    Curve("top-1, %", "training images", _accuracy(lambda run, record: run.images(record["step"]))),
    Curve("top-1, %", "hours of training", _accuracy(_hours)),
    Curve("training loss", "epoch", _training("loss")),
    Curve("learning rate", "epoch", _training("lr")),
    Curve("images per second", "epoch", _training("images_per_second")),
)


def _ranked(rows: Sequence[Row]) -> list[Row]:
    if differing_properties([row.runs[0] for row in rows]):
        return [*rows]
    return sorted(rows, key=lambda row: -statistics.fmean(run.top1 for run in row.runs))


def _table(rows: Sequence[Row]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in HEADER)
    lines = []
    for row in rows:
        first, *others = (escape(text) for text in cells(row))
        swatch = f'<span class="swatch" style="background:{_line(row)["color"]}"></span>{first}'
        lines.append("<tr>" + "".join(f"<td>{text}</td>" for text in (swatch, *others)) + "</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _row(row: Row) -> str:
    said = "".join(
        f"<tr><th>{escape(what)}</th><td>{escape(without_folders(words))}</td></tr>" for what, words in details(row)
    )
    return f'<h2>{row.number}&ensp;{escape(row.label)}</h2><table class="row">{said}</table>'


def _section(name: str, lines: Sequence[str]) -> str:
    text = "\n".join(without_folders(line) for line in lines)
    kind = "aligned" if name == VARIED else "lines"
    return f'<h2>{escape(name)}</h2><div class="{kind}">{escape(text)}</div>'
