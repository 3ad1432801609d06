"""The progress of a run, read from its directory without torch."""

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from trainer.errors import NOT_JSON, UserError, counted
from trainer.recipe import Recipe
from trainer.recipe_file import load_recipe
from trainer.run.checkpoint_names import newest_step
from trainer.run.checksum import checksum_file, file_sha256
from trainer.run.live import read_live
from trainer.run.metrics_file import read_metrics
from trainer.settings import TrainSettings

_ROUNDING = 5e-7  # of the fractional epochs in metrics.jsonl


@dataclass(frozen=True, kw_only=True)
class RunProgress:
    """What metrics.jsonl holds so far, and progress.json of the steps since; None: not known yet."""

    step: int = 0
    steps: int | None = None
    """of the whole training; None: not known yet"""
    epoch: float = 0.0
    epochs: int | None = None
    images_per_second: float | None = None
    """over all processes, at the last step that is known"""
    top1: float | None = None
    """of the last evaluation, in %"""
    seconds_left: float | None = None
    """of training at that speed, without evaluations"""
    last_written: float | None = None
    """when the processes last wrote of a step, in seconds since 1970; None: none is training"""
    finished: bool = False


def read_progress(run_dir: Path) -> RunProgress:
    """Reads the progress of the run in this folder, without damaged lines of its metrics."""
    try:
        recipe = load_recipe(run_dir / "recipe.py")
    except UserError:  # not started, or of another version
        return RunProgress()
    records, saved = [], 0
    with contextlib.suppress(OSError):
        records = read_metrics(run_dir / "metrics.jsonl").records
    with contextlib.suppress(OSError):
        saved = newest_step(run_dir)
    trained = [record for record in records if record["kind"] == "train"]
    evaluated = [record for record in records if record["kind"] != "train"]
    top1 = evaluated[-1]["top1"] if evaluated else None
    live = read_live(run_dir)
    speed = trained[-1]["images_per_second"] if trained else None
    step, epoch = (records[-1]["step"], records[-1]["epoch"]) if records else (0, 0.0)
    if live and live.step > step:
        step, epoch, speed = live.step, live.epoch, live.images_per_second or speed
    steps = total_steps(step, epoch, recipe.epochs) if step else None
    if saved > step and (steps or not step):  # a stop saves between two lines of metrics
        step, epoch = saved, saved * recipe.epochs / steps if steps else epoch
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
        last_written=live.written if live else None,
        finished=over,
    )


def names_a_file(recipe: Recipe, settings: TrainSettings) -> bool:
    """Whether training needs initial or teacher weights, which have to be checked against those of the run."""
    return settings.initial_weights is not None or recipe.distillation is not None


def finished(run_dir: Path, recipe_source: str, data: str | None = None) -> str | None:
    """Returns what to say of a run that needs no more training; None: it is not finished, damaged or of another recipe.

    `recipe_source`: of the resolved recipe, as the run directory stores it. `data`: a folder whose manifests have to be
    those of the run's data; other data formats have none, so their runs are not known to be finished.
    """
    try:
        same = (run_dir / "recipe.py").read_text(encoding="utf-8") == recipe_source
        if not same or not (progress := read_progress(run_dir)).finished:
            return None
        result = json.loads((run_dir / "result.json").read_text(encoding="utf-8"))
        if data is not None and result["data"] != {split: _manifest_checksum(data, split) for split in result["data"]}:
            return None
        checkpoint = run_dir / "checkpoints" / f"step_{progress.step:08}.pt"
        if checksum_file(checkpoint).read_text(encoding="utf-8").split()[0] != file_sha256(checkpoint):
            return None
        top1 = f"top-1 {result['top1']:.2f} % after {counted(progress.step, 'step')}"
    except (OSError, *NOT_JSON, LookupError, TypeError):  # training finds out what is wrong
        return None
    return (
        f"{run_dir} is finished: {top1}. To measure it again: python -m trainer evaluate {quote(str(run_dir))}. "
        f"{how_to_train_longer(run_dir)}"
    )


def _manifest_checksum(data: str, split: str) -> str:
    checksum: str = json.loads((Path(data) / f"{split}.beton.json").read_text(encoding="utf-8"))["checksum"]
    return checksum


def how_to_train_longer(run_dir: Path) -> str:
    """Says what replaces a larger --epochs, which would have changed the learning rate of every step so far."""
    folder = run_dir / "checkpoints"
    newest = max(folder.glob("step_*.pt"), default=folder / "step_LAST.pt")
    return f"To train its weights further: a new --run-dir with --initial-weights {quote(str(newest))}"


def total_steps(step: int, epoch: float, epochs: int) -> int | None:
    """Computes the steps of the whole training, from a record's step and fractional epoch; None: not known yet."""
    per_epoch = step / epoch
    return None if per_epoch * _ROUNDING / epoch > 0.5 else round(per_epoch) * epochs
