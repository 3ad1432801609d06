"""--vary SETTING=VALUE,VALUE,...: the product of values, each a run, checked before anything starts."""

import itertools
import re
import shlex
from collections.abc import Sequence
from typing import NamedTuple

from trainer.errors import UserError

_FLAGS = {"true": "", "false": "no-"}
_NOT_VARIED = {
    "seed": "use --seeds 0 1 2",
    "run_dir": "each run has a folder of its own below --run-dir",
    "data": "launch once for each data set",
}


class Value(NamedTuple):
    """One value of a setting that varies."""

    setting: str
    """as on the command line, with underscores: optimizer.weight_decay"""
    text: str

    def argv(self) -> list[str]:
        """The arguments of python -m trainer train: a flag for True and False, several words for a tuple."""
        path, _, last = self.setting.replace("_", "-").rpartition(".")
        prefix = f"--{path}." if path else "--"
        if self.text.lower() in _FLAGS:
            return [f"{prefix}{_FLAGS[self.text.lower()]}{last}"]
        return [f"{prefix}{last}", *shlex.split(self.text)]

    def __str__(self) -> str:
        return f"{self.setting}={self.text}"


def combinations(vary: tuple[str, ...], given: list[str]) -> list[tuple[Value, ...]]:
    """One tuple of values for each run; one empty tuple where nothing varies. The last setting changes fastest.

    `given`: the job's arguments. Raises UserError for what is not SETTING=VALUE,VALUE, or sets a setting twice.
    """
    settings = [_values(text) for text in vary]
    names = [values[0].setting for values in settings]
    for name in names:
        if name in _NOT_VARIED:
            raise UserError(f"--vary {name}: {_NOT_VARIED[name]}")
        if names.count(name) > 1:
            raise UserError(f"--vary {name} is given twice: list all its values in one, {name}=VALUE,VALUE")
        if name in settings_of(given):
            raise UserError(
                f"--vary {name} for the launcher and --{name.replace('_', '-')} for the job: use only one of them"
            )
    return list(itertools.product(*settings))


def label(values: tuple[Value, ...]) -> str:
    """A part of a folder's name: "lr=0.1_epochs=30"; the whole name of a setting where its last word is not unique."""
    last = [value.setting.rpartition(".")[2] for value in values]
    names = [value.setting if last.count(short) > 1 else short for value, short in zip(values, last, strict=True)]
    texts = [re.sub(r"[^\w.+-]+", "-", value.text) for value in values]  # fit for a folder's name
    return "_".join(f"{name}={text}" for name, text in zip(names, texts, strict=True))


def _values(text: str) -> list[Value]:
    setting, equals, listed = text.removeprefix("--").partition("=")
    values = [value.strip() for value in listed.split(",")]
    if not setting or not equals or not all(values):
        raise UserError(f"--vary {text} is not SETTING=VALUE,VALUE,..., such as --vary optimizer.lr=0.05,0.1,0.2")
    if twice := next((value for value in values if values.count(value) > 1), None):
        raise UserError(f"--vary {text} names {twice} twice")
    for value in values:
        try:
            shlex.split(value)
        except ValueError as error:
            whole = shlex.quote(value)
            raise UserError(f"--vary {text}: {value} is not words ({error}): write {whole} for all of it") from error
    return [Value(setting.replace("-", "_"), value) for value in values]


def settings_of(argv: Sequence[str]) -> set[str]:
    """The settings in `argv`, with underscores: --timeout_minutes=60 and --timeout-minutes 60 -> timeout_minutes."""
    return {_setting(word) for word in argv if word.startswith("--")}


def _setting(word: str) -> str:
    """--optimizer.no-nesterov and --optimizer.nesterov=True -> optimizer.nesterov"""
    path, dot, last = word.removeprefix("--").partition("=")[0].replace("-", "_").rpartition(".")
    return f"{path}{dot}{last.removeprefix('no_')}"
