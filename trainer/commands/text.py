"""The layout of what plan and benchmark --fit print: sections of named rows. Plain text."""

from __future__ import annotations

from collections.abc import Sequence

from trainer.process.rows import rows as wrapped_rows

Row = tuple[str, str]
"""(name, text)"""
_INDENT = 15  # columns


def section(title: str, rows: Sequence[Row], drawn: Sequence[str] = ()) -> str:
    """A title, rows with hanging indents for long texts, and lines that are printed unchanged."""
    lines = ["", title] if title else []
    lines += [wrapped_rows(rows, _INDENT)] if rows else []
    return "\n".join([*lines, *(f"  {line}".rstrip() for line in drawn)])
