"""Formats numbers with their units, for people."""

from collections.abc import Sequence

_TIMES = (("days", 86400, 2 * 86400), ("h", 3600, 2 * 3600), ("min", 60, 120), ("s", 1, 1))
"""(unit, its seconds, the seconds from which it is used)"""


def format_bytes(count: float) -> str:
    """1,234,567 -> "1.23 MB"; units of 1,000."""
    return _scaled(count, ("bytes", "kB", "MB", "GB", "TB"))


def format_flops(count: float) -> str:
    """8,178,368,512 -> "8.18 GFLOPs": a number of operations, not a rate."""
    return _scaled(count, ("FLOPs", "kFLOPs", "MFLOPs", "GFLOPs", "TFLOPs", "PFLOPs", "EFLOPs", "ZFLOPs"))


def format_macs(flops: float) -> str:
    """FLOPs as multiply-adds, which many papers count as one operation each: 8.18 GFLOPs -> "4.09 GMACs"."""
    return _scaled(flops / 2, ("MACs", "kMACs", "MMACs", "GMACs", "TMACs", "PMACs"))


def format_duration(seconds: float) -> str:
    """7,300 s -> "2.03 h"; three digits, in the largest unit that is at least 2."""
    for unit, length, least in _TIMES:
        if seconds >= least:
            return f"{seconds / length:,.3g} {unit}" if seconds / length < 1000 else f"{seconds / length:,.0f} {unit}"
    return f"{1000 * seconds:.3g} ms"


def rough_duration(seconds: float) -> str:
    """190 s -> "3 minutes", in a sentence; seconds below two minutes."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"


def _scaled(count: float, units: Sequence[str]) -> str:
    """Three digits, in the largest unit that is at least 1."""
    power = 0
    while abs(count) >= 999.5 and power < len(units) - 1:
        count, power = count / 1000, power + 1
    digits = 0 if not power or count >= 99.95 else 1 if count >= 9.995 else 2
    return f"{count:,.{digits}f} {units[power]}"
