"""README and docs/: commands parse, links resolve, and the numbers are those of the ledger and the measurements."""

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch
from torchvision.models import resnet18

from launch import command_line
from launch.local.settings import LocalSettings
from launch.settings import CancelSettings, LogsSettings, PreflightSettings, StatusSettings
from launch.slurm.settings import SlurmSettings
from tests.support.processes import ROOT
from trainer import settings, weights_settings
from trainer.cli.parse import parse, parse_prepare, parse_train, parse_with_recipe
from trainer.errors import UserError
from trainer.recipe_file import load_recipe, measured, recipe_names, recipe_source

README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *DOCS]
MODULE = re.compile(r"(?:torchrun .*-m|python -m) (trainer|launch|benchmarks\.\w+|tests\.\w+\.\w+)(?: |$)")

TRAINER = {
    "average": weights_settings.AverageSettings,
    "evaluate": weights_settings.EvaluateSettings,
    "look": settings.LookSettings,
    "predict": weights_settings.PredictSettings,
    "compare": settings.CompareSettings,
    "export": weights_settings.ExportSettings,
    "recipes": settings.RecipesSettings,
}
WITH_RECIPE = {
    "train": settings.TrainSettings,
    "plan": settings.PlanSettings,
    "benchmark": settings.BenchmarkSettings,
}
LAUNCH = {
    "status": StatusSettings,
    "logs": LogsSettings,
    "cancel": CancelSettings,
    "preflight": PreflightSettings,
}
WITH_JOB = {"local": LocalSettings, "slurm": SlurmSettings}


# ---------------------------------------------------------------------------------------------------------- commands


def commands(page: Path) -> list[str]:
    """Every command of the page's code blocks, and those within a sentence, which may end in "..."; no comments."""
    text = page.read_text()
    lines = [line.strip() for line in text.replace("\\\n", " ").splitlines() if line.startswith("    ")]
    lines += [f"{code} ..." for code in re.findall(r"`((?:python|torchrun) [^`]+)`", text)]
    return [line.partition(" #")[0].strip() for line in lines if MODULE.match(line)]


def as_typed(command: str) -> list[str]:
    """The words of a usage line: an optional part is given, an ellipsis is not, RECIPE and NAME are one of ours."""
    words = shlex.split(re.sub(r"[][]", "", command).replace("RECIPE", "resnet20_digits").replace("NAME", "local"))
    return [word for word in words if word != "..."]


def parse_words(module: str, words: list[str], abbreviated: bool) -> None:
    """Reads the words as the command does, up to where it would begin to work. Raises UserError or SystemExit(0)."""
    verb, rest = (words[0], words[1:]) if words else ("", [])
    if abbreviated and not rest and verb in {*TRAINER, *WITH_RECIPE, *LAUNCH, *WITH_JOB, "prepare"}:
        return  # a sentence mentions the command
    if abbreviated and (verb in WITH_JOB or verb == "train") and "--run-dir" not in rest:
        rest = [*rest, "resnet20_digits", "--data", "DIR", "--run-dir", "RUN"]
    if module == "launch" and verb in WITH_JOB:
        _, recipes, options = command_line.parse_launch(WITH_JOB[verb], rest, verb)
        for recipe in recipes:
            parse_train([recipe, *options])
    elif module == "launch" and verb in LAUNCH:
        command_line.parse(LAUNCH[verb], rest, verb)
    elif module == "trainer" and verb in WITH_RECIPE:
        parse_with_recipe(WITH_RECIPE[verb], rest, verb)
    elif module == "trainer" and verb in TRAINER:
        parse(TRAINER[verb], rest, verb)
    elif module == "trainer" and (verb, rest[:1]) == ("prepare", ["adopt"]):
        parse(settings.AdoptSettings, rest[1:], "prepare adopt")
    elif module == "trainer" and verb == "prepare":
        parse_prepare(rest)
    elif words not in (["--help"], ["--version"], []):
        raise UserError(f"there is no command {verb!r}")


def check(command: str) -> None:
    hit = MODULE.match(command)
    assert hit, command
    module = hit.group(1)
    if module not in ("trainer", "launch"):
        assert (ROOT / Path(*module.split("."))).with_suffix(".py").is_file(), command
        return
    try:
        parse_words(module, as_typed(command[hit.end() :]), abbreviated="..." in command)
    except SystemExit as ended:
        assert not ended.code, command


PRINTED = [(page.name, command) for page in PAGES for command in commands(page)]


def test_commands_are_found_on_the_pages_that_have_some() -> None:
    found = {name for name, _ in PRINTED}
    pages = {"data.md", "planning.md", "training.md", "evaluating.md", "comparing.md", "exporting.md", "recipes.md"}
    assert {"README.md", "cluster.md", "performance.md", *pages} <= found
    assert len(PRINTED) >= 45


