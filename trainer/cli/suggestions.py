"""Answers to what newcomers type first: a network instead of a recipe, a part that does not exist, a peer's option."""

import difflib
import re
from dataclasses import fields, is_dataclass
from importlib.machinery import PathFinder
from itertools import zip_longest
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from trainer.cli import peer_options
from trainer.errors import counted
from trainer.recipe import Recipe

_BEGIN_WITH = ("_torchvision_v1", "_he2015")
"""The recipe of a network to begin with: the weights that most people compare with, or the paper's."""
_BESIDE = {"swa": ", ema=None, precise_norm_images=64 * base.micro_batch_size"}
"""What a part needs beside it in a recipe."""
_MOST_LISTED = 6  # names in one line
_FEWEST_LETTERS = 4  # of a word that may name a model of a library


def unknown_command(name: str, commands: list[str]) -> str:
    """The message for `python -m trainer NAME`, where there is no such command."""
    close = difflib.get_close_matches(name, commands, n=1)
    hint = f"did you mean {close[0]}?" if close else f"use {', '.join(commands)}"
    return f"there is no command {name!r}: {hint}"


def for_unknown_recipe(name: str, names: list[str]) -> str | None:
    """What to do instead of `train NAME`, where NAME is no recipe; None: nothing comes to mind."""
    wanted = re.sub(r"[^a-z0-9]", "", name.lower().rpartition("/")[2])
    networks = {each.partition("_")[0] for each in names}
    if wanted in networks:
        return _recipes_of(wanted, names)
    if close := difflib.get_close_matches(name, names, n=1, cutoff=0.8):
        return f"did you mean {close[0]}?"
    if library := library_of(name):
        return _train_library_model(f"{library}/{name.rpartition('/')[2]}")
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {close[0]}?" if close else None


def _recipes_of(network: str, names: list[str]) -> str:
    found = [name for name in names if name.startswith(f"{network}_")]
    first = next((network + suffix for suffix in _BEGIN_WITH if network + suffix in found), found[0])
    others = [name for name in found if name != first]
    if not others:
        return f"the recipe of this network is {first}"
    own = f", or with {network}_finetune for images of your own" if f"{network}_finetune" in others else ""
    also = (
        f"also: {', '.join(others)}"
        if len(others) <= _MOST_LISTED
        else f"python -m trainer recipes {network} lists all"
    )
    return f"{counted(len(found), 'recipe')} train this network. Begin with {first}{own}; {also}"


def _train_library_model(model: str) -> str:
    short = re.sub(r"\W", "_", model.partition("/")[2])
    return (
        f"it is a model of {model.partition('/')[0]}. To fine-tune it: train resnet50_finetune --model.name {model}. "
        f"To train it from scratch, write {short}.py and train that: from dataclasses import replace; from "
        f"recipes.resnet50_torchvision_v1 import recipe as base; from trainer.recipe import LibraryModel; recipe = "
        f'replace(base, name="{short}", published=None, model=LibraryModel(name="{model}"))'
    )


def library_of(name: str) -> str | None:
    """The library, torchvision or timm, that defines a model of this name. Reads their sources, imports nothing."""
    library, _, model = name.rpartition("/")
    if len(model) < _FEWEST_LETTERS or not model.isidentifier():
        return None
    definition = re.compile(rf"^def {model}\(", re.MULTILINE)
    for candidate in ("torchvision", "timm"):
        if library in ("", candidate) and any(definition.search(text) for text in _model_sources(candidate)):
            return candidate
    return None


def _model_sources(library: str) -> list[str]:
    spec = PathFinder.find_spec(library)
    folders = [Path(folder) / "models" for folder in (spec and spec.submodule_search_locations) or ()]
    return [
        file.read_text(encoding="utf-8", errors="replace") for folder in folders for file in sorted(folder.glob("*.py"))
    ]


def parts() -> dict[str, list[Any]]:
    """The parts of a recipe that are a choice, and what there is to choose from: "optimizer": [SGD, ...]."""
    found: dict[str, list[Any]] = {}
    for name, hint in get_type_hints(Recipe).items():
        kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        if name != "published" and (choices := [kind for kind in kinds if is_dataclass(kind)]):
            found[name] = choices
    return found


def for_unknown_part(name: str) -> str:
    """What to do where `from trainer.recipe import NAME` fails."""
    by_part = {part: [kind.__name__ for kind in kinds] for part, kinds in parts().items()}
    all_names = {kind for kinds in by_part.values() for kind in kinds}
    if close := difflib.get_close_matches(name, all_names, n=1, cutoff=0.75):
        return f"trainer.recipe has no {name}: did you mean {close[0]}?"
    listed = "; ".join(f"{part}: {', '.join(kinds)}" for part, kinds in by_part.items())
    return f"trainer.recipe has no {name}. The parts of a recipe are {listed}"


def for_unknown_options(unknown: list[str], name: str, recipe: Recipe) -> list[str]:
    """What to do instead of these options, which `train NAME` does not have."""
    answers = []
    for word, following in zip_longest(unknown, unknown[1:], fillvalue=""):
        option, _, given = word.partition("=")
        if answer := _for_part(option, given or following, name, recipe) or peer_options.answer(option):
            answers.append(f"Instead of {option}: {answer}")
    return answers


