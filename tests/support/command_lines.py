"""Command lines for tests: what a training needs, recipes with overrides, and screens that help is printed to."""

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import pytest

from trainer.cli.parse import parse_train
from trainer.recipe import Recipe

CHOICES = {"progressive", "color", "augmentation", "erasing", "mixing", "also_eval_crop", "ema", "swa", "order"}
CHOICES |= {"distillation", "fine_tuning", "schedule.warmup"}
"""Parts that a recipe has or lacks. The command line changes values only."""
NEEDED = ["--data", "DIR", "--run-dir", "runs/one"]
SCREENS = {"wide": ("utf-8", "120"), "narrow": ("utf-8", "40"), "not unicode": ("iso-8859-1", "80")}
"""tyro draws its messages in boxes, to the width and encoding of the screen."""


ON_ANY_SCREEN = pytest.mark.parametrize("screen", SCREENS)


@contextmanager
def stdout(screen: str) -> Iterator[io.TextIOWrapper]:
    """Captures what is printed to such a screen."""
    encoding, columns = SCREENS[screen]
    with pytest.MonkeyPatch.context() as patch:
        printed = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        patch.setattr(sys, "stdout", printed)
        patch.setenv("COLUMNS", columns)
        yield printed
        printed.seek(0)


def resolved(name: str, *options: str) -> Recipe:
    return parse_train([name, *NEEDED, *options])[0]


def leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a recipe under its dotted name."""
    for field in fields(value):
        inner = getattr(value, field.name)
        if is_dataclass(inner):
            yield from leaves(inner, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", inner
