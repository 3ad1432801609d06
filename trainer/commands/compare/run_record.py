"""What a run directory says of its run, read without torch: recipe, curves, result, hardware.

Time is that of training alone: metrics.jsonl has no clock but images_per_second, which counts neither evaluations nor
the saving at the end of an epoch, nor what a stop cost.
"""

import json
import re
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

from trainer.errors import UserError
from trainer.recipe import Recipe
from trainer.recipe_file import is_resolved, load_recipe
from trainer.run.progress import total_steps

_NEEDED: dict[str, dict[str, Any]] = {
    "train": {
        "step": int,
        "epoch": (int, float),
        "loss": (int, float),
        "lr": (int, float),
        "images_per_second": (int, float),
    },
    "eval": {"step": int, "epoch": (int, float), "top1": (int, float)},
}
_NEEDED["eval_ema"] = _NEEDED["eval"]
_RESULT: dict[str, Any] = {
    "seed": int,
    "top1": (int, float),
    "seen": int,
    "total": int,
    "duplicates": int,
    "protocol": str,
    "data": dict,
}
PRETRAINED = "the library's pretrained weights"  # as a protocol has it
_STARTED_FROM = re.compile(rf" steps, started from ({PRETRAINED}|.*? \(sha256:\w+\)),")


@dataclass(frozen=True, kw_only=True)
class Unfinished:
    """A run that has no result yet."""

    folder: Path
    state: str
    """how far it is, in words"""


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """A run with its result, and the curves that led to it."""

    folder: Path
    recipe: Recipe
    result: dict[str, Any]
    """as in result.json"""
    starts: list[dict[str, Any]]
    """as in starts.json"""
    train: list[dict[str, Any]]
    """the records of training: step, epoch, loss, lr, images_per_second"""
    evaluations: list[dict[str, Any]]
    """the records of every epoch's evaluation, of those weights that the result is of: step, epoch, top1 (%)"""

    @property
    def top1(self) -> float:
        """Of the final weights, in %."""
        return float(self.result["top1"])

    @property
    def steps_per_epoch(self) -> int:
        return int(self.evaluations[-1]["step"]) // self.recipe.epochs

    @property
    def started_from(self) -> str | None:
        """The weights that training started from, in words; None: the recipe's own initialisation."""
        found = _STARTED_FROM.search(self.result["protocol"])
        return found.group(1) if found else None

    def images(self, step: int) -> int:
        """Training images seen after so many steps."""
        return step * self.recipe.global_batch_size

    def seconds(self, step: int) -> float | None:
        """Training time until after this step, from images_per_second; None where no rate was logged.

        Each record's rate holds since the record before; the last one's for the steps that came after it.
        """
        if not self.train:
            return None
        steps, seconds = self._clock
        place = bisect_right(steps, step)  # records up to this step
        rate = self.train[min(place, len(self.train) - 1)]["images_per_second"]
        done, so_far = (steps[place - 1], seconds[place - 1]) if place else (0, 0.0)
        return so_far + self.images(step - done) / float(rate)

    @cached_property
    def _clock(self) -> tuple[list[int], list[float]]:
        """The step of each record of training, and the time until then."""
        steps = [record["step"] for record in self.train]
        times = (
            self.images(step - before) / record["images_per_second"]
            for step, before, record in zip(steps, [0, *steps], self.train, strict=False)
        )
        return steps, list(accumulate(times))

    def reached(self, top1: float) -> dict[str, Any] | None:
        """The first evaluation of at least this top-1, in %; None where none was."""
        return next((record for record in self.evaluations if record["top1"] >= top1), None)


def is_run(folder: Path) -> bool:
    """Whether `folder` is a run's: it holds a recipe that was written by a run, not by a person."""
    try:
        return (folder / "recipe.py").is_file() and is_resolved(folder / "recipe.py")
    except UnicodeDecodeError:
        return False


def read_run(folder: Path) -> FinishedRun | Unfinished:
    """The run in this folder. Raises UserError, naming the file, where one of its files is damaged."""
    recipe = load_recipe(folder / "recipe.py")
    records = _metrics(folder / "metrics.jsonl")
    result = _json(folder / "result.json", dict, {})
    evaluations = [record for record in records if record["kind"] == ("eval_ema" if recipe.ema else "eval")]
    if result and not records:
        raise UserError(f"{folder} has a result.json, but no metrics.jsonl that tells how it was reached")
    if not result or not evaluations or evaluations[-1]["epoch"] < recipe.epochs:  # begun anew, it keeps an old result
        return Unfinished(folder=folder, state=_progress(records, recipe.epochs))
    for name, kind in _RESULT.items():
        if not isinstance(result.get(name), kind):
            raise UserError(f"{folder / 'result.json'} is damaged: {name} is {result.get(name)!r}")
    if not all(isinstance(result["data"].get(split), str) for split in ("train", "val")):
        raise UserError(f"{folder / 'result.json'} is damaged: data has no checksums of train and val")
    starts = _json(folder / "starts.json", list, [])
    if not all(isinstance(start, dict) and isinstance(start.get("packages", {}), dict) for start in starts):
        raise UserError(f"{folder / 'starts.json'} is damaged: remove it, it is a record only")
    last = evaluations[-1]
    if (last["epoch"], last["top1"], result["seed"]) != (recipe.epochs, result["top1"], recipe.seed):
        raise UserError(
            f"{folder}: metrics.jsonl ends with {last['top1']} % after epoch {last['epoch']}, result.json has "
            f"{result['top1']} % after epoch {recipe.epochs}: they are not of one run"
        )
    return FinishedRun(
        folder=folder,
        recipe=recipe,
        result=result,
        starts=starts,
        train=[record for record in records if record["kind"] == "train"],
        evaluations=evaluations,
    )


def _progress(records: list[dict[str, Any]], epochs: int) -> str:
    if not records:
        return f"no step of {epochs} epochs logged yet"
    step, epoch = records[-1]["step"], records[-1]["epoch"]
    steps = total_steps(step, epoch, epochs)
    return f"step {step:,}, epoch {epoch:.3f} of {epochs}" if steps is None else f"step {step:,} of {steps:,}"


def _metrics(path: Path) -> list[dict[str, Any]]:
    """The records of metrics.jsonl; a last line that was cut short is left out, as a run that goes on does."""
    lines = _read(path, lambda text: text.splitlines(), [])
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except ValueError as error:
            if number == len(lines):
                break
            raise UserError(f"{path} is damaged, line {number}: {error}") from error
        needed = _NEEDED.get(str(record.get("kind")), {}) if isinstance(record, dict) else {}
        if not needed or not all(isinstance(record.get(name), kind) for name, kind in needed.items()):
            raise UserError(f"{path} is damaged, line {number}: {line[:80]!r} is no record of a run")
        if min(record["step"], record["epoch"], record.get("images_per_second", 1)) <= 0:
            raise UserError(f"{path} is damaged, line {number}: step, epoch or images_per_second is not positive")
        records.append(record)
    return records


def _json(path: Path, kind: type, default: Any) -> Any:
    value = _read(path, json.loads, default)
    if not isinstance(value, kind):
        raise UserError(f"{path} is damaged: it is no JSON {'object' if kind is dict else 'list'}")
    return value


def _read(path: Path, parse: Callable[[str], Any], default: Any) -> Any:
    """The content of a file, or the default where there is none."""
    try:
        return parse(path.read_text())
    except FileNotFoundError:
        return default
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged or cannot be read: {error}") from error
