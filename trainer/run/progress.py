"""The progress of a run, read from its directory without torch."""

from dataclasses import dataclass
from pathlib import Path

from trainer.errors import UserError
from trainer.recipe_file import load_recipe
from trainer.run.metrics_file import read_metrics

_ROUNDING = 5e-7  # of the fractional epochs in metrics.jsonl


@dataclass(frozen=True, kw_only=True)
class RunProgress:
    """What metrics.jsonl holds so far; None where it holds nothing yet."""

    step: int = 0
    steps: int | None = None
    """of the whole training; None: not known yet"""
    epoch: float = 0.0
    epochs: int | None = None
    images_per_second: float | None = None
    """over all processes, at the last logged step"""
    top1: float | None = None
    """of the last evaluation, in %"""
    seconds_left: float | None = None
    """of training at that speed, without evaluations"""
    finished: bool = False


def read_progress(run_dir: Path) -> RunProgress:
    """The progress of the run in this folder, without damaged lines of its metrics."""
    try:
        recipe = load_recipe(run_dir / "recipe.py")
    except UserError:  # not started, or of another version
        return RunProgress()
    try:
        records = read_metrics(run_dir / "metrics.jsonl").records
    except OSError:
        records = []
    trained = [record for record in records if record["kind"] == "train"]
    evaluated = [record for record in records if record["kind"] != "train"]
    top1 = evaluated[-1]["top1"] if evaluated else None
    if not records:
        return RunProgress(epochs=recipe.epochs)
    step, epoch = records[-1]["step"], records[-1]["epoch"]
    steps = total_steps(step, epoch, recipe.epochs)
    speed = trained[-1]["images_per_second"] if trained else None
    left = (steps - step) * recipe.global_batch_size / speed if steps and speed else None
    over = bool(evaluated) and evaluated[-1]["epoch"] >= recipe.epochs and (run_dir / "result.json").is_file()
    return RunProgress(
        step=step,
        steps=steps,
        epoch=epoch,
        epochs=recipe.epochs,
        images_per_second=speed,
        top1=top1,
        seconds_left=left,
        finished=over,
    )


def total_steps(step: int, epoch: float, epochs: int) -> int | None:
    """The steps of the whole training, from a record's step and fractional epoch; None: not known yet."""
    per_epoch = step / epoch
    return None if per_epoch * _ROUNDING / epoch > 0.5 else round(per_epoch) * epochs
