"""Whether a folder may be the run directory of a recipe. Needs no torch: a launcher asks before it submits a job."""

from pathlib import Path

from trainer.errors import UserError
from trainer.recipe import Recipe
from trainer.recipe_file import is_resolved, load_recipe, recipe_changes
from trainer.run.checkpoint_names import has_checkpoints
from trainer.run.progress import how_to_train_longer


def stored_recipe(folder: Path) -> Recipe:
    """The resolved recipe of a run. Raises UserError where there is none: `folder` is not a run."""
    if not (folder / "recipe.py").is_file():
        reason = "it has no recipe.py" if folder.is_dir() else "there is no such folder"
        raise UserError(f"{folder} is not the folder of a run: {reason}")
    return load_recipe(folder / "recipe.py")


def require_usable(folder: Path, recipe: Recipe) -> None:
    """Raises UserError where the folder's checkpoints are of another recipe (the message lists the differences), where
    it holds the result of a run without checkpoints, or where it is not a run directory."""
    stored = folder / "recipe.py"
    if stored.exists() and not is_resolved(stored):
        raise UserError(f"{stored} is somebody's own file: use another --run-dir")
    if not stored.exists() and (data := next(folder.glob("*.beton"), None)):
        raise UserError(f"{folder} holds data, {data.name}: use another --run-dir")
    if not has_checkpoints(folder) and (folder / "result.json").exists():
        raise UserError(f"{folder} holds a finished run without its checkpoints: use another --run-dir")
    if has_checkpoints(folder) and (changes := recipe_changes(stored_recipe(folder), recipe)):
        longer = any(change.startswith("epochs: ") for change in changes)
        raise UserError(
            f"{folder} was started with another recipe: {'; '.join(changes)}. Use another --run-dir, or the recipe as "
            f"it was{f'. {how_to_train_longer(folder)}' if longer else ''}"
        )
