"""A finished run as its directory records it, read without torch: recipe, curves, result, hardware.

Times are of training alone. They come from images_per_second in metrics.jsonl, which counts neither evaluations nor
the checkpoints between epochs, nor interruptions.
"""

import json
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

from trainer.errors import NOT_JSON, UserError, one_line
from trainer.evaluation.protocol import Protocol, TrainedWeights
from trainer.recipe import Recipe
from trainer.recipe_file import load_recipe
from trainer.run.init_weights import InitWeights
from trainer.run.metrics_file import read_metrics
from trainer.run.progress import total_steps

_RESULT: dict[str, Any] = {"seed": int, "top1": (int, float), "protocol": dict, "data": dict}


@dataclass(frozen=True, kw_only=True)
class Unfinished:
    """A run that has no result yet."""

    folder: Path
    state: str
    """its progress, for a line of text"""


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """A run with its result, and the curves that led to it."""

    folder: Path
    recipe: Recipe
    result: dict[str, Any]
    """as in result.json"""
    protocol: Protocol
    """of the result"""
    weights: TrainedWeights
    """of the protocol"""
    starts: list[dict[str, Any]]
    """the environment of each start; empty if none was recorded"""
    train: list[dict[str, Any]]
    """the records of training: step, epoch, loss, lr, images_per_second"""
    evaluations: list[dict[str, Any]]
    """the records of every epoch's evaluation of the weights that give the result: step, epoch, top1 (%)"""

    @property
    def init_weights(self) -> InitWeights:
        return self.weights.init_weights

    @property
    def commit(self) -> str | None:
        """The commit of the code, or those of its starts in order; None if none was recorded."""
        return (
            " then ".join(dict.fromkeys(str(start["commit"]) for start in self.starts if start.get("commit"))) or None
        )

    @property
    def top1(self) -> float:
        """Of the final weights, in %."""
        return float(self.result["top1"])

    @property
    def steps_per_epoch(self) -> int:
        return int(self.evaluations[-1]["step"]) // self.recipe.epochs

    def images(self, step: int) -> int:
        """Training images seen after this many steps."""
        return step * self.recipe.global_batch_size

    def seconds(self, step: int) -> float | None:
        """Training time until after this step, from images_per_second; None if no rate was logged.

        Each record's rate applies to the steps since the previous record; the last rate also to the steps after it.
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
        """The step of each training record, and the training time until then."""
        steps = [record["step"] for record in self.train]
        times = (
            self.images(step - before) / record["images_per_second"]
            for step, before, record in zip(steps, [0, *steps], self.train, strict=False)
        )
        return steps, list(accumulate(times))

    def reached(self, top1: float) -> dict[str, Any] | None:
        """The first evaluation with at least this top-1, in %; None if there is none."""
        return next((record for record in self.evaluations if record["top1"] >= top1), None)


def read_run(folder: Path) -> FinishedRun | Unfinished:
    """The run in this folder. Raises UserError, naming the file, if one of its files is damaged."""
    recipe = load_recipe(folder / "recipe.py")
    records = _records(folder / "metrics.jsonl")
    result = _json(folder / "result.json", dict, {})
    result_kind = "eval_ema" if recipe.ema else "eval_swa" if recipe.swa else "eval"
    evaluations = [record for record in records if record["kind"] == result_kind]
    if result and not records:
        raise UserError(f"{folder} has a result.json, but no metrics.jsonl with its curves")
    if (
        not result or not evaluations or evaluations[-1]["epoch"] < recipe.epochs
    ):  # started anew, with the old result still there
        return Unfinished(folder=folder, state=_progress(records, evaluations, recipe.epochs))
    for name, kind in _RESULT.items():
        if name == "protocol" and isinstance(result.get(name), str):
            raise UserError(
                f"{folder / 'result.json'} has no protocol as fields: another version of the trainer wrote it"
            )
        if not isinstance(result.get(name), kind):
            raise UserError(f"{folder / 'result.json'} is damaged: {name} is {result.get(name)!r}")
    if not all(isinstance(result["data"].get(split), str) for split in ("train", "val")):
        raise UserError(f"{folder / 'result.json'} is damaged: data has no checksums of train and val")
    try:
        protocol = Protocol.from_dict(result["protocol"])
        if not isinstance(protocol.weights, TrainedWeights):
            raise ValueError("its weights are not those of a run")
    except (TypeError, ValueError) as error:
        raise UserError(f"{folder / 'result.json'} is damaged: protocol: {one_line(str(error))}") from error
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
        protocol=protocol,
        weights=protocol.weights,
        starts=_starts(folder, result),
        train=[record for record in records if record["kind"] == "train"],
        evaluations=evaluations,
    )


def _is_start(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("packages", {}), dict)


def _starts(folder: Path, result: dict[str, Any]) -> list[dict[str, Any]]:
    """The environment of each start; of a folder without starts.json, the copy in its result.json."""
    path = folder / "starts.json"
    starts = _read(path, json.loads, result.get("starts", []))
    if not isinstance(starts, list) or not all(map(_is_start, starts)):
        if path.exists():
            raise UserError(f"{path} is damaged: remove it, result.json has a copy")
        raise UserError(f"{folder / 'result.json'} is damaged: starts is {starts!r:.100}")
    return starts


def _progress(records: list[dict[str, Any]], evaluations: list[dict[str, Any]], epochs: int) -> str:
    """How far a run is, and its last accuracy. Of a finished run that was started anew, these are the new records."""
    if not records:
        return f"no step of {epochs} epochs logged yet"
    step, epoch = records[-1]["step"], records[-1]["epoch"]
    steps = total_steps(step, epoch, epochs)
    of_steps = "" if steps is None else f" of {steps:,}"
    top1 = ""
    if evaluations:
        top1 = f"; preliminary top-1 {evaluations[-1]['top1']:.2f} % after epoch {evaluations[-1]['epoch']:g}"
    return f"step {step:,}{of_steps}, epoch {epoch:.{3 if steps is None else 2}f} of {epochs}{top1}"


def _records(path: Path) -> list[dict[str, Any]]:
    """The records of metrics.jsonl. Raises UserError for a damaged line, but not for a last line that was cut short."""
    try:
        records, damaged = read_metrics(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    if damaged:
        raise UserError(f"{path} is damaged, {damaged[0]}")
    return records


def _json(path: Path, kind: type, default: Any) -> Any:
    value = _read(path, json.loads, default)
    if not isinstance(value, kind):
        raise UserError(f"{path} is damaged: it is no JSON {'object' if kind is dict else 'list'}")
    return value


def _read(path: Path, parse: Callable[[str], Any], default: Any) -> Any:
    """The content of a file, or the default where there is none."""
    try:
        return parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return default
    except (OSError, *NOT_JSON) as error:
        raise UserError(f"{path} is damaged or cannot be read: {error}") from error
