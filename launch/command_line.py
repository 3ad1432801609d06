"""OPTIONS RECIPE [RECIPE ...] WORDS: options before the recipes are the launcher's, those after them the job's."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from launch import sweep
from launch.cluster import CLUSTERS
from launch.cluster_file import argv_of
from launch.habits import answered
from launch.settings import LaunchSettings, ProcessSettings
from launch.submission import Run
from launch.sweep import Value, combinations, settings_of
from trainer.cli.parse import parse as parse_options
from trainer.cli.parse import parse_train, train_argv
from trainer.errors import UserError
from trainer.recipe_file import known_recipes, recipe_source
from trainer.run.progress import names_a_file
from trainer.run.usable import require_usable
from trainer.settings import TrainSettings

T = TypeVar("T")
Launcher = TypeVar("Launcher", bound=LaunchSettings)
_INSTEAD = {"gres": "gpus_per_node", "gpus_per_node": "gres"}  # each says how many GPUs a node has


def parse(command: type[T], argv: Sequence[str], name: str, description: str | None = None) -> T:
    """The options of a command; they override those of the cluster's file. Raises UserError with one line."""
    from_file = []
    if issubclass(command, ProcessSettings):
        chosen = [word for place, word in enumerate(argv) if place and argv[place - 1] == "--cluster"]
        chosen += [word.partition("=")[2] for word in argv if word.startswith("--cluster=")]
        launchers = [cluster.settings for cluster in CLUSTERS.values() if issubclass(cluster.settings, ProcessSettings)]
        overridden = {_INSTEAD.get(name) for name in settings_of(argv)}
        from_file = [
            word
            for word in argv_of(command, list(launchers), Path(chosen[-1]) if chosen else None)
            if not settings_of([word]) & overridden
        ]
    empty = _may_be_empty(command)
    try:
        return parse_options(command, [*from_file, *argv], name, description, program="launch", may_be_empty=empty)
    except UserError as error:
        raise answered(error) from error


def parse_launch(command: type[Launcher], argv: Sequence[str], name: str) -> tuple[Launcher, list[str], list[str]]:
    """Returns the launcher's options, the names of the recipes, and the job's arguments."""
    usage = f"python -m launch {name} [OPTIONS] RECIPE [RECIPE ...] --data DIR --run-dir DIR"
    before, recipes, after = _split(command, argv)
    options = parse(command, before, name, f"{command.__doc__} The whole command: {usage} [--optimizer.lr 1.6 ...]")
    if not recipes:
        raise UserError(f"which recipe? {usage} ({known_recipes()})")
    return options, recipes, after


def runs_of(
    seeds: tuple[int, ...],
    recipes: list[str],
    argv: list[str],
    processes: int,
    vary: tuple[str, ...] = (),
    derived: Mapping[str, str] = MappingProxyType({}),
) -> list[Run]:
    """A run for each recipe, combination of values and seed, checked as python -m trainer train would.

    Each has a folder below --run-dir, named after what differs, where there are several. `derived`: options and values
    for what neither `argv` nor `vary` set. Raises UserError.
    """
    given = settings_of(argv)
    for option in ("seeds", "vary"):
        if option in given:
            raise UserError(f"--{option} is the launcher's: write it before the recipe's name")
    if seeds and "seed" in given:
        raise UserError("--seeds for the launcher and --seed for the job: use only one of them")
    chosen = combinations(vary, argv)
    given |= {value.setting for value in chosen[0]}
    argv = [*argv, *(word for pair in derived.items() if not settings_of(pair) & given for word in pair)]
    of_train = {field.name for field in fields(TrainSettings)}
    if of_recipe := [value.setting for value in chosen[0] if value.setting not in of_train]:
        argv = [*argv, "--hparams", *of_recipe]
    several = len(recipes) * len(chosen) * max(1, len(seeds)) > 1
    runs = [
        _run(name, argv, values, seed, processes, several)
        for name in recipes
        for values in chosen
        for seed in seeds or (None,)
    ]
    names = [run.name for run in runs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"two runs would be called {twice}: launch them with different --run-dir")
    _require_different(runs)
    return runs


def _run(name: str, argv: list[str], values: tuple[Value, ...], seed: int | None, processes: int, several: bool) -> Run:
    """The run with these values. Raises UserError, naming them, if python -m trainer train would."""
    varied = [word for value in values for word in value.argv()]
    seeded = [] if seed is None else ["--seed", str(seed)]
    try:
        recipe, settings = parse_train([name, *argv, *varied, *seeded], processes)
    except UserError as error:
        if not values:
            raise
        raise UserError(f"--vary {' '.join(map(str, values))}: {error}") from error
    label = "_".join(filter(None, (recipe.name, sweep.label(values), None if seed is None else f"seed{seed}")))
    folder = settings.run_dir.absolute()
    settings = replace(
        settings,
        data=settings.data_folder,
        run_dir=folder / label if several else folder,
        initial_weights=settings.initial_weights and settings.initial_weights.absolute(),
        teacher_weights=settings.teacher_weights and settings.teacher_weights.absolute(),
    )
    require_usable(settings.run_dir, recipe)  # else its processes say so, after hours in the queue
    return Run(
        name=label,
        recipe=recipe_source(recipe),
        run_dir=settings.run_dir,
        data=settings.data,
        options=tuple(train_argv(settings)),
        names_a_file=names_a_file(recipe, settings),
    )


def _require_different(runs: list[Run]) -> None:
    """Raises UserError if two runs would train the same: 0.1 and 0.10 are one value."""
    found: dict[object, Run] = {}
    for run in runs:
        options = [word for word in run.options if word != str(run.run_dir)]
        same = found.setdefault((run.recipe, *options), run)
        if same is not run:
            raise UserError(f"{same.name} and {run.name} would be the same training: name each value once")


def _may_be_empty(command: type) -> set[str]:
    """The options that name no path: an empty --container replaces that of the cluster's file."""
    texts = [field.name for field in fields(command) if field.type in ("str", "str | None", "Repeated")]
    return {f"--{name.replace('_', '-')}" for name in texts if name != "data"}


def _split(command: type, argv: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """The arguments before the recipes, the recipes, and those after them."""
    kinds = {f"--{field.name.replace('_', '-')}": str(field.type) for field in fields(command)}
    kinds |= {name.replace("--", "--no-", 1): kind for name, kind in kinds.items() if "bool" in kind}
    place = 0
    while place < len(argv) and argv[place].startswith("-"):
        kind = kinds.get(argv[place].replace("_", "-"), "")
        alone = "=" in argv[place] or "bool" in kind or argv[place] in ("-h", "--help")
        place += 1
        if "tuple[int" in kind:
            while place < len(argv) and re.fullmatch(r"-?\d+", argv[place]):
                place += 1
        elif not alone:
            place += 1
    end = place
    while end < len(argv) and not argv[end].startswith("-"):
        end += 1
    return list(argv[:place]), list(argv[place:end]), list(argv[end:])
