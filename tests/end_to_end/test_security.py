"""Nothing is run that was downloaded, nothing is told that is private, nothing is open to be written by everybody."""

import ast
import getpass
import os
import re
import socket
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support.processes import ROOT, SUPPORT, TIMEOUT

CODE = sorted([*(ROOT / "trainer").rglob("*.py"), *(ROOT / "recipes").glob("*.py"), *(ROOT / "launch").rglob("*.py")])
RECIPE = str(SUPPORT / "small_recipe.py")
SECRET = "8f3kq-secret-token"


def calls(source: str) -> list[tuple[str, ast.Call]]:
    """Every call with the dotted name of what is called."""
    return [(ast.unparse(node.func), node) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]


def faults(source: str) -> list[str]:
    """Calls that could run what a file or a user's text holds."""
    found = []
    for name, call in calls(source):
        settings = {word.arg: ast.unparse(word.value) for word in call.keywords}
        last = name.rpartition(".")[2]
        if last == "load" and name.startswith("torch.") and settings.get("weights_only") != "True":
            found.append(f"{name} without weights_only=True")
        elif name in ("pickle.load", "pickle.loads", "pickle.Unpickler", "eval", "exec", "os.system", "os.popen"):
            found.append(name)
        elif settings.get("shell", "False") != "False":
            found.append(f"{name} through a shell")
        elif name.startswith("np.") and settings.get("allow_pickle", "False") != "False":
            found.append(f"{name} with allow_pickle")
        elif name.startswith("yaml.") and last in ("load", "unsafe_load", "full_load"):
            found.append(name)
    return found


@pytest.mark.parametrize(
    "source",
    ["torch.load(file)", "torch.load(file, weights_only=False)", "subprocess.run(words, shell=True)", "eval(text)",
     "os.system(text)", "pickle.load(file)", "np.load(file, allow_pickle=True)", "yaml.load(file)"],
)  # fmt: skip
def test_call_that_runs_what_it_is_given_is_found(source: str) -> None:
    assert len(faults(source)) == 1


@pytest.mark.slow
def test_security_nothing_is_unpickled_and_nothing_goes_through_a_shell() -> None:
    """Tensors through weights_only=True and safetensors. CIFAR-10's pickles have a reader that knows three names."""
    assert len(CODE) > 120
    assert {path.name: found for path in CODE if (found := faults(path.read_text()))} == {}
    assert sum("weights_only=True" in path.read_text() for path in CODE) >= 2


@pytest.mark.slow
def test_security_private_things_are_in_no_file_of_a_run_and_nobody_else_may_write_there(tmp_path: Path) -> None:
    """Under a umask that would let everybody write, with a token in the environment and two hosts in a list of them."""
    run_dir = tmp_path / "run"
    variables = {"WANDB_API_KEY": SECRET, "HF_TOKEN": SECRET, "SLURM_JOB_NODELIST": f"{SECRET}-[01-02]"}
    words = ["train", RECIPE, "--data", "synthetic:960", "--run-dir", str(run_dir), "--epochs", "1", "--log-every", "2"]
    ended = subprocess.run(
        [sys.executable, "-m", "trainer", *words], env={**os.environ, **variables, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=TIMEOUT, umask=0, cwd=tmp_path,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    files = [path for path in run_dir.rglob("*") if path.is_file()]
    assert {"log.txt", "metrics.jsonl", "starts.json", "result.json", "best.pt"} <= {path.name for path in files}
    host = socket.gethostname()
    private = [SECRET, str(tmp_path), *([host] if len(host) > 6 else []), f"/{getpass.getuser()}/"]
    told = {
        (path.name, word)
        for path in files
        for word in private
        if word.encode() in path.read_bytes() or word in path.name
    }
    assert told == set()
    assert SECRET not in ended.stdout + ended.stderr
    open_to_all = [path for path in (run_dir, *run_dir.rglob("*")) if path.stat().st_mode & stat.S_IWOTH]
    assert open_to_all == []


def test_security_every_dependency_says_what_it_is_for() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    project = tomllib.loads(text)["project"]
    required = [re.split(r"[<>=\[ ]", name)[0] for name in project["dependencies"]]
    assert len(required) >= 9
    for name in required:
        assert re.search(rf'^ *"{name}[^"]*", +# \w+', text, re.M), f"{name} has no reason beside it"
    for extra in project["optional-dependencies"]:
        assert re.search(rf"^{extra} = \[.*\] +# \w+", text, re.M), f"the extra {extra} has no reason beside it"
