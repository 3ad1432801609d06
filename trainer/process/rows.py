"""Reports for people: rows of a name and a text, wrapped to the width of the terminal, and tables."""

import shutil
import sys
import textwrap
from collections.abc import Container, Iterable, Sequence

_WIDEST, _NARROWEST = 110, 40  # columns


def width() -> int:
    """Columns of a report: the terminal's, at most 110 and at least 40; 110 in a file or a pipe."""
    return min(_WIDEST, max(_NARROWEST, shutil.get_terminal_size((_WIDEST, 24)).columns))


def rows(named: Iterable[tuple[str, str]], indent: int = 12) -> str:
    """The rows as text. Lines after a row's first are indented, and no word is broken."""
    return "\n".join(hanging(f"  {name:<{indent - 3}} ", text, width()) for name, text in named)


def rows_or_lines(named: Iterable[tuple[str, str]]) -> str:
    """The rows, each in one line where stdout is a file or a pipe, which a program may read."""
    if sys.stdout.isatty():
        return rows(named)
    return "\n".join(f"  {name:<9} {text}" for name, text in named)


def text_table(rows: Sequence[Sequence[str]], right: Container[int] = ()) -> list[str]:
    """Returns a line for each row, with the columns two spaces apart; the columns in `right` are right-aligned.

    The first row is the header. The last cell of a row with fewer cells than that takes the rest of the line.
    """
    whole = [row for row in rows if len(row) == len(rows[0])]
    widths = [max(map(len, column)) for column in zip(*whole, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=False))
        ]
        if len(row) < len(widths):
            cells[-1] = row[-1]
        lines.append("  ".join(cells).rstrip())
    return lines


def hanging(first: str, text: str, columns: int) -> str:
    """`first` and the text. Lines after the first are indented by as much as `first` takes; no word is broken."""
    return textwrap.fill(
        text,
        columns,
        initial_indent=first,
        subsequent_indent=" " * len(first),
        break_long_words=False,
        break_on_hyphens=False,
    )
