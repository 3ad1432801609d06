"""The options of evaluate, recipes and prepare, and the one line that answers each mistake."""

import os
import pty
import sys
from pathlib import Path

import pytest

from tests.support.command_lines import stdout
from trainer.cli.parse import parse, parse_prepare
from trainer.errors import UserError
from trainer.settings import RecipesSettings
from trainer.weights_settings import EvaluateSettings


def evaluate(*words: str) -> EvaluateSettings:
    return parse(EvaluateSettings, words, "evaluate")


def test_evaluate_takes_a_run_and_what_to_evaluate() -> None:
    assert evaluate("runs/one") == EvaluateSettings(weights=Path("runs/one"))
    assert evaluate("runs/one").checkpoint == "newest"
    words = ["--data", "DIR", "--checkpoint", "best", "--workers", "2", "--device", "cpu"]
    assert evaluate("runs/one", *words) == EvaluateSettings(
        weights=Path("runs/one"), data="DIR", checkpoint="best", workers=2, device="cpu"
    )


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ([], r"Missing from python -m trainer evaluate: RUN\|FILE folder of a run, or a file"),
        (["one", "two"], r"Unrecognized options: two"),
        (["one", "--chekpoint", "best"], r"--chekpoint.*did you mean --checkpoint"),
        (["one", "--checkpoint", "last"], r"'last'.*'newest', 'best'"),
        (["one", "--workers", "x"], r"--workers: .*'x'"),
        ([""], r"^the word after evaluate is empty: is a variable unset\?$"),
        (["one", "--out", ""], r"^--out is empty"),
        (["one", "--workers", "0"], r"workers=0 is not a number of threads from 1 to 1,024"),
        (["one", "--workers", "-1"], r"workers=-1 is not a number of threads"),
        (["one", "--workers", "1025"], r"workers=1025 is not a number of threads"),
    ],
)
def test_cli_commands_mistake_in_evaluate_is_one_line(words: list[str], answer: str) -> None:
    with stdout("wide"), pytest.raises(UserError, match=answer) as caught:
        evaluate(*words)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("words", [[], ["one", "--chekpoint", "best"], ["one", "--workers", "0"]])
def test_cli_commands_mistake_at_a_terminal_has_no_colour_codes(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """tyro colours its messages where stdout is a terminal, whatever stderr is."""
    with stdout("wide"), pytest.raises(UserError) as plain:
        evaluate(*words)
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    controller, terminal = pty.openpty()
    with os.fdopen(controller), os.fdopen(terminal, "w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        with pytest.raises(UserError) as coloured:
            evaluate(*words)
        monkeypatch.undo()
    assert str(coloured.value) == str(plain.value)


def test_cli_commands_message_of_a_check_names_no_class_of_the_program() -> None:
    with pytest.raises(UserError, match=r"^resolution=0 is not a positive number; see python -m trainer evaluate"):
        evaluate("one", "--resolution", "0")


def test_recipes_takes_words_and_no_options() -> None:
    assert parse(RecipesSettings, [], "recipes") == RecipesSettings()
    assert parse(RecipesSettings, ["resnet50", "goyal"], "recipes") == RecipesSettings(words=("resnet50", "goyal"))
    with stdout("wide"), pytest.raises(UserError, match="Unrecognized options: --all") as caught:
        parse(RecipesSettings, ["--all"], "recipes")
    assert "\n" not in str(caught.value)


def test_prepare_has_kinds_with_their_own_defaults() -> None:
    folder = parse_prepare(["folder", "SRC", "--out", "DIR"])
    cifar = parse_prepare(["cifar10", "SRC", "--out", "DIR"])
    digits = parse_prepare(["digits", "--out", "DIR"])
    assert folder[:3] == ("folder", Path("SRC"), Path("DIR"))
    assert cifar[:3] == ("cifar10", Path("SRC"), Path("DIR"))
    assert digits[:3] == ("digits", None, Path("DIR"))
    assert (folder[3].write_mode, folder[3].max_resolution, folder[3].jpeg_quality) == ("proportion", 500, 90)
    assert cifar[3] == digits[3]
    assert (cifar[3].write_mode, cifar[3].max_resolution) == ("raw", 32)
    shards = parse_prepare(["webdataset", "a-{0..3}.tar", "b.tar", "--out", "DIR", "--val", "c.tar"])
    assert shards.source == ("a-{0..3}.tar", "b.tar") and shards.options.val == ("c.tar",)
    small, large = (parse_prepare(["torchvision", name, "--root", "R", "--out", "DIR"]) for name in ("MNIST", "DTD"))
    assert (small.options.write_mode, large.options.write_mode) == ("raw", "proportion")
    assert small.options.root == Path("R") and small.source == "MNIST"
    options = ["--max-resolution", "400", "--jpeg-quality", "95", "--workers", "3", "--skip-bad", "--overwrite"]
    options = parse_prepare(["folder", "SRC", "--out", "DIR", *options])[3]
    assert (options.max_resolution, options.jpeg_quality, options.workers) == (400, 95, 3)
    assert options.skip_bad and options.overwrite


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ([], r"prepare converts folder, csv, .*, digits, and the kind comes first"),
        (["imagnet", "SRC", "--out", "DIR"], r"prepare converts folder, .*, not 'imagnet'"),
        (["folder", "--out", "DIR"], r"SRC folder with class folders below train/ and val/"),
        (["webdataset", "--out", "DIR"], r"SHARDS.*shards: 'train-"),
        (["csv", "a.csv", "--out", "D", "--val", "b.csv", "--val-fraction", "0.1"], r"give one of them"),
        (["folder", "SRC"], r"--out PATH folder to write train\.beton and val\.beton into"),
        (["digits", "SRC", "--out", "DIR"], r"Unrecognized options: SRC"),
        (["csv", "a.csv", "--out", "DIR", "--class-order", "numeric"], r"Unrecognized options: --class-order, numeric"),
        (["imagenet", "SRC", "--out", "DIR", "--class-order", "numeric"], r"Unrecognized options: --class-order"),
        (["folder", "SRC", "--out", "DIR", "--jpeg-qualty", "9"], r"did you mean --jpeg-quality"),
        (["folder", "SRC", "--out", "DIR", "--jpeg-quality", "0"], r"jpeg_quality=0 is not 1 to 100"),
        (["folder", "SRC", "--out", "DIR", "--write-mode", "smart"], r"'smart'.*'jpg', 'raw', 'proportion'"),
        (["folder", "SRC", "--out", "DIR", "--workers", "0"], r"workers=0 is not 1 or more"),
        (["folder", "", "--out", "DIR"], r"^the word after prepare folder is empty"),
    ],
)
def test_cli_commands_mistake_in_prepare_is_one_line(words: list[str], answer: str) -> None:
    with stdout("wide"), pytest.raises(UserError, match=answer) as caught:
        parse_prepare(words)
    assert "\n" not in str(caught.value)
