"""The recipes command: lists the recipes with their published and measured results. Needs no torch."""

from trainer.errors import UserError
from trainer.recipe_file import first_sentence, known_recipes, load_recipe, measured, recipe_names


def list_recipes(words: tuple[str, ...]) -> None:
    """Prints the recipes whose name contains one of `words`, or all. Raises UserError if there are none."""
    names = [name for name in recipe_names() if not words or any(word in name for word in words)]
    if not names:
        raise UserError(f"no recipe's name contains {' or '.join(words)}: {known_recipes()}")
    for name in names:
        published = load_recipe(name).published
        result = "none"
        if published:
            sd = f" +- {published.sd:g}" if published.sd is not None else ""
            result = f"{published.top1:g}{sd} % top-1 ({published.protocol}; {published.source})"
        print(f"{name}: {first_sentence(name)}")
        print(f"    published: {result}\n    measured:  {measured(name)}")
