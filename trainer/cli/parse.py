"""Parses command lines: RECIPE, options and overrides of the recipe's values. Each mistake becomes one line."""

from __future__ import annotations

import contextlib
import inspect
import io
import os
import re
import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import fields, make_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar

import tyro

from trainer.cli import suggestions
from trainer.errors import UserError, one_line
from trainer.recipe import FineTuning, Recipe
from trainer.recipe_file import known_recipes, load_recipe, recipe_names, settings_of
from trainer.settings import TrainSettings

if TYPE_CHECKING:
    from trainer.data.beton.prepare import PrepareOptions

T = TypeVar("T")


class Prepare(NamedTuple):
    """What the prepare command was asked for."""

    kind: str  # folder, cifar10, ...
    source: Any  # as KINDS gives its type; None: the kind has no argument
    out: Path
    options: PrepareOptions


_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_FAILED_CHECK = re.compile(r"^Error parsing \w+: ")  # what tyro puts before the message of a ValueError of ours
_NARROWEST = 40  # columns: tyro does not return in a window of four
_IDENTITY = ("name", "dataset", "published")  # fields of a recipe that the command line cannot change


def parse_with_recipe(options: type[T], argv: Sequence[str], command: str) -> tuple[Recipe, T]:
    """Parses `RECIPE OPTIONS [--optimizer.lr 1.6 ...]` into the resolved recipe and the command's options."""
    usage = f"python -m trainer {command} RECIPE"
    if not argv:
        raise UserError(f"which recipe? {usage} ... ({known_recipes()})")
    if argv[0] in ("-h", "--help"):
        parse(options, ["--help"], f"{command} RECIPE", _recipe_help(options))
    if argv[0].startswith("-"):
        network = argv[1] if len(argv) > 1 and argv[0] in ("-a", "--arch", "--model", "-m") else None
        if network and (hint := suggestions.for_unknown_recipe(network, recipe_names())):
            raise UserError(f"the recipe comes first: {usage} ... For {one_line(network)}: {hint}")
        raise UserError(f"the recipe comes first: {usage} {argv[0]} ... ({known_recipes()})")
    recipe = load_recipe(argv[0])
    if recipe.fine_tuning is None and any(re.match("--fine[-_]tuning[.]", word) for word in argv):
        recipe = replace(recipe, fine_tuning=FineTuning())  # its values can be given to any recipe
    hidden = [(name, Annotated[Any, tyro.conf.Suppress], getattr(recipe, name)) for name in _IDENTITY]
    # tyro makes options of dataclasses, so two are built here: the recipe's without its identity, and one with both.
    # Their values are the defaults that --help shows; the empty names leave out the prefixes --settings. and --recipe.
    overrides = make_dataclass("Recipe", hidden, bases=(Recipe,), frozen=True, kw_only=True)
    both = make_dataclass(
        "Both",
        [
            ("settings", Annotated[options, tyro.conf.arg(name="")]),
            ("recipe", Annotated[overrides, tyro.conf.arg(name="")], overrides(**_shallow(recipe))),
        ],
        kw_only=True,
    )
    try:
        parsed: Any = parse(both, argv[1:], f"{command} {argv[0]}", options.__doc__)
    except UserError as error:
        unknown = _unrecognized(str(error))
        if answers := suggestions.for_unknown_options(unknown, argv[0], recipe):
            raise UserError(f"Unrecognized options: {', '.join(unknown)}. {'. '.join(answers)}") from error
        if len(argv) > 1 and not argv[1].startswith("-") and "--data" in str(error):
            raise UserError(
                f"{one_line(argv[1])!r} needs an option before it: did you mean --data {argv[1]}? {error}"
            ) from error
        raise
    return Recipe(**_shallow(parsed.recipe)), parsed.settings


def parse_train(argv: Sequence[str], processes: int | None = None) -> tuple[Recipe, TrainSettings]:
    """Parses `RECIPE --data DIR --run-dir DIR [--optimizer.lr 1.6 ...]`.

    Raises UserError for a mistake, and if the recipe's batch cannot be divided over this number of `processes`.
    """
    recipe, settings = parse_with_recipe(TrainSettings, argv, "train")
    for name in settings.hparams:
        if name not in settings_of(recipe):
            raise UserError(f"--hparams {name}: {recipe.name} has no setting of this name, such as optimizer.lr")
    if processes:
        try:
            recipe.accumulation(processes)
        except ValueError as error:
            raise UserError(str(error)) from error
    return recipe, settings


def train_argv(settings: TrainSettings) -> list[str]:
    """The inverse of parse_train: the options for these settings, without those that have their defaults."""
    argv = []
    for field in fields(TrainSettings):
        value = getattr(settings, field.name)
        option = field.name.replace("_", "-")
        if value == field.default:
            continue
        if isinstance(value, bool):
            argv.append(f"--{option}" if value else f"--no-{option}")
        else:
            argv += [f"--{option}", *map(str, value if isinstance(value, tuple) else [value])]
    return argv


