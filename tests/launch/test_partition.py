"""Options that are not given follow from the partition's nodes, or the user is asked; nothing is left to chance."""

import json
import math
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch.__main__ import main
from launch.slurm import foreground, partition, shell
from launch.slurm.partition import gpus_of, partition_of, resolved
from launch.slurm.settings import SlurmSettings
from launch.slurm.time import as_text, minutes_of
from tests.support.processes import TIMEOUT
from trainer.errors import UserError

# as sinfo -N -o "%P|%G|%c|%l" prints them
EIGHT = "gpu*|gpu:a100:8(S:0-1),gpu:t4:0|96|1-00:00:00\n" * 2
MIXED = "mixed|gpu:4|64|infinite\nmixed|gpu:v100:8|128+|infinite\n"
CPUS = "cpu|(null)|32|2:00:00\n"


@pytest.fixture(autouse=True)
def sinfo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Slurm with three partitions, of which the first is the default one."""
    shown = {"gpu": EIGHT, "mixed": MIXED, "cpu": CPUS}

    def run_slurm(*command: str) -> subprocess.CompletedProcess[str]:
        asked = command[command.index("-p") + 1] if "-p" in command else None
        text = "".join(shown.values()) if asked is None else "".join(shown.get(name, "") for name in asked.split(","))
        return subprocess.CompletedProcess(command, 0, text, "")

    monkeypatch.setattr(partition, "run_slurm", run_slurm)
    resolved.cache_clear()
    yield
    resolved.cache_clear()


def test_partition_says_what_the_nodes_have() -> None:
    default = partition_of(None)
    assert default == partition_of("gpu")
    assert default and (default.name, default.gpus, default.cpus, default.minutes) == ("gpu", {8}, 96, 1440)
    mixed = partition_of("mixed")
    assert mixed and (mixed.gpus, mixed.cpus, mixed.minutes) == ({4, 8}, 64, math.inf)
    assert partition_of("absent") is None


def test_job_may_run_in_any_partition_of_a_list_as_long_as_the_longest_allows() -> None:
    both = partition_of("cpu,gpu")
    assert both and (both.name, both.gpus, both.cpus, both.limit) == ("cpu,gpu", {0, 8}, 32, "1-00:00:00")
    assert resolved(SlurmSettings(partition="cpu,gpu", time="20:00:00", gpus_per_node=8)).cpus_per_task == 4
    with pytest.raises(UserError, match="partition cpu,gpu allows: use --time 1-00:00:00"):
        resolved(SlurmSettings(partition="cpu,gpu", time="1-1", gpus_per_node=8))
    everything = partition_of("cpu,mixed")
    assert everything and everything.minutes == math.inf


@pytest.mark.parametrize(
    ("code", "stderr", "message"),
    [
        (1, "slurm_load_partitions: Unable to contact slurm controller (connect failure)\n", "Unable to contact slurm"),
        (124, "sinfo did not answer within a minute", "sinfo did not answer within a minute"),
        (1, "", "exit code 1"),
    ],
)
def test_slurm_that_does_not_answer_makes_no_job_without_gpus(
    code: int, stderr: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = subprocess.CompletedProcess((), code, "", stderr)
    monkeypatch.setattr(partition, "run_slurm", lambda *_: answer)
    with pytest.raises(UserError, match=f"so nothing was started: .*{re.escape(message)}"):
        resolved(SlurmSettings())
    # no Slurm: --plan shows the job all the same
    answer.stderr = "sinfo: fatal: Could not establish a configuration source\n"
    assert partition_of(None) is None
    answer.returncode, answer.stderr = partition.NOT_FOUND, ""
    assert partition_of(None) is None


@pytest.mark.parametrize(
    ("options", "gpus", "cpus"),
    [
        (SlurmSettings(), 8, 12),
        (SlurmSettings(gpus_per_node=4), 4, 12),  # the rest of the node is for others
        (SlurmSettings(gpus_per_node=8, cpus_per_task=3), 8, 3),
        (SlurmSettings(gpus_per_node=0), 0, 96),
        (SlurmSettings(processes_per_node=2), None, 48),
        (SlurmSettings(gres="gpu:a100:8"), 8, 12),
        (SlurmSettings(partition="mixed", gpus_per_node=8), 8, 8),
        (SlurmSettings(partition="cpu", time="2:00:00"), 0, 32),
        (SlurmSettings(partition="absent"), None, None),
    ],
)
def test_resolved_options_follow_from_the_nodes(options: SlurmSettings, gpus: int | None, cpus: int | None) -> None:
    found = resolved(options)
    assert (found.gpus_per_node, found.cpus_per_task) == (gpus, cpus)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (SlurmSettings(partition="mixed"), "partition mixed have 4 or 8 GPUs: say --gpus-per-node N, or 0 to train on"),
        (SlurmSettings(time="1-1"), "--time 1-1 is more than partition gpu allows: use --time 1-00:00:00"),
    ],
)
def test_options_that_the_partition_cannot_answer_are_refused(options: SlurmSettings, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolved(options)


@pytest.mark.parametrize(
    ("words", "device"),
    [
        ([], "cuda"),
        (["--partition", "cpu"], "auto"),
        (["--gpus-per-node", "0"], "auto"),
        (["--device", "cpu"], "cpu"),
    ],
)
def test_preflight_checks_the_gpus_that_a_job_would_get(
    words: list[str], device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the partition, where the options name none."""
    sent: list[str] = []
    monkeypatch.setattr(foreground, "run", lambda options, module, words: sent.extend(words) or 0)
    assert main(["preflight", "--on", "slurm", *words]) == 0
    assert json.loads(sent[1])["device"] == device