@pytest.mark.parametrize(("page", "command"), PRINTED)
def test_command_on_a_page_parses_as_printed(
    page: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_recipe.py").write_text(own_recipe())
    monkeypatch.chdir(tmp_path)
    check(command)


@pytest.mark.parametrize(
    "command",
    [
        "python -m trainer train resnet20_digits --data DIR --run-dir RUN --optimizer.lrr 1",
        "python -m trainer train resnet20_digit --data DIR --run-dir RUN",
        "python -m trainer evaluat RUN",
        "python -m launch slurm --node 4 resnet20_digits --data DIR --run-dir RUN",
        "python -m launch local resnet20_digits --data DIR --run-dir RUN --lr 1",
        "python -m trainer prepare digits --to DIR",
    ],
)
def test_check_refuses_a_command_that_would_not_run(command: str) -> None:
    with pytest.raises(UserError):
        check(command)


def own_recipe() -> str:
    """The recipe file that docs/training.md prints."""
    text = (ROOT / "docs" / "training.md").read_text()
    block = text[text.index("    # my_recipe.py") :].split("\n\n[", 1)[0]
    return "\n".join(line.removeprefix("    ") for line in block.splitlines())


def test_printed_recipe_is_a_recipe(tmp_path: Path) -> None:
    file = tmp_path / "my_recipe.py"
    file.write_text(own_recipe())
    recipe = load_recipe(str(file))
    assert (recipe.name, recipe.epochs, recipe.published) == ("my_recipe", 30, None)


def test_printed_python_loads_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"(?:^(?:    .*)?\n)+", (ROOT / "docs" / "exporting.md").read_text(), re.MULTILINE)
    of_torchvision, of_recipe = (dedent(block) for block in blocks if "import" in block)
    trained = resnet18().state_dict()
    (tmp_path / "RUN" / "checkpoints").mkdir(parents=True)
    (tmp_path / "RUN" / "recipe.py").write_text(recipe_source(load_recipe("resnet18_torchvision_v1")))
    torch.save(
        {"model": trained, "average": None, "classes": ["class"] * 1000}, tmp_path / "RUN" / "checkpoints" / "best.pt"
    )
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(of_torchvision, names)
    assert torch.equal(names["model"].fc.weight, trained["fc.weight"])
    exec(of_recipe, names)
    names["model"].load_state_dict(trained)


def test_printed_extras_and_targets_exist() -> None:
    text = "".join(page.read_text() for page in PAGES)
    targets = set(re.findall(r"^([\w-]+): ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:`|^    )make ([a-z][\w-]*)", text, re.MULTILINE))
    assert {"demo", "test", "test-fast", "install"} <= named <= targets


# ------------------------------------------------------------------------------------------------------------- links


def anchors(page: Path) -> set[str]:
    """The anchors that a Markdown host gives a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> Iterator[tuple[Path, str]]:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not target.startswith("https://"):
            file, _, anchor = target.partition("#")
            yield (page.parent / file if file else page), anchor


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_a_page_resolve(page: Path) -> None:
    for target, anchor in links(page):
        assert target.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {target.name}#{anchor}"


def test_readme_links_to_every_page() -> None:
    linked = {target.resolve() for target, _ in links(README)}
    assert len(DOCS) >= 10
    assert [page.name for page in PAGES if page != README and page.resolve() not in linked] == []


def test_docs_files_that_contributing_names_exist() -> None:
    """NAME is what somebody adds."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = set(re.findall(r"`((?:trainer|launch|recipes|tests)/[\w/.]*)`", text))
    assert len(named) >= 12
    assert [name for name in sorted(named) if "NAME" not in name and not (ROOT / name).exists()] == []


