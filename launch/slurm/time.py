"""Slurm's notation of a time limit."""

import math
import re

_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<parts>\d+(?::\d+){0,2})")


def as_text(minutes: int) -> str:
    """HH:MM:SS, or DAYS-HH:MM:SS from a day on."""
    days, rest = divmod(minutes, 24 * 60)
    return f"{f'{days}-' if days else ''}{rest // 60:02}:{rest % 60:02}:00"


def minutes_of(time: str) -> int:
    """Slurm's time, rounded up: MINUTES, MINUTES:SECONDS, HOURS:MINUTES:SECONDS, DAYS-HOURS[:MINUTES[:SECONDS]].

    Raises ValueError for anything else.
    """
    if not (match := _TIME.fullmatch(time)):
        raise ValueError(f"time={time} is not MINUTES, HH:MM:SS or DAYS-HH:MM:SS")
    parts = [int(part) for part in match["parts"].split(":")]
    if match["days"] is None:
        hours, minutes, seconds = ([0, *parts, 0] if len(parts) == 1 else [0, *parts] if len(parts) == 2 else parts)[:3]
    else:
        hours, minutes, seconds = [*parts, 0, 0][:3]
    total = 24 * 60 * int(match["days"] or 0) + 60 * hours + minutes + math.ceil(seconds / 60)
    if total < 1:
        raise ValueError(f"time={time} is zero: use at least a minute")
    return total
