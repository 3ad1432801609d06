"""Processes that train restart themselves once with huge pages for the heap, where Linux gives them on request."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

import trainer.__main__ as command_line
from tests.support.processes import ROOT, TIMEOUT
from trainer.process import huge_pages

SCRIPT = """
import os, sys
from pathlib import Path
from trainer.process import huge_pages

if "REMOVED" in os.environ:  # as glibc does to a program with privileges
    os.environ.pop("GLIBC_TUNABLES", None)
print(os.getpid(), sys.argv[1:], sys.flags.dev_mode, os.environ.get("GLIBC_TUNABLES"))
huge_pages._ENABLED = Path(os.environ["ENABLED"])
huge_pages.restart_with_huge_pages()
print("continues")
"""
NEEDS_GLIBC = pytest.mark.skipif(
    huge_pages._glibc() < (2, 35) or platform.machine() != "x86_64", reason="needs glibc 2.35 or newer on x86-64"
)


def start(tmp_path: Path, enabled: str, **variables: str) -> list[str]:
    (tmp_path / "shortcut").write_text(SCRIPT)
    (tmp_path / "enabled").write_text(enabled)
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    process = subprocess.Popen(
        [sys.executable, "-X", "dev", str(tmp_path / "shortcut"), "train", "a b"],
        env=environment | {"ENABLED": str(tmp_path / "enabled"), "PYTHONPATH": str(ROOT)} | variables,
        stdout=subprocess.PIPE,
        text=True,
    )
    out, _ = process.communicate()
    assert process.returncode == 0
    return out.replace(str(process.pid), "PID").splitlines()


@NEEDS_GLIBC
@pytest.mark.parametrize(
    ("given", "wanted"),
    [("", "glibc.malloc.hugetlb=1"), ("glibc.malloc.check=0", "glibc.malloc.check=0:glibc.malloc.hugetlb=1")],
)
def test_process_starts_again_once_with_its_id_arguments_and_options(tmp_path: Path, given: str, wanted: str) -> None:
    assert start(tmp_path, "always [madvise] never\n", GLIBC_TUNABLES=given) == [
        f"PID ['train', 'a b'] True {given}",
        f"PID ['train', 'a b'] True {wanted}",
        "continues",
    ]


@NEEDS_GLIBC
def test_process_that_is_denied_the_variable_continues_without(tmp_path: Path) -> None:
    said = "PID ['train', 'a b'] True None"
    assert start(tmp_path, "[madvise]", REMOVED="1") == [said, said, "continues"]


@pytest.mark.parametrize("enabled", ["[always] madvise never\n", "always madvise [never]\n"])
def test_process_continues_where_nothing_can_be_gained(tmp_path: Path, enabled: str) -> None:
    assert start(tmp_path, enabled) == ["PID ['train', 'a b'] True None", "continues"]


def test_users_own_choice_is_left_alone(tmp_path: Path) -> None:
    mine = "glibc.malloc.hugetlb=0"
    assert start(tmp_path, "[madvise]", GLIBC_TUNABLES=mine) == [f"PID ['train', 'a b'] True {mine}", "continues"]


def test_kernel_without_huge_pages_or_another_c_library_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huge_pages, "_ENABLED", tmp_path / "missing")
    assert not huge_pages._given_on_request()
    monkeypatch.setattr(os, "confstr", lambda _: "musl 1.2")
    assert huge_pages._glibc() == (0,)
    monkeypatch.setattr(os, "confstr", lambda _: None)
    assert huge_pages._glibc() == (0,)


@NEEDS_GLIBC
@pytest.mark.skipif(not huge_pages._given_on_request(), reason="Linux gives huge pages to all or to none here")
def test_heap_of_the_process_consists_of_huge_pages() -> None:
    script = """
from pathlib import Path
from trainer.cpu.malloc import keep_freed_memory
from trainer.process.linux import proc_bytes

keep_freed_memory()
kept = [bytearray(2**19) for _ in range(128)]  # 64 MiB in pieces that are smaller than a huge page
print(proc_bytes("AnonHugePages", Path("/proc/self/smaps_rollup")) >> 20)
"""
    found = {}
    for tunable in ("0", "1"):
        variables = os.environ | {"GLIBC_TUNABLES": f"glibc.malloc.hugetlb={tunable}"}
        found[tunable] = int(subprocess.check_output([sys.executable, "-c", script], env=variables))
    assert found["0"] < 16 and found["1"] >= 48


@pytest.mark.parametrize("how", ["call", "wrap", "fork", "spawn"])
def test_another_programs_command_line_is_not_started_again(how: str, tmp_path: Path) -> None:
    """Not that of a program which calls run(), with these arguments or others, and not that of a fork."""
    script = """
import multiprocessing, os, sys
from trainer.process import huge_pages

huge_pages.huge_page_variables = lambda: {} if "AGAIN" in os.environ else {"AGAIN": "1"}
if __name__ == "__main__":
    print("started")
    if sys.argv[1] == "call":
        sys.argv = ["shortcut", "train", "recipe"]
    if sys.argv[1] in ("fork", "spawn"):
        context = multiprocessing.get_context(sys.argv[1])
        sys.argv[0] = "shortcut"
        child = context.Process(target=huge_pages.restart_with_huge_pages)
        child.start()
        child.join()
    else:
        huge_pages.restart_with_huge_pages()
"""
    (tmp_path / "script.py").write_text(script)
    variables = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    words = [sys.executable, str(tmp_path / "script.py"), how]
    assert subprocess.check_output(words, env=variables, text=True, timeout=TIMEOUT) == "started\n"


@NEEDS_GLIBC
@pytest.mark.skipif(not huge_pages._given_on_request(), reason="Linux gives huge pages to all or to none here")
@pytest.mark.parametrize(
    "command", [[sys.executable, "-m", "trainer"], [str(Path(sys.executable).parent / "shortcut")]]
)
def test_command_restarts_as_users_call_it(command: list[str], tmp_path: Path) -> None:
    """Also with a closed standard output, which is None in Python."""
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nprint(os.environ.get('GLIBC_TUNABLES'), file=sys.stderr)\n"
    )
    environment["PYTHONPATH"] = f"{tmp_path}:{ROOT}"
    words = ["sh", "-c", '"$@" >&-', "sh", *command, "train", "no_such_recipe"]
    ended = subprocess.run(words, env=environment, stderr=subprocess.PIPE, text=True, timeout=TIMEOUT)
    assert ended.returncode == 2
    first, second, *rest = ended.stderr.splitlines()
    assert (first, second) == ("None", "glibc.malloc.hugetlb=1")
    assert rest and "no_such_recipe" in rest[0]


class RestartedError(Exception):
    pass


@pytest.mark.parametrize(
    ("arguments", "restarts"),
    [
        (["train", "resnet20_he2015"], True),
        (["train", "resnet20_he2015", "--help"], False),
        (["benchmark", "resnet20_he2015", "--data", "missing"], True),
        (["benchmark", "-h"], False),
        (["plan", "resnet20_he2015", "--measure"], True),
        (["plan", "nothing"], False),
        (["evaluate", "--help"], False),
        (["recipes", "nothing"], False),
        ([], False),
    ],
)
def test_commands_that_train_or_measure_training_restart(
    arguments: list[str], restarts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def restart() -> None:
        raise RestartedError

    monkeypatch.setattr(command_line, "restart_with_huge_pages", restart)
    monkeypatch.setattr(sys, "argv", ["trainer", *arguments])
    monkeypatch.setattr("threading.excepthook", None)
    with pytest.raises(RestartedError if restarts else SystemExit):
        command_line.run()