def test_additions_cost_the_files_that_contributing_promises() -> None:
    """The counts, without tests and docs: optimizer 3, augmentation 2, schedule 2, format 2, launcher 3."""
    table = re.findall(r"^\| an? (\w+(?: \w+)?) \| (.+?) \|", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    limits = {"optimizer": 3, "augmentation": 2, "schedule": 2, "data format": 2, "launcher": 3}
    files = {what: len(cell.split(", ")) for what, cell in table if what in limits}
    assert files.keys() == limits.keys()
    assert {what: count for what, count in files.items() if count > limits[what]} == {}


def test_tests_that_a_page_names_exist() -> None:
    named = {
        name for page in PAGES for name in re.findall(r"`(?:tests/)?((?:[\w/]+/)?test_\w+\.py)`", page.read_text())
    }
    assert len(named) >= 8
    assert [name for name in sorted(named) if not (ROOT / "tests" / name).is_file()] == []


# ------------------------------------------------------------------------------------------------------------ README


def rows(heading: str) -> list[list[str]]:
    """The cells of the README's table below this heading, without its header."""
    section = README.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_readme_fits_120_lines_and_shows_six_commands_in_the_first_19() -> None:
    lines = README.read_text().splitlines()
    assert len(lines) <= 120
    block = [line for line in lines[:19] if line.startswith("    ")]
    words = ["make install", "trainer prepare", "trainer train", "trainer train", "trainer evaluate", "trainer compare"]
    assert len(block) == 6
    assert all(word in line for word, line in zip(words, block, strict=True))
    train, again = (line.partition(" #")[0].strip() for line in block[2:4])
    assert train == again


def test_readme_makes_five_promises_of_at_most_ten_words_each_linked() -> None:
    section = README.read_text().split("\n## What it promises\n")[1].split("\n## ")[0]
    promises = [line for line in section.splitlines() if line.startswith("- ")]
    assert len(promises) == 5
    for promise in promises:
        hit = re.fullmatch(r"- \[(.+)\]\(docs/[\w.#-]+\)", promise)
        assert hit and len(hit.group(1).split()) <= 10, promise


def test_readme_results_are_those_of_the_recipes_and_the_ledger() -> None:
    table = rows("Results")
    assert len(table) >= 8
    for recipe, published, ours, hardware in table:
        name = recipe.split("`")[1]
        stated = load_recipe(name).published
        result = "none"
        if stated:
            numbers = [float(number) for number in re.findall(r"\d+\.\d+", published)]
            assert numbers == [stated.top1] + ([] if stated.sd is None else [stated.sd]), name
        else:
            assert published == result
        ledger = measured(name)
        for number in re.findall(r"\d+\.\d+(?: \+- \d+\.\d+)? %|n = \d+", ours):
            assert number in ledger, f"{name}: {number}"
        assert ("%" in ours) == bool(hardware), name
        assert ("not measured" in ours) == ledger.startswith("not yet"), name
        assert hardware in ledger


def test_readme_counts_the_recipes_and_those_not_measured() -> None:
    names = recipe_names()
    not_yet = [name for name in names if measured(name).startswith("not yet")]
    assert f"{len(not_yet)} of the {len(names)} recipes were not yet trained" in README.read_text()


def test_readme_speeds_are_those_of_the_measurements() -> None:
    measurements = (ROOT / "docs" / "performance.md").read_text()
    table = rows("Speed")
    assert len(table) >= 5
    assert [cells[1] for cells in table if "GPU" in cells[0]] == ["not measured"]
    for what, ratio in table:
        for number in re.findall(r"\d+\.\d+", ratio):
            assert re.search(rf"(?<![\d.]){re.escape(number)}(?![\d.])", measurements), f"{what}: {number}"


# ------------------------------------------------------------------------------------------------------------- prose


def sentences(text: str) -> list[str]:
    """Paragraphs and list items cut into sentences; without code, tables, headings and pictures."""
    kept = []
    for line in text.splitlines():
        left_out = line.startswith(("    ", "|", "#", "!["))
        kept.append("" if left_out else re.sub(r"^ *(?:[-*]|\d+\.) ", "\n", line))
    found = []
    for paragraph in re.split(r"\n\s*\n", "\n".join(kept)):
        prose = re.sub(r"`[^`]+`", "code", re.sub(r"\]\([^)]*\)", "]", " ".join(paragraph.split())))
        found += [part for part in re.split(r"(?<=[.!?])[*\"')\]]* +(?=\S)", prose) if re.search(r"\w{2}", part)]
    return found


def words_per_sentence(text: str) -> float:
    found = sentences(text)
    return sum(len(re.findall(r"\S*\w\S*", sentence)) for sentence in found) / len(found)


def test_sentences_are_counted_without_code_and_tables() -> None:
    text = "# A title\n\nOne two `python -m x`. Four\nfive!\n\n    code here\n"
    text += "\n| a | b |\n\n- six [seven](x.md)\n- eight\n"
    assert sentences(text) == ["One two code.", "Four five!", "six [seven]", "eight"]
    assert words_per_sentence(text) == 2


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page_has_at_most_16_words_a_sentence_on_average(page: Path) -> None:
    assert words_per_sentence(page.read_text()) <= 16


if __name__ == "__main__":  # python -m tests.test_docs: the figure of each page
    for page in PAGES:
        print(f"{words_per_sentence(page.read_text()):5.1f} {page.relative_to(ROOT)}", file=sys.stdout)
