"""The layout of a plan: sections of named rows, tables, numbers with units. Plain text."""

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


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Right-aligned columns. The last cell of a row with fewer cells than the header takes the rest of the line."""
    whole = [header, *(row for row in rows if len(row) == len(header))]
    widths = [max(len(row[column]) for row in whole) for column in range(len(header))]
    lines = []
    for row in [header, *rows]:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=False)]
        if len(row) < len(header):
            cells[-1] = row[-1]
        lines.append("  ".join(cells).rstrip())
    return lines


def in_bytes(count: float) -> str:
    """1,234,567 -> "1.23 MB"; units of 1,000."""
    return f"{_scaled(count, ('bytes', 'kB', 'MB', 'GB', 'TB'))}"


def in_flops(count: float) -> str:
    """8,178,368,512 -> "8.18 GFLOPs": a number of operations, not a rate."""
    return _scaled(count, ("FLOPs", "kFLOPs", "MFLOPs", "GFLOPs", "TFLOPs", "PFLOPs", "EFLOPs", "ZFLOPs"))


def in_macs(flops: float) -> str:
    """FLOPs as multiply-adds, which many papers count as one operation each: 8.18 GFLOPs -> "4.09 GMACs"."""
    return _scaled(flops / 2, ("MACs", "kMACs", "MMACs", "GMACs", "TMACs", "PMACs"))


def in_time(seconds: float) -> str:
    """7,300 s -> "2.03 h"; three digits, in the largest unit that is at least 2."""
    for unit, length, least in (("days", 86400, 2 * 86400), ("h", 3600, 2 * 3600), ("min", 60, 120), ("s", 1, 1)):
        if seconds >= least:
            return f"{seconds / length:,.3g} {unit}" if seconds / length < 1000 else f"{seconds / length:,.0f} {unit}"
    return f"{1000 * seconds:.3g} ms"


def _scaled(count: float, units: Sequence[str]) -> str:
    """Three digits, in the largest unit that is at least 1."""
    power = 0
    while abs(count) >= 999.5 and power < len(units) - 1:
        count, power = count / 1000, power + 1
    digits = 0 if not power or count >= 99.95 else 1 if count >= 9.995 else 2
    return f"{count:,.{digits}f} {units[power]}"
