"""install.sh, with stand-ins for Python, pip and apt-get: a line a step, and the output of what fails."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.processes import ROOT, TIMEOUT

BANNER = "SetuptoolsDeprecationWarning: a banner of 40 lines"
PRESENT = ("g++", "pkg-config", "chromium", "slurmctld", "slurmdbd")
PYTHON = """#!/bin/sh
case "$1" in
--version) echo "Python 3.12.1" ;;
-m) mkdir -p "$3/bin" && cp "$(dirname "$0")/pip" "$3/bin/pip" ;;
esac
"""
PIP = f"""#!/bin/sh
echo "pip $*" >>calls
echo "{BANNER}"
[ ! -e pip-fails ] || {{ echo "no matching distribution"; exit 1; }}
"""
OLD_PYTHON = '#!/bin/sh\ncase "$2" in *version_info*) exit 1 ;; esac\necho "Python 3.10.9"\n'


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with install.sh, and the stand-ins in bin/."""
    shutil.copy(ROOT / "install.sh", tmp_path)
    scripts = dict.fromkeys(PRESENT, "#!/bin/sh\n") | {"python3": PYTHON, "pip": PIP}
    for name, source in scripts.items():
        write(tmp_path / "bin" / name, source)
    return tmp_path


def write(path: Path, source: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(source)
    path.chmod(0o755)


def install(clone: Path, *options: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PATH": f"{clone / 'bin'}:{os.environ['PATH']}", "PYTHON": "python3"}
    command = ["bash", "install.sh", *options]
    return subprocess.run(command, cwd=clone, env=env, capture_output=True, text=True, timeout=TIMEOUT)


@pytest.mark.parametrize("script", ["install.sh", "demo.sh", ".ci/run"])
def test_shell_scripts_parse_and_stop_at_the_first_error(script: str) -> None:
    ended = subprocess.run(["bash", "-n", str(ROOT / script)], capture_output=True, text=True, timeout=TIMEOUT)
    assert (ended.returncode, ended.stderr) == (0, "")
    source = (ROOT / script).read_text()
    assert source.startswith("#!/usr/bin/env bash\n") and "\nset -euo pipefail\ncd " in source
    assert os.access(ROOT / script, os.X_OK)


@pytest.mark.parametrize(
    ("options", "extras"),
    [
        ((), "ffcv,digits,dev"),
        (("--wheels",), "digits"),
        (("--tests",), "ffcv,digits,dev,browser,imagenet,onnx,parquet,plots"),
    ],
)
def test_install_prints_one_line_and_logs_the_rest(clone: Path, options: tuple[str, ...], extras: str) -> None:
    ended = install(clone, *options)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    (line,) = ended.stdout.splitlines()
    assert line.startswith("Installing the package and its dependencies into .venv ")
    assert ("built from source" in line, "make install" in line) == ("ffcv" in extras, "ffcv" not in extras)
    calls = (clone / "calls").read_text().splitlines()
    assert len(calls) == 2 and calls[1].endswith(f"--editable .[{extras}]")
    assert (clone / "install.log").read_text().count(BANNER) == 2


@pytest.mark.parametrize(("variable", "compiles"), [("", False), ("1", True)])
def test_install_compiles_modules_where_python_would_not(
    variable: str, compiles: bool, clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", variable)
    assert install(clone, "--wheels").returncode == 0
    assert ("--no-compile" not in (clone / "calls").read_text()) == compiles


def test_install_shows_the_output_of_a_pip_that_fails(clone: Path) -> None:
    (clone / "pip-fails").touch()
    ended = install(clone)
    assert ended.returncode == 2
    assert "no matching distribution" in ended.stderr
    assert ended.stderr.splitlines()[-1].startswith("error: upgrading pip failed")
    assert not (clone / "calls").read_text().count("--editable")


def test_install_names_missing_packages_where_there_is_no_apt_get(clone: Path) -> None:
    write(clone / "bin" / "g++", "#!/bin/sh\nexit 1\n")
    tools = clone / "tools"
    tools.mkdir()
    for name in ("bash", "sh", "dirname", "id", "wc", "tail", "mkdir", "cp"):
        (tools / name).symlink_to(shutil.which(name) or name)
    env = {"PATH": f"{clone / 'bin'}:{tools}"}
    ended = subprocess.run(["bash", "install.sh"], cwd=clone, env=env, capture_output=True, text=True, timeout=TIMEOUT)
    assert ended.returncode == 2
    assert ended.stderr == "error: there is no apt-get here: install the equivalents of g++ and try again\n"


def test_install_from_wheels_needs_neither_a_compiler_nor_apt_get(clone: Path) -> None:
    for name in ("g++", "pkg-config", "apt-get", "sudo"):
        write(clone / "bin" / name, "#!/bin/sh\necho called >&2\nexit 1\n")
    ended = install(clone, "--wheels")
    assert (ended.returncode, ended.stderr) == (0, "")


def test_install_runs_apt_get_quietly_and_shows_why_it_failed(clone: Path) -> None:
    write(clone / "bin" / "g++", "#!/bin/sh\nexit 1\n")
    write(clone / "bin" / "sudo", '#!/bin/sh\nexec "$@"\n')
    write(clone / "bin" / "apt-get", '#!/bin/sh\necho "Reading package lists"\necho "apt-get $*" >>calls\n')
    ended = install(clone)
    assert ended.returncode == 0, ended.stderr
    assert len(ended.stdout.splitlines()) == 2 and "Reading" not in ended.stdout
    assert "apt-get install -y -qq --no-install-recommends g++" in (clone / "calls").read_text()
    write(clone / "bin" / "apt-get", '#!/bin/sh\necho "Temporary failure resolving"\nexit 100\n')
    ended = install(clone)
    assert ended.returncode == 2
    assert "Temporary failure resolving" in ended.stderr
    assert ended.stderr.splitlines()[-1].startswith("error: apt-get update failed")


def test_install_refuses_an_old_python(clone: Path) -> None:
    write(clone / "bin" / "python3", OLD_PYTHON)
    ended = install(clone)
    assert ended.returncode == 2
    assert "Python 3.10.9 is too old: Python 3.11 or newer is needed" in ended.stderr
