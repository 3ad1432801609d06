"""OPTIONS RECIPE [RECIPE ...] WORDS: options before the recipes are the launcher's, those after them the job's."""

import re
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TypeVar

from launch.cluster import CLUSTERS
from launch.cluster_file import words_of
from launch.settings import LaunchSettings, ProcessSettings
from launch.submission import Run
from trainer.cli import parse as parse_options
from trainer.cli import parse_train, train_words
from trainer.errors import UserError
from trainer.recipe_file import known_recipes, recipe_source

T = TypeVar("T")
Launcher = TypeVar("Launcher", bound=LaunchSettings)


def parse(command: type[T], words: Sequence[str], name: str) -> T:
    """The options of a command; they override those of the cluster's file. Raises UserError with one line."""
    from_file = []
    if issubclass(command, ProcessSettings):
        chosen = [word for place, word in enumerate(words) if place and words[place - 1] == "--cluster"]
        chosen += [word.partition("=")[2] for word in words if word.startswith("--cluster=")]
        launchers = [cluster.settings for cluster in CLUSTERS.values() if issubclass(cluster.settings, ProcessSettings)]
        from_file = words_of(command, list(launchers), Path(chosen[-1]) if chosen else None)
    return parse_options(command, [*from_file, *words], name, program="launch")


def parse_launch(command: type[Launcher], words: Sequence[str], name: str) -> tuple[Launcher, list[str], list[str]]:
    """-> the launcher's options, the recipes' names, the words of the job."""
    usage = f"python -m launch {name} [OPTIONS] RECIPE [RECIPE ...] --data DIR --run-dir DIR"
    before, recipes, after = _split(command, words)
    if {"-h", "--help"} & set(before):
        print(f"usage: {usage} [--optimizer.lr 1.6 ...]\n")
    options = parse(command, before, name)
    if not recipes:
        raise UserError(f"which recipe? {usage} ({known_recipes()})")
    return options, recipes, after


def runs_of(seeds: tuple[int, ...], recipes: list[str], words: list[str], processes: int) -> list[Run]:
    """A run for each recipe and seed, checked as python -m trainer train would, for this number of processes.

    Each has a folder below --run-dir, named after recipe and seed, where there are several. Raises UserError.
    """
    if seeds and any(word == "--seed" or word.startswith("--seed=") for word in words):
        raise UserError("--seeds for the launcher and --seed for the job: use one of both")
    several = len(recipes) * max(1, len(seeds)) > 1
    runs: list[Run] = []
    for name in recipes:
        for seed in seeds or (None,):
            chosen = [] if seed is None else ["--seed", str(seed)]
            recipe, settings = parse_train([name, *words, *chosen], processes)
            label = recipe.name if seed is None else f"{recipe.name}_seed{seed}"
            folder = settings.run_dir.absolute()
            settings = replace(
                settings,
                data=settings.data_folder,
                run_dir=folder / label if several else folder,
                initial_weights=settings.initial_weights and settings.initial_weights.absolute(),
            )
            run = Run(
                name=label,
                recipe=recipe_source(recipe),
                run_dir=settings.run_dir,
                data=settings.data,
                options=tuple(train_words(settings)),
            )
            runs.append(run)
    names = [run.name for run in runs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"two runs would be called {twice}: launch them with different --run-dir")
    return runs


def _split(command: type, words: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """The words before the recipes, the recipes, and those after them."""
    kinds = {f"--{field.name.replace('_', '-')}": str(field.type) for field in fields(command)}
    kinds |= {name.replace("--", "--no-", 1): kind for name, kind in kinds.items() if "bool" in kind}
    place = 0
    while place < len(words) and words[place].startswith("-"):
        kind = kinds.get(words[place].replace("_", "-"), "")
        alone = "=" in words[place] or "bool" in kind or words[place] in ("-h", "--help")
        place += 1
        if "tuple[int" in kind:
            while place < len(words) and re.fullmatch(r"-?\d+", words[place]):
                place += 1
        elif not alone:
            place += 1
    end = place
    while end < len(words) and not words[end].startswith("-"):
        end += 1
    return list(words[:place]), list(words[place:end]), list(words[end:])
