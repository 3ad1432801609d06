"""Recipe files: finds, loads and checks them, and writes a resolved recipe as Python."""

import ast
import re
import runpy
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import trainer.recipe
from trainer.cli import suggestions
from trainer.errors import UserError
from trainer.recipe import Recipe

RECIPES = Path(__file__).parent.parent / "recipes"
_WRITTEN_BY_US = '"""The resolved recipe of a run'


def recipe_names() -> list[str]:
    """Lists the names of the recipes in recipes/, sorted."""
    return sorted(path.stem for path in RECIPES.glob("*.py") if not path.stem.startswith("_"))


def docstring(name: str) -> str:
    """Returns the docstring of a recipe in recipes/. Its first line is what the recipe trains, and from which paper."""
    return ast.get_docstring(ast.parse((RECIPES / f"{name}.py").read_text(encoding="utf-8"))) or ""


def measured(name: str) -> str:
    """Returns the result measured with this code, from the ledger recipes/README.md; "not yet" if there is none."""
    for line in (RECIPES / "README.md").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"| `{name}` |"):
            return line.split("|")[4].strip()
    return "not yet"


def load_recipe(name: str | Path) -> Recipe:
    """Loads a recipe by its name in recipes/, or by the path of a Python file. The file is executed.

    Raises UserError if there is none, or if the file does not define `recipe = Recipe(...)`.
    """
    path = RECIPES / f"{name}.py"
    if not path.is_file():
        path = Path(name)
        if path.suffix != ".py":
            hint = suggestions.for_unknown_recipe(str(name), recipe_names())
            own = "(a recipe of your own is a path that ends in .py)"
            raise UserError(f"no recipe is called {str(name)!r}: {hint or f'{known_recipes()} {own}'}")
        if not path.is_file():
            raise UserError(f"{path}: there is no such recipe file")
    try:
        found = runpy.run_path(str(path))  # not an import: its cache misses an edit within a second
    except (Exception, SystemExit) as error:  # the user's code: whatever it raises is that file's error
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        if isinstance(error, ImportError) and (part := suggestions.imported_name(error)):
            reason = suggestions.for_unknown_part(part)
        elif isinstance(error, TypeError) and is_resolved(path):
            reason += ": the run was made by another version of the trainer, use that version or another --run-dir"
        raise UserError(f"{path}: not a recipe: {reason}") from error
    recipe = found.get("recipe")
    if not isinstance(recipe, Recipe):
        raise UserError(f"{path}: not a recipe: it has to define recipe = Recipe(...) of trainer.recipe")
    try:
        check_values(recipe, Recipe, "")
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    return recipe


def recipe_source(recipe: Recipe) -> str:
    """Returns the source of a Python file that defines this recipe, with every value written out."""
    used = sorted(set(re.findall(r"\b([A-Z]\w*)\(", _written(recipe, 0))) & set(vars(trainer.recipe)))
    return (
        f'{_WRITTEN_BY_US}: python -m trainer train THIS_FILE --data DIR --run-dir DIR."""\n\n'
        f"from trainer.recipe import {', '.join(used)}\n\nrecipe = {_written(recipe, 0)}\n"
    )


class Change(NamedTuple):
    """One setting that differs between two recipes."""

    setting: str
    """its name, as on the command line: "optimizer.lr" """
    old: Any
    new: Any

    def __str__(self) -> str:
        """For people, such as "optimizer.lr: 0.1 -> 0.2"."""
        return f"{self.setting}: {self.old} -> {self.new}"


def recipe_diff(old: Recipe, new: Recipe) -> list[Change]:
    """Lists the settings that differ, without the published result: to correct it changes no training."""
    return _diff(_flat(old), _flat(new))