def _for_part(option: str, given: str, name: str, recipe: Recipe) -> str | None:
    """For `--optimizer adamw`, and for a value of a part that this recipe lacks, as --mixing.mixup-alpha 0.2."""
    part, _, value = option.removeprefix("--").replace("-", "_").partition(".")
    if not option.startswith("--") or part not in parts():
        return None
    kinds = parts()[part]
    if switched := _for_switch(part, value, given, name, recipe):
        return switched
    having = [kind for kind in kinds if value.partition(".")[0] in {field.name for field in fields(kind)}]
    if value and not having:
        return None
    names = ", ".join(kind.__name__ for kind in kinds)
    current = getattr(recipe, part)
    is_now = f"this recipe has {part}={type(current).__name__ if current else None}"
    asked = [kind for kind in kinds if kind.__name__.lower() == given.lower()]
    if not value and not asked and peer_options.answer(option):
        return None
    unused = [kind for kind in kinds if not isinstance(current, kind)]
    kind = (having if value else asked or unused or kinds)[0]
    example = _example(kind, current)
    imported = ", ".join(sorted(set(re.findall(r"\b([A-Z]\w*)\(", example))))
    base = name if "/" not in name and not name.endswith(".py") else "resnet50_torchvision_v1"
    return (
        f"{is_now}; a part is chosen in a recipe file, among {names}. Write mine.py and train that: from dataclasses "
        f"import replace; from recipes.{base} import recipe as base; from trainer.recipe import {imported}; "
        f'recipe = replace(base, name="mine", published=None, {part}={example}{_BESIDE.get(part, "")})'
    )


def _for_switch(part: str, value: str, given: str, name: str, recipe: Recipe) -> str | None:
    """For `--mixing None`, and for a part within a part: `--schedule.warmup None`, or without None to switch it on."""
    current, off = getattr(recipe, part), given.lower() == "none"
    if not value:
        if not off or type(None) not in get_args(get_type_hints(Recipe)[part]):
            return None
        if current is None:
            return f"this recipe has {part}=None already: leave it out"
        return _lines(name, f"{part}=None", f"this recipe has {part}={type(current).__name__}")
    hints = get_type_hints(type(current)) if is_dataclass(current) else {}
    kinds = [kind for kind in get_args(hints.get(value)) if is_dataclass(kind)]
    if not kinds or type(None) not in get_args(hints[value]):
        return None
    inner = getattr(current, value)
    is_now = f"this recipe has {part}.{value}={type(inner).__name__ if inner else None}"
    if off and inner is None:
        return f"{is_now} already: leave it out"
    kind: Any = kinds[0]
    new = "None" if off else _example(kind, inner)
    imported = "" if off else f"from trainer.recipe import {kind.__name__}; "
    return _lines(name, f"{part}=replace(base.{part}, {value}={new})", is_now, imported)


def _lines(name: str, change: str, is_now: str, imported: str = "") -> str:
    base = name if "/" not in name and not name.endswith(".py") else "resnet50_torchvision_v1"
    return (
        f"{is_now}; a part is chosen in a recipe file. Write mine.py and train that: from dataclasses import replace; "
        f"from recipes.{base} import recipe as base; {imported}"
        f'recipe = replace(base, name="mine", published=None, {change})'
    )


def _example(kind: Any, current: Any) -> str:
    """A part as it may be written, keeping the learning rate of the current one."""
    needed = {
        "lr": f"{getattr(current, 'lr', 0.1)!r}",
        "name": '"timm/lion"' if kind.__name__ == "LibraryOptimizer" else '"torchvision/resnext50_32x4d"',
        "depth": {"ResNet": "50", "WideResNet": "28"}.get(kind.__name__, "20"),
        "width": "10",
        "milestones": "(30, 60, 80)",
        "resolution": f"{getattr(current, 'resolution', 224)!r}",
        "decay": "0.9999",
        "probability": "0.25",
        "start_resolution": "160",
        "start_epoch": "3 * base.epochs // 4" if kind.__name__ == "SWA" else "0",  # SWA: as Izmailov et al. 2018
        "end_epoch": "60",
        "crop_ratio": "224 / 256",
        "epochs": f"{getattr(current, 'epochs', 5)!r}",
        "teacher": 'LibraryModel(name="timm/resnet152", pretrained=True)',
    }
    source = {field.name: needed[field.name] for field in fields(kind) if _is_required(field)}
    if kind.__name__ == "Mixing":
        source["mixup_alpha"] = "0.2"
    return f"{kind.__name__}({', '.join(f'{name}={value}' for name, value in source.items())})"


def _is_required(field: Any) -> bool:
    return repr(field.default) == repr(field.default_factory)  # both are MISSING


def imported_name(error: ImportError) -> str | None:
    """NAME where `from trainer.recipe import NAME` raised this error."""
    found = re.search(r"cannot import name '(\w+)' from 'trainer\.recipe'", str(error))
    return found[1] if found else None
