"""metrics.jsonl: one JSON record per line. Its only reader, without torch; trainer/log/ writes it.

A record has kind, step, epoch and loss; "train" also lr and images_per_second; "eval", "eval_ema" and "eval_swa" also
top1.
"""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

from trainer.atomic import replace_text
from trainer.errors import NOT_JSON

Record = dict[str, Any]
_ALSO_NEEDED = {"train": ("lr", "images_per_second"), "eval": ("top1",), "eval_ema": ("top1",), "eval_swa": ("top1",)}


class MetricsFile(NamedTuple):
    """What the file holds."""

    records: list[Record]
    damaged: list[str]
    """a reason for each damaged line; a last line that a crash cut short is not one"""


def read_metrics(path: Path) -> MetricsFile:
    """Reads the records of the file, in order; none if there is no file. Raises OSError if it cannot be read."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        return MetricsFile([], [])
    records, damaged = [], []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except NOT_JSON as error:
            reason: str | None = str(error)
        else:
            reason = _reason(record)
        if reason is None:
            records.append(record)
        elif number < len(lines) or not line.isascii():  # records are ASCII, so nothing else was cut short
            damaged.append(f"line {number}: {line[:80]!r}: {reason}")
    return MetricsFile(records, damaged)


def truncate_metrics(path: Path, step: int) -> MetricsFile:
    """Keeps the records up to `step`, but no evaluation at `step`, which is still to come; returns what it kept."""
    if not path.exists():
        return MetricsFile([], [])
    records, damaged = read_metrics(path)
    kept = [
        record for record in records if record["step"] < step or (record["step"] == step and record["kind"] == "train")
    ]
    replace_text(path, "".join(json.dumps(record) + "\n" for record in kept))
    return MetricsFile(kept, damaged)


def _reason(record: Any) -> str | None:
    """Why this is not a record of a run; None if it is one."""
    if not isinstance(record, dict) or record.get("kind") not in tuple(_ALSO_NEEDED):
        return "not a record of a run"
    numbers = {name: number for name, number in record.items() if name not in ("kind", "spikes")}
    for name, number in numbers.items():
        if type(number) not in (int, float) or not abs(number) < sys.float_info.max:  # an int may be any length
            return f"{name} is not a finite number"
    if missing := {"step", "epoch", "loss", *_ALSO_NEEDED[record["kind"]]} - numbers.keys():
        return f"it has no {', '.join(sorted(missing))}"
    if type(numbers["step"]) is not int:
        return "step is not a whole number"
    for name in ("step", "epoch", "images_per_second"):
        if numbers.get(name, 1) <= 0:
            return f"{name} is not positive"
    return "top1 is negative" if numbers.get("top1", 0) < 0 else None
