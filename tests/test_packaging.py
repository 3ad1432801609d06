"""What a package index and a type checker see: one version, two scripts, types, and the ledger among the files."""

import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from tests.support.processes import ROOT, TIMEOUT
from trainer import __version__

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("module", ["trainer", "launch"])
def test_version_option_prints_the_version(module: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", module, "--version"], cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"shortcut-trainer {__version__}\n", "")


def test_version_is_the_same_in_every_file() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "trainer.__version__"}
    citation = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert citation and newest
    assert citation.group(1) == newest.group(1).rstrip(",") == __version__


def test_console_scripts_call_functions_that_exist() -> None:
    scripts = PROJECT["project"]["scripts"]
    assert scripts.keys() == {"shortcut", "shortcut-launch"}
    for target in scripts.values():
        module, _, function = target.partition(":")
        assert callable(getattr(import_module(module), function))


def test_package_data_exists() -> None:
    named = [
        ROOT / package / file
        for package, files in PROJECT["tool"]["setuptools"]["package-data"].items()
        for file in files
    ]
    assert len(named) == 4
    assert [path for path in named if not path.is_file()] == []


def test_fast_tests_leave_out_every_registered_marker() -> None:
    """--strict-markers refuses a marker that is not registered; `make test-fast` has to know each that is."""
    registered = {line.partition(":")[0] for line in PROJECT["tool"]["pytest"]["ini_options"]["markers"]}
    expression = re.search(r'-m "(.+)"', (ROOT / "Makefile").read_text())
    assert expression and registered == {"slow", "slurm", "browser"}
    assert expression.group(1) == " and ".join(f"not {name}" for name in ("slow", "slurm", "browser"))
    assert "--strict-markers" in PROJECT["tool"]["pytest"]["ini_options"]["addopts"]


def test_commit_hooks_run_what_make_check_runs() -> None:
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    makefile = (ROOT / "Makefile").read_text()
    for tool in ("ruff check", "ruff format", "codespell", "mypy"):
        assert f"entry: .venv/bin/{tool}" in hooks, tool
        assert f"-m {tool}" in makefile, tool


@pytest.mark.parametrize(("need", "marker"), [("slurm_cluster import", "slurm"), ("CHROMIUM", "browser")])
def test_packaging_files_that_need_a_program_are_marked(need: str, marker: str) -> None:
    files = [path for path in (ROOT / "tests").rglob("test_*.py") if need in path.read_text()]
    files.remove(Path(__file__))
    assert files
    assert [path.name for path in files if f"pytest.mark.{marker}" not in path.read_text()] == []