def _diff(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    return [
        Change(name, before.get(name), after.get(name))
        for name in dict.fromkeys((*before, *after))
        if before.get(name) != after.get(name) and name.partition(".")[0] != "published"
    ]


def changes_since(recorded: Mapping[str, Any], settings: Mapping[str, Any]) -> list[Change]:
    """The same for settings_of() a recipe now and at a checkpoint.

    What the checkpoint lacks came with a later version of the trainer, unless it is an item of a dict: a part has a
    name of its own among the settings, and a dict has none.
    """
    later = {name for name in settings.keys() - recorded.keys() if name.rpartition(".")[0] in {"", *settings}}
    known = {name: value for name, value in settings.items() if name not in later}
    return _diff(recorded, known)


def override_diff(recipe: Recipe) -> list[Change]:
    """The changes against the recipe of this name in recipes/, except the seed; empty if there is no such recipe."""
    if recipe.name not in recipe_names():
        return []
    return [change for change in recipe_diff(load_recipe(recipe.name), recipe) if change.setting != "seed"]


def overrides_of(recipe: Recipe) -> list[str]:
    """The same changes as text."""
    return [str(change) for change in override_diff(recipe)]


def _written(value: Any, depth: int) -> str:
    if not is_dataclass(value):
        return repr(value)
    indent = "    " * (depth + 1)
    lines = [f"{indent}{field.name}={_written(getattr(value, field.name), depth + 1)},\n" for field in fields(value)]
    return f"{type(value).__name__}(\n{''.join(lines)}{'    ' * depth})"


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """Returns the settings by their names on the command line.

    "optimizer.lr": 0.1; a part by its class: "optimizer": "SGD".
    """
    return _flat(recipe)


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {f"{prefix}.{name}": inner for name, inner in value.items()}
    if not is_dataclass(value):
        return {prefix: value}
    flat: dict[str, Any] = {prefix: type(value).__name__} if prefix else {}
    for field in fields(value):
        flat |= _flat(getattr(value, field.name), f"{prefix}.{field.name}" if prefix else field.name)
    return flat


def known_recipes() -> str:
    return f"python -m trainer recipes lists all {len(recipe_names())}"


def is_resolved(path: Path) -> bool:
    """Whether `path` was written by recipe_source."""
    return path.read_bytes().startswith(_WRITTEN_BY_US.encode())  # a user's own file may have any encoding


def check_values(value: Any, hint: Any, name: str) -> None:
    """Raises ValueError if a value is not exactly of its field's type. Recipes are compared and stored as text.

    Dataclasses do not check types themselves. An int is accepted as a float; numpy scalars and lists are refused.
    """
    kind, choices = get_origin(hint), get_args(hint)
    if kind in (Union, UnionType):
        fitting = [choice for choice in choices if _is_kind(value, choice)]
        if not fitting:
            raise ValueError(f"{name}={value!r} is not {' or '.join(_called(choice) for choice in choices)}")
        check_values(value, fitting[0], name)
    elif kind is Literal:
        if value not in choices:
            raise ValueError(f"{name}={value!r} is not one of {', '.join(map(repr, choices))}")
    elif kind is tuple:
        if type(value) is not tuple or (choices[-1] is not ... and len(value) != len(choices)):
            raise ValueError(f"{name}={value!r} is not a tuple{'' if ... in choices else f' of {len(choices)}'}")
        for item in value:
            check_values(item, choices[0], name)
    elif not _is_kind(value, hint):
        raise ValueError(f"{name}={value!r} is not of type {hint.__name__}")
    elif is_dataclass(value):
        hints = get_type_hints(type(value))
        for field in fields(value):
            check_values(getattr(value, field.name), hints[field.name], f"{name}.{field.name}".removeprefix("."))


def _is_kind(value: Any, hint: Any) -> bool:
    """Whether a value has this type; of a tuple the items are not checked, of a Literal the value is."""
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    return type(value) is (get_origin(hint) or hint) or (hint is float and type(value) is int)


def _called(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    return "None" if hint is NoneType else str(hint.__name__)