def parse_prepare(argv: Sequence[str]) -> Prepare:
    """Parses `folder SRC --out DIR [--max-resolution 400 ...]`: what to convert, and how."""
    from trainer.data.sources.kinds import KINDS, default_options

    kind = argv[0] if argv else ""
    usage = " | ".join(f"{name} {known.argument}".strip() for name, known in KINDS.items())
    if kind in ("-h", "--help"):
        print(f"usage: python -m trainer prepare {usage}  --out DIR, or adopt FILE ...; add --help for options")
        raise SystemExit(0)
    if kind not in KINDS:
        which = f"not {kind!r}" if kind else "and the kind comes first"
        raise UserError(f"prepare converts {', '.join(KINDS)}, {which}: use python -m trainer prepare folder SRC")
    defaults = default_options(kind, argv[1:])
    fixed = tyro.conf.Fixed, tyro.conf.SuppressFixed
    left_out = [(name, Annotated[Any, *fixed], getattr(defaults, name)) for name in KINDS[kind].without]
    known = make_dataclass("Options", left_out, bases=(type(defaults),), frozen=True, kw_only=True)
    options: list[Any] = [
        ("out", Annotated[Path, tyro.conf.arg(help="folder to write train.beton and val.beton into")]),
        ("options", Annotated[known, tyro.conf.arg(name="")], known(**_shallow(defaults))),
    ]
    if KINDS[kind].argument:
        argument = tyro.conf.arg(help=KINDS[kind].help, metavar=KINDS[kind].argument, help_behavior_hint="(required)")
        options.insert(0, ("source", Annotated[KINDS[kind].type, tyro.conf.Positional, argument]))
    prepare = make_dataclass("Prepare", options, kw_only=True)
    parsed: Any = parse(prepare, argv[1:], f"prepare {kind}", f"Convert {KINDS[kind].images} to .beton files.")
    source = getattr(parsed, "source", None)
    if source == ():  # tyro takes none for an answer
        raise UserError(f"Missing from python -m trainer prepare {kind}: {KINDS[kind].argument} {KINDS[kind].help}")
    return Prepare(kind, source, parsed.out, type(defaults)(**_shallow(parsed.options)))


def parse(
    options: type[T],
    argv: Sequence[str],
    command: str,
    description: str | None = None,
    *,
    program: str = "trainer",
    may_be_empty: Collection[str] = (),
) -> T:
    """Parses the options of one command into its dataclass. Raises UserError with one line for any mistake.

    `may_be_empty`: the options that take an empty word, such as --setup.
    """
    _refuse_empty(argv, command, may_be_empty)
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed), _wide_enough(), _lines_joined(argv):
            return tyro.cli(
                options,
                args=list(argv),
                prog=f"python -m {program} {command}",
                description=description or options.__doc__,
                config=(tyro.conf.AvoidSubcommands,),
            )
    except ValueError as error:
        raise UserError(str(error)) from error
    except SystemExit as end:
        if end.code:
            raise UserError(f"{_one_line(printed.getvalue())}; see python -m {program} {command} --help") from end
        raise


def _refuse_empty(argv: Sequence[str], command: str, allowed: Collection[str]) -> None:
    """Raises UserError for a word like "$RUN" where RUN is unset: as a path it would mean the current folder."""
    for place, word in enumerate(argv):
        before, equals, value = word.partition("=")
        if not word:
            before = argv[place - 1] if place else command
        elif value or not (equals and word.startswith("-")):
            continue
        if before.replace("_", "-") not in allowed:
            what = before if before.startswith("-") else f"the word after {before}"
            raise UserError(f"{what} is empty: is a variable unset?")


@contextlib.contextmanager
def _wide_enough() -> Iterator[None]:
    """Gives tyro at least 40 columns to draw in."""
    given = os.environ.get("COLUMNS")
    if shutil.get_terminal_size().columns < _NARROWEST:
        os.environ["COLUMNS"] = str(_NARROWEST)
    try:
        yield
    finally:
        if given is None:
            os.environ.pop("COLUMNS", None)
        else:
            os.environ["COLUMNS"] = given


@contextlib.contextmanager
def _lines_joined(argv: Sequence[str]) -> Iterator[None]:
    """Help texts have no line breaks but those between paragraphs.

    docstring_parser, which tyro asks for the docstring of a field, keeps the indentation of its lines
    (docstring_parser 0.18, attrdoc.py), and tyro keeps the breaks before indented lines.
    """
    if not {"-h", "--help"} & set(argv):
        yield
        return
    from docstring_parser import attrdoc

    def unindented(node: Any) -> Any:
        return inspect.cleandoc(node.value) if isinstance(node.value, str) else node.value

    as_it_is = attrdoc.ast_get_constant_value
    attrdoc.ast_get_constant_value = unindented
    try:
        yield
    finally:
        attrdoc.ast_get_constant_value = as_it_is


def _unrecognized(message: str) -> list[str]:
    """The words that tyro does not know, from its message."""
    _, found, rest = message.partition("Unrecognized options: ")
    return re.split(r",? ", rest.partition("; see ")[0].partition(" (did you mean")[0]) if found else []


def _one_line(box: str) -> str:
    """The message inside the box that tyro draws around an error, with the options that tyro suggests."""
    box = _COLOUR.sub("", box)  # tyro colours it where stdout is a terminal
    lines = [line.strip("│ ") for line in box.splitlines() if line.startswith(("│", "  "))]
    message, _, rest = re.sub(r" *(─────+|-----+) *", "\n", " ".join(lines)).strip().partition("\n")
    message = _FAILED_CHECK.sub("", message)
    suggestions = re.findall(r"(?:^|\s)(--[\w.-]+)(?= |$)", rest.partition("Perhaps you meant:")[2].partition("\n")[0])
    if suggestions:
        return f"{message} (did you mean {' or '.join(dict.fromkeys(suggestions[:3]))}?)"
    return message or box.strip()


def _shallow(settings: Any) -> dict[str, Any]:
    return {field.name: getattr(settings, field.name) for field in fields(settings)}


def _recipe_help(options: type) -> str:
    about = inspect.cleandoc(options.__doc__ or "")
    return f"{about}\nRECIPE --help shows the recipe's own values and options; {known_recipes()}."
