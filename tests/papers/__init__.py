"""What the source of each recipe says, and what follows from it by hand. Every figure here is the source's, not ours.

One file a paper; each has PAPERS, by the name of the recipe. tests/recipes/test_recipes.py compares the recipe files
with them. A new recipe is an entry in its paper's file, or a new file: they are found here.
"""

import importlib
import pkgutil

from tests.papers.paper import Paper

PAPERS: dict[str, Paper] = {}
"""by the name of the recipe"""

for _file in sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "paper"):
    for _recipe, _paper in importlib.import_module(f"{__name__}.{_file}").PAPERS.items():
        if _recipe in PAPERS:
            raise ValueError(f"tests/papers/{_file}.py: {_recipe} is in another file too")
        PAPERS[_recipe] = _paper
