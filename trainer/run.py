"""The run directory: which recipe it belongs to, what it ran on, what came out.

recipe.py  starts.json  metrics.jsonl  result.json  checkpoints/  tensorboard/
"""

import json
from pathlib import Path
from typing import Any

from trainer.checkpoint import Checkpoints
from trainer.errors import UserError
from trainer.recipe import Recipe
from trainer.settings import load_recipe, recipe_changes, recipe_source


class Run:
    """One run directory, new or to be continued."""

    def __init__(self, folder: Path, keep: int = 3) -> None:
        self.folder = folder
        self.checkpoints = Checkpoints(folder / "checkpoints", keep)

    @property
    def recipe(self) -> Recipe:
        """The resolved recipe. Raises UserError where there is none: `folder` is not a run."""
        if not (self.folder / "recipe.py").is_file():
            raise UserError(f"{self.folder} is not the folder of a run: it has no recipe.py")
        return load_recipe(self.folder / "recipe.py")

    def claim(self, recipe: Recipe) -> None:
        """Makes the directory this recipe's. Raises UserError where another's is trained there, with the difference."""
        if self.checkpoints.exist:
            if changes := recipe_changes(self.recipe, recipe):
                raise UserError(
                    f"{self.folder} was started with another recipe: {'; '.join(changes)}. "
                    f"Use another --run-dir, or the recipe as it was"
                )
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _replace(self.folder / "recipe.py", recipe_source(recipe))
        except OSError as error:
            raise UserError(f"{self.folder}: cannot be written: {error.strerror}") from error

    @property
    def starts(self) -> list[dict[str, Any]]:
        """What the run ran on, each time it was started."""
        path = self.folder / "starts.json"
        return json.loads(path.read_text()) if path.exists() else []

    def add_start(self, step: int, environment: dict[str, Any]) -> None:
        _replace(self.folder / "starts.json", json.dumps([*self.starts, {"step": step, **environment}], indent=2))

    def write_result(self, result: dict[str, Any]) -> None:
        _replace(self.folder / "result.json", json.dumps({**result, "starts": self.starts}, indent=2))


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text if text.endswith("\n") else text + "\n")
    partial.replace(path)