HOSTILE = 'it\'s `touch A`; $(touch B) "$HOME" & PYTHON %\\'


def test_jobs_script_runs_nothing_that_the_folder_is_named(tmp_path: Path) -> None:
    """Until its folder is there, it says so, and then begins with it: quotes and commands are part of the name."""
    folder = tmp_path / HOSTILE
    programs = {
        "scontrol": "echo NodeName=n1 NodeAddr=10.0.0.7",
        "sleep": f"mkdir -p {shlex.quote(str(folder / 'code'))}",
        "python": 'printf \'%s\\n\' "$PYTHONPATH" "$@" >&2; echo meet 10.0.0.7:12345',
    }
    (tmp_path / "bin").mkdir()
    for name, line in programs.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    script = "\n".join([*shell.before(folder, str(tmp_path / "bin" / "python")), "echo $MASTER_ADDR $MASTER_PORT"])
    assert subprocess.run(["bash", "-n", "-c", script], capture_output=True).stderr == b""
    ended = subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SLURM_JOB_ID": "17", "SLURMD_NODENAME": "n1"},
        timeout=TIMEOUT,
    )
    assert ended.stdout.splitlines() == [
        f"launch: {folder} is not there: waiting for it for up to an hour",
        "10.0.0.7 12345",
    ], ended.stderr
    asked = ["-m", "launch.slurm.start", "begin", str(folder), "10.0.0.7"]
    assert ended.stderr.splitlines() == [f"{folder}/code", *asked]
    assert {path.name for path in tmp_path.iterdir()} == {"bin", HOSTILE}


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, "glibc.malloc.hugetlb=1"),
        ({"GLIBC_TUNABLES": "glibc.malloc.check=0"}, "glibc.malloc.check=0:glibc.malloc.hugetlb=1"),
        ({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}, "glibc.malloc.hugetlb=0"),
    ],
)
def test_processes_of_a_job_ask_for_huge_pages_unless_the_user_has_chosen(given: dict[str, str], wanted: str) -> None:
    (line,) = [line for line in shell.before(Path("/nowhere"), "python") if "GLIBC_TUNABLES" in line]
    show = f"{line}\n{shlex.quote(sys.executable)} -c 'import os; print(os.environ[\"GLIBC_TUNABLES\"])'"
    assert subprocess.check_output(["bash", "-c", show], env=given, text=True) == f"{wanted}\n"


def test_gres_names_the_number_of_gpus_or_is_refused() -> None:
    assert [gpus_of(gres) for gres in ("gpu", "gpu:4", "gpu:a100", "gpu:a100:8")] == [1, 4, 1, 8]
    with pytest.raises(ValueError, match="is not gpu, gpu:COUNT or gpu:KIND:COUNT"):
        gpus_of("gpu:8,disk:1")
    with pytest.raises(ValueError, match="differ: use only one of them"):
        SlurmSettings(gres="gpu:8", gpus_per_node=4)


@pytest.mark.parametrize(
    ("minutes", "text"), [(1, "00:01:00"), (720, "12:00:00"), (1440, "1-00:00:00"), (3005, "2-02:05:00")]
)
def test_time_is_written_as_people_read_it(minutes: int, text: str) -> None:
    assert as_text(minutes) == text
    assert minutes_of(text) == minutes
