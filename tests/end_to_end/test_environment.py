"""What surrounds a process: locale, variables, warnings, a user without a home, and a system that says no."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.odd_images import class_folders
from tests.support.processes import ROOT, SUPPORT, TIMEOUT
from trainer.__main__ import main
from trainer.errors import UserError
from trainer.process import compile_cache
from trainer.process.variables import place_in_run, whole_number

SMALL = ["--num-classes", "2", "--global-batch-size", "6", "--micro-batch-size", "6", "--epochs", "1", "--no-pictures"]
# usual in Slurm jobs and containers; without the two, Python would choose UTF-8 by itself
NO_UTF8 = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
EMPTY = {"RANK": "", "WORLD_SIZE": "", "LOCAL_RANK": "", "TORCHELASTIC_RESTART_COUNT": ""}


def python(words: list[str | bytes], **variables: str) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    return subprocess.run([sys.executable, *words], capture_output=True, timeout=TIMEOUT, env=environment)


@pytest.mark.slow
def test_run_is_ended_by_no_character_variable_or_warning(tmp_path: Path) -> None:
    """Class names and a folder beyond ASCII, a run directory that is not UTF-8, empty variables, warnings as errors."""
    data = class_folders(tmp_path / "naïve \u2013 x", ("café", "日本 語"), train=6)
    run_dir = os.fsencode(tmp_path) + b"/run \xff"
    trainer: list[str | bytes] = ["-W", "error", "-m", "trainer"]
    recipe, data_name = str(SUPPORT / "small_recipe.py"), os.fsencode(data)
    words = ["train", recipe, "--data", data_name, "--run-dir", run_dir, "--train-crop.resolution", "32", *SMALL]
    for again in (words, ["evaluate", run_dir]):
        ended = python([*trainer, *again], **NO_UTF8, **EMPTY)
        assert ended.returncode == 0, ended.stderr.decode()
        assert b"top-1" in ended.stdout
        for trouble in (b"Traceback", b"Error", b"ResourceWarning", b"unclosed"):
            assert trouble not in ended.stderr, ended.stderr.decode()
    names = {os.path.basename(name).partition(b".")[0] for name in os.listdir(run_dir)}
    assert {b"result", b"events", b"evaluations"} <= names


@pytest.mark.slow
def test_files_are_opened_with_an_encoding_everywhere() -> None:
    """Else the locale decides what a recipe, a record or a log may hold."""
    opened = 0
    for path in [*(ROOT / "trainer").rglob("*.py"), *(ROOT / "launch").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            owner = getattr(getattr(node.func, "value", None), "id", "")
            mode = next((str(word.value) for word in node.args if isinstance(word, ast.Constant)), "r")
            if name not in ("open", "read_text", "write_text") or owner in ("os", "Image", "tarfile") or "b" in mode:
                continue
            opened += 1
            where = f"{path.relative_to(ROOT)}:{node.lineno}"
            assert any(keyword.arg == "encoding" for keyword in node.keywords), where
    assert opened > 20


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RANK": "one"}, "RANK is 'one', not a whole number"),
        ({"WORLD_SIZE": "-2"}, "WORLD_SIZE is '-2', not a whole number"),
        ({"RANK": "1"}, "RANK is 1, but WORLD_SIZE is 1"),
        ({"LOCAL_RANK": "4", "LOCAL_WORLD_SIZE": "2"}, "LOCAL_RANK is 4, but LOCAL_WORLD_SIZE is 2"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is 2, but MASTER_ADDR is not set"),
    ],
)
def test_variables_are_parsed_as_input(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], message: str
) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert place_in_run() == (0, 1, 0, 1)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        place_in_run()


def test_variables_that_are_empty_are_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", " ")
    assert whole_number("RANK", 3) == 3


LONG = "x" * 300
RECIPE = str(SUPPORT / "small_recipe.py")


@pytest.mark.parametrize(
    "words",
    [
        ["look", LONG],
        ["evaluate", LONG],
        ["evaluate", f"{LONG}.pt", "--recipe", RECIPE],
        ["predict", LONG, "photo.jpg"],
        ["compare", LONG],
        ["export", LONG, "--to", "onnx"],
        ["plan", RECIPE, "--data", LONG],
        ["benchmark", RECIPE, "--data", LONG],
        ["prepare", "folder", LONG, "--out", "out"],
        ["prepare", "folder", "src", "--out", LONG],
        ["train", RECIPE, "--data", LONG, "--run-dir", "run"],
        ["train", RECIPE, "--data", "synthetic:960", "--run-dir", LONG],
        ["train", LONG, "--data", "synthetic:960", "--run-dir", "run"],
    ],
    ids=" ".join,
)
def test_name_that_is_too_long_is_one_line(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    class_folders(tmp_path / "src", train=1, val=1)
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    said = capfd.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1
    assert LONG in said and ("too long" in said or "there is no" in said)


@pytest.mark.parametrize("below", ["file", "file/run", "loop"])
def test_run_directory_that_cannot_be_one_has_its_true_reason(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], below: str
) -> None:
    (tmp_path / "file").write_text("")
    os.symlink("loop", tmp_path / "loop")
    assert main(["train", RECIPE, "--data", "synthetic:960", "--run-dir", str(tmp_path / below)]) == 2
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and str(tmp_path / below) in said
    assert "free some space" not in said


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing can be written beside the code or at home: what lies below a file cannot be made."""
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(compile_cache, "_CODE", tmp_path / "file" / "code")
    monkeypatch.setenv("HOME", str(tmp_path / "file" / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("NUMBA_CACHE_DIR", "")  # not delenv(): what the test sets itself would stay
    monkeypatch.setattr(compile_cache, "_offered", [])
    return tmp_path


def test_compiled_code_is_kept_where_it_can_be_written(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    chosen = compile_cache.can_be_cached.__wrapped__
    assert not chosen()
    assert "each start compiles for some seconds" in (said := capfd.readouterr().err) and said.count("\n") == 1
    compile_cache.offer(nowhere / "run")
    assert chosen() and os.environ["NUMBA_CACHE_DIR"] == str(nowhere / "run" / "compiled")
    assert f"it is kept in {nowhere}/run/compiled" in capfd.readouterr().err
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(nowhere / "asked"))
    assert chosen() and capfd.readouterr().err == "" and (nowhere / "asked").is_dir()
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(nowhere / "file" / "asked"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(nowhere / "cache"))
    assert chosen() and os.environ["NUMBA_CACHE_DIR"] == str(nowhere / "cache" / "shortcut-trainer" / "numba")


READ_ONLY = """
import sys
from pathlib import Path
from numba.core import caching
from trainer.process import compile_cache
from trainer.__main__ import main

compile_cache._CODE = Path("/dev/null/code")  # the installation is read-only, and there is no home
for locator in ("InTreeCacheLocator", "UserWideCacheLocator"):
    setattr(getattr(caching, locator), "from_function", classmethod(lambda *_: None))
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_user_without_a_home_trains_on_a_read_only_installation(digits: Path, tmp_path: Path) -> None:
    run_dir = str(tmp_path / "run")
    small = ["--epochs", "1", "--precision", "fp32", "--no-pictures", "--train-crop.padding", "0"]
    words = ["train", RECIPE, "--data", str(digits), "--run-dir", run_dir, *small]
    ended = python(["-c", READ_ONLY, *words], HOME="/dev/null/home", XDG_CACHE_HOME="")
    assert ended.returncode == 0, ended.stderr.decode()
    assert f"it is kept in {run_dir}/compiled" in ended.stderr.decode()
    assert list((tmp_path / "run" / "compiled").rglob("*.nbi"))
