"""What this machine says: where the data and the run are, how many threads, how often to log and save.

The command line is read here and nowhere else.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import tyro

from trainer.errors import UserError
from trainer.recipe import Recipe
from trainer.recipe_file import known_recipes, load_recipe

if TYPE_CHECKING:
    from trainer.data.prepare import PrepareOptions

T = TypeVar("T")
_IDENTITY = ("name", "dataset", "published")  # of a recipe: not for the command line


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Train a recipe. The same command again continues where the run was stopped, to the same weights."""

    data: str
    """folder with train.beton and val.beton, or with class folders below train/ and val/; or synthetic:COUNT"""
    run_dir: Path
    """folder of this run: recipe, checkpoints, metrics, TensorBoard's events; one that has a checkpoint is continued"""
    initial_weights: Path | None = None
    """file to start from instead of the recipe's initialisation: .pt, .pth or .safetensors, e.g. torchvision's"""
    workers: int | None = None
    """threads that read images, for each process; None: the CPUs of this machine shared by its processes"""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """auto: cuda where there is a GPU"""
    compile: bool = False
    """torch.compile the model: a slower start and faster steps"""
    deterministic: bool = False
    """allow deterministic kernels only, so that a GPU too gives the same bits every time; a CPU always does"""
    log_every: int = 20
    """steps from one line of metrics to the next"""
    checkpoint_steps: int | None = None
    """save after every so many steps, besides the end of each epoch"""
    checkpoint_minutes: float = 10.0
    """save when this long has passed since the last time"""
    keep: int = 3
    """number of newest checkpoints to keep, besides the best"""
    timeout_minutes: float = 30.0
    """how long processes wait for one another before they give up"""

    def __post_init__(self) -> None:
        for name in ("workers", "log_every", "checkpoint_steps", "keep"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} is not a positive number")
        if self.log_every > 10_000:
            raise ValueError(f"log_every={self.log_every} is more than 10,000 steps")
        for name in ("checkpoint_minutes", "timeout_minutes"):
            if not 0 < getattr(self, name) <= 60 * 24 * 30:
                raise ValueError(f"{name}={getattr(self, name)} is not above 0 and within a month")

    @property
    def data_folder(self) -> str:
        """`data` as it is found from any working directory."""
        return self.data if self.data.startswith("synthetic:") else str(Path(self.data).absolute())


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """Evaluate a run's weights on every validation image once."""

    run_dir: Annotated[Path, tyro.conf.Positional]
    """folder of the run"""
    data: str | None = None
    """folder of other data than the run's own, with the same classes"""
    checkpoint: Literal["newest", "best"] = "newest"
    """best: the highest top-1 of all epochs, chosen on the validation images themselves and so optimistic"""
    workers: int | None = None
    """threads that read images, for each process; None: the CPUs of this machine shared by its processes"""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """auto: cuda where there is a GPU"""

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers={self.workers} is not a positive number")


@dataclass(frozen=True, kw_only=True)
class RecipesSettings:
    """List the recipes: paper, published result with its protocol, and what was measured with this code."""

    words: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """show those only whose name holds one of these, e.g. resnet50 goyal"""


# ------------------------------------------------------------------------------------------------ the command line


def parse_train(words: Sequence[str]) -> tuple[Recipe, TrainSettings]:
    """`RECIPE --data DIR --run-dir DIR [--optimizer.lr 1.6 ...]` -> the resolved recipe and the settings."""
    if not words:
        raise UserError(f"which recipe? python -m trainer train RECIPE --data DIR --run-dir DIR ({known_recipes()})")
    if words[0] in ("-h", "--help"):
        parse(TrainSettings, ["--help"], "train RECIPE", _recipe_help())
    if words[0].startswith("-"):
        raise UserError(f"the recipe comes first: python -m trainer train RECIPE {words[0]} ... ({known_recipes()})")
    recipe = load_recipe(words[0])
    hidden = [(name, Annotated[Any, tyro.conf.Suppress], getattr(recipe, name)) for name in _IDENTITY]
    options = make_dataclass("Recipe", hidden, bases=(Recipe,), frozen=True, kw_only=True)
    both = make_dataclass(
        "Train",
        [
            ("settings", Annotated[TrainSettings, tyro.conf.arg(name="")]),
            ("recipe", Annotated[options, tyro.conf.arg(name="")], options(**_shallow(recipe))),
        ],
        kw_only=True,
    )
    parsed: Any = parse(both, words[1:], f"train {words[0]}", TrainSettings.__doc__)
    return Recipe(**_shallow(parsed.recipe)), parsed.settings


def parse_prepare(words: Sequence[str]) -> tuple[str, Path | None, Path, PrepareOptions]:
    """`folder SRC --out DIR [--max-resolution 400 ...]` -> (kind, SRC or None, DIR, options)."""
    from trainer.data.prepare import IMAGENET, SMALL_IMAGES, PrepareOptions

    sources = {
        "folder": "folder with class folders below train/ and val/ (or validation/, or test/)",
        "cifar10": "CIFAR-10's folder of Python batches, or class folders below train/ and test/",
        "digits": None,
    }
    kind = words[0] if words else ""
    if kind in ("-h", "--help"):
        print("usage: python -m trainer prepare folder SRC | cifar10 SRC | digits  --out DIR; add --help for options")
        raise SystemExit(0)
    if kind not in sources:
        raise UserError(f"prepare writes {', '.join(sources)}, not {kind!r}: python -m trainer prepare folder SRC ...")
    options: list[Any] = [
        ("out", Annotated[Path, tyro.conf.arg(help="folder to write train.beton and val.beton into")]),
        ("options", Annotated[PrepareOptions, tyro.conf.arg(name="")], IMAGENET if kind == "folder" else SMALL_IMAGES),
    ]
    if what := sources[kind]:
        options.insert(0, ("src", Annotated[Path, tyro.conf.Positional, tyro.conf.arg(help=what)]))
    command = make_dataclass("Prepare", options, kw_only=True)
    parsed: Any = parse(command, words[1:], f"prepare {kind}", f"Write {kind} images as .beton files.")
    return kind, getattr(parsed, "src", None), parsed.out, parsed.options


def parse(command: type[T], words: Sequence[str], verb: str, description: str | None = None) -> T:
    """Reads the options of one verb into its dataclass. Raises UserError with one line for any mistake."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                command,
                args=list(words),
                prog=f"python -m trainer {verb}",
                description=description or command.__doc__,
                config=(tyro.conf.AvoidSubcommands,),
            )
    except ValueError as error:
        raise UserError(str(error)) from error
    except SystemExit as end:
        if end.code:
            raise UserError(f"{_one_line(said.getvalue())}; see python -m trainer {verb} --help") from end
        raise


def _one_line(box: str) -> str:
    """The message in the box that tyro draws around an error, with the options it suggests."""
    lines = [line.strip("│ ") for line in box.splitlines() if line.startswith(("│", "  "))]
    message, _, rest = re.sub(r" *(─────+|-----+) *", "\n", " ".join(lines)).strip().partition("\n")
    suggestions = re.findall(r"(?:^|\s)(--[\w.-]+)(?= |$)", rest.partition("Perhaps you meant:")[2].partition("\n")[0])
    if suggestions:
        return f"{message} (did you mean {' or '.join(dict.fromkeys(suggestions[:3]))}?)"
    return message or box.strip()


def _shallow(recipe: Recipe) -> dict[str, Any]:
    return {field.name: getattr(recipe, field.name) for field in fields(Recipe)}


def _recipe_help() -> str:
    return f"{TrainSettings.__doc__} RECIPE --help shows the recipe's own values and options; {known_recipes()}."
