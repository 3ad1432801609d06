"""The recipes command: lists the recipes with their published and measured results. Needs no torch."""

import re
from dataclasses import fields

from trainer.cli.suggestions import parts
from trainer.errors import UserError
from trainer.recipe_file import docstring, known_recipes, load_recipe, measured, recipe_names


def list_recipes(words: tuple[str, ...]) -> None:
    """Prints the recipes that any of `words` finds, or all. Raises UserError if there are none."""
    names = recipe_names()
    found = {name for word in words for name in _search(word, names)} if words else {*names}
    if not found:
        raise UserError(f"no recipe contains {' or '.join(words)}: {known_recipes()}")
    for name in names:
        if name not in found:
            continue
        published = load_recipe(name).published
        print(f"{name}: {docstring(name).partition(chr(10))[0]}")
        print(f"    published: {published or 'none'}\n    measured:  {measured(name)}")


def _search(word: str, names: list[str]) -> list[str]:
    """The recipes with this word in their name or, if there are none, at the beginning of a word of their text."""
    if found := [name for name in names if word.lower() in name]:
        return found
    pattern = re.compile(rf"(?<![a-z0-9]){re.escape(word)}", re.IGNORECASE)
    return [name for name in names if pattern.search(_text(name))]


def _text(name: str) -> str:
    """What a recipe can be found by: its docstring, data set and network, and the names of its parts."""
    recipe = load_recipe(name)
    found = [docstring(name), recipe.dataset]
    for part in parts():
        if value := getattr(recipe, part):
            found += [f"{part}={type(value).__name__}", type(value).__name__]
            found += [f"{field.name}={getattr(value, field.name)}" for field in fields(value)]
    return "\n".join(found)
