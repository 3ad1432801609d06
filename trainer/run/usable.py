"""Whether a folder may be the run directory of a recipe. Needs no torch: a launcher asks before it submits a job."""

from pathlib import Path

from trainer.errors import DiskError, UserError
from trainer.recipe import Recipe
from trainer.recipe_file import is_resolved, load_recipe, recipe_diff
from trainer.run.checkpoint_names import has_checkpoints
from trainer.run.metrics_file import read_metrics
from trainer.run.progress import how_to_train_longer

SAVED = ".saved"
"""an empty file of a run that has saved a checkpoint"""
_WRITTEN = (
    "metrics.jsonl", "starts.json", "result.json", "log.txt", "progress.json", "not_finite.json",
    "events.out.tfevents.*", "checkpoints/[!.]*.*",
)  # fmt: skip
"""What training writes, replaces or removes. A launcher's own files are not among them."""


def is_run(folder: Path) -> bool:
    """Whether `folder` is a run directory: its recipe.py was written by a run, not by a person."""
    return (folder / "recipe.py").is_file() and is_resolved(folder / "recipe.py")


def stored_recipe(folder: Path) -> Recipe:
    """Reads the resolved recipe of a run. Raises UserError if there is none: `folder` is not a run."""
    if not (folder / "recipe.py").is_file():
        reason = "it has no recipe.py" if folder.is_dir() else "there is no such folder"
        raise UserError(f"{folder} is not the folder of a run: {reason}")
    return load_recipe(folder / "recipe.py")


def require_usable(folder: Path, recipe: Recipe) -> None:
    """Raises UserError if the folder's checkpoints are of another recipe (the message lists the differences), if
    it holds a run whose checkpoints are gone, or if it is not a run directory. The exit code is 75 where their disk
    is away."""
    stored = folder / "recipe.py"
    if stored.exists() and not is_resolved(stored):
        raise UserError(f"{stored} is somebody's own file: use another --run-dir")
    if not stored.exists():
        _require_free(folder)
    try:
        is_started = has_checkpoints(folder)
        lost_step = None if is_started or not stored.exists() else _saved_step(folder)
    except OSError as error:
        kind = DiskError if isinstance(error, FileNotFoundError) else UserError  # a link to a disk that is not mounted
        what = f"{error.filename}: {error.strerror}"
        raise kind(f"{what}: bring it back or make it readable, or use another --run-dir") from error
    if not is_started and (folder / "result.json").exists():
        raise UserError(f"{folder} holds a finished run without its checkpoints: use another --run-dir")
    if not is_started and lost_step is not None:
        raise UserError(
            f"{folder}: its checkpoints are gone (step {lost_step} in metrics.jsonl): bring them back, or use another "
            f"--run-dir"
        )
    if is_started and (changes := recipe_diff(stored_recipe(folder), recipe)):
        longer = any(change.setting == "epochs" for change in changes)
        raise UserError(
            f"{folder} was started with another recipe: {'; '.join(map(str, changes))}. Use another --run-dir, or the "
            f"recipe as it was{f'. {how_to_train_longer(folder)}' if longer else ''}"
        )


def _require_free(folder: Path) -> None:
    """Raises UserError if a folder without recipe.py holds what training would replace. That file is written first:
    a start that died early leaves none of these."""
    if data := next(folder.glob("*.beton"), None):
        raise UserError(f"{folder} holds data, {data.name}: use another --run-dir")
    if found := [path for pattern in _WRITTEN for path in folder.glob(pattern)]:
        what = f"{found[0].relative_to(folder)} of another program"
        raise UserError(f"{folder} holds {what} (it has no recipe.py of a run): use another --run-dir")


def _saved_step(folder: Path) -> int | None:
    """The last step that is logged of a run which has saved a checkpoint; None: it may have saved none.

    The first evaluation is logged after its checkpoint is written: it is the best so far. Raises OSError.
    """
    records = read_metrics(folder / "metrics.jsonl").records
    if not (folder / SAVED).exists() and all(record["kind"] == "train" for record in records):
        return None
    return records[-1]["step"] if records else 0
