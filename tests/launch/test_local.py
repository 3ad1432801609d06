"""On one machine: a crash is followed by another start, a signal is not, and nothing is lost by either."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch.local.alive import runner
from launch.local.torchrun import first_failure
from launch.submission import submission_of
from tests.support.processes import (
    ROOT,
    SUPPORT,
    TIMEOUT,
    assert_same_run,
    is_alive,
    kill_after_test,
    running,
    wait_for_step,
)

pytestmark = pytest.mark.slow

RECIPE = SUPPORT / "small_recipe.py"
JOB = ["--epochs", "4", "--log-every", "1", "--checkpoint-steps", "5"]


def words(verb: str, run_dir: Path, data: Path, *options: str, job: list[str] = JOB) -> list[str]:
    return [verb, *options, str(RECIPE), "--data", str(data), "--run-dir", str(run_dir), *job]


def start(words: list[str]) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "launch", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
    )
    return kill_after_test(process)


def launch(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "launch", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=TIMEOUT)


def attempts(run_dir: Path, number: str = "001") -> list[dict]:
    folder = run_dir / "launch" / number / "attempts" / "0"
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def ranks(run_dir: Path) -> dict[int, int]:
    """The process of each rank of this run."""
    return {
        int(environment["RANK"]): process
        for process, words, environment in running()
        if "launch.rank" in " ".join(words) and str(run_dir) in " ".join(words) and "RANK" in environment
    }


@pytest.fixture(scope="module")
def uninterrupted(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("uninterrupted")
    ended = launch(*words("local", run_dir, digits, "--processes", "2"))
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    return run_dir


def test_ranks_start_with_huge_pages_for_the_heap() -> None:
    script = """
from launch.local import torchrun
torchrun.huge_page_variables = lambda: {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
torchrun.torchrun(2, ["-c", "import os; os.write(1, os.environb[b'GLIBC_TUNABLES'] + bytes([10]))"], "run")
"""  # one write each: where output is unbuffered, print writes the line's end by itself
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, timeout=TIMEOUT)
    assert ended.stdout.splitlines() == 2 * ["glibc.malloc.hugetlb=1"], ended.stderr


def test_killed_process_is_followed_by_a_new_start_and_the_same_weights(
    uninterrupted: Path, digits: Path, tmp_path: Path
) -> None:
    process = start(words("local", tmp_path, digits, "--processes", "2"))
    wait_for_step(process, tmp_path, 12)
    os.kill(ranks(tmp_path)[1], signal.SIGKILL)
    out, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, err
    assert "rank 1 was ended by SIGKILL: starting again" in err
    assert "Traceback" not in err  # torchrun's own account is left out
    assert "continued after step" in out
    assert [start["again"] for start in attempts(tmp_path)] == [True, False]
    assert_same_run(tmp_path, uninterrupted)


def test_sigterm_to_a_rank_alone_is_followed_by_a_new_start_and_the_same_weights(
    uninterrupted: Path, digits: Path, tmp_path: Path
) -> None:
    """The launcher got none: it was not the user."""
    process = start(words("local", tmp_path, digits, "--processes", "2"))
    wait_for_step(process, tmp_path, 12)
    os.kill(ranks(tmp_path)[1], signal.SIGTERM)
    _, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, err
    assert "SIGTERM to the processes, saved; the run continues because nobody cancelled its job: starting again" in err
    assert [start["again"] for start in attempts(tmp_path)] == [True, False]
    assert_same_run(tmp_path, uninterrupted)


@pytest.mark.parametrize(
    ("failures", "first"),
    [
        ({1: (7, 75), 2: (7, -9), 3: (7, 75)}, (2, -9)),
        ({1: (7, 75), 2: (8, 1)}, (2, 1)),
        ({2: (7, 1), 1: (8, -9)}, (2, 1)),
        ({0: (8, 75), 1: (7, 75)}, (1, 75)),
    ],
)
def test_rank_that_lost_a_peer_is_not_the_cause(failures: dict[int, tuple[int, int]], first: tuple[int, int]) -> None:
    """Codes of ranks that torchrun finds at the same time, and when they ended."""
    assert first_failure(failures) == first


def test_lost_rank_is_reported_by_one_line_and_no_rank_is_left(digits: Path, tmp_path: Path) -> None:
    job = ["--global-batch-size", "32", "--micro-batch-size", "8", "--epochs", "400", "--log-every", "1"]
    few = ["--processes", "4", "--max-restarts-without-checkpoint", "1"]
    process = start(words("local", tmp_path, digits, *few, job=job))
    wait_for_step(process, tmp_path, 3)
    running = ranks(tmp_path)
    assert sorted(running) == [0, 1, 2, 3]
    os.kill(running[2], signal.SIGKILL)
    killed = time.monotonic()
    while any(is_alive(pid) for pid in running.values()):
        assert time.monotonic() - killed < TIMEOUT
        time.sleep(0.02)
    _, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 1
    lines = err.splitlines()
    assert len([line for line in lines if line.startswith("error: another process of this run")]) == 1, err
    assert lines[-1].startswith("launch: given up after 1 starts without a new checkpoint: rank 2 was ended by SIGKILL")
    assert "Traceback" not in err
    assert max(map(len, lines)) < 250


@pytest.mark.parametrize("processes", ["1", "2"])
def test_local_ctrl_c_saves_once_for_all_processes_and_says_so_by_its_code(
    processes: str, uninterrupted: Path, digits: Path, tmp_path: Path
) -> None:
    """A terminal sends it to the launcher, which hands it on: torch starts each rank in a session of its own."""
    command = words("local", tmp_path, digits, "--processes", processes)
    process = start(command)
    wait_for_step(process, tmp_path, 7)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 130, err
    assert "run the same command again to resume" in out
    assert "Traceback" not in err
    assert [start["reason"] for start in attempts(tmp_path)] == ["stopped by SIGINT, saved"]
    if processes == "2":
        assert launch(*command).returncode == 0
        assert_same_run(tmp_path, uninterrupted)


def test_local_wrong_input_is_one_line_and_not_tried_again(tmp_path: Path) -> None:
    ended = launch(*words("local", tmp_path / "run", tmp_path / "nowhere", "--processes", "2"))
    assert ended.returncode == 2
    assert "nowhere" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert len(attempts(tmp_path / "run")) == 1


def test_local_in_the_background_the_same_commands_report_and_decide(digits: Path, tmp_path: Path) -> None:
    long = ["--epochs", "400", "--log-every", "1", "--no-pictures"]
    command = words("local", tmp_path, digits, "--processes", "1", "--background", job=long)
    started = launch(*command)
    assert started.returncode == 0, started.stderr
    assert runner(submission_of(tmp_path)[0])  # at once: another launch must see it
    try:
        deadline = time.monotonic() + TIMEOUT
        while "/400" not in (shown := launch("status", tmp_path).stdout) and time.monotonic() < deadline:
            time.sleep(0.5)
        assert "RUNNING" in shown
        again = launch(*command)
        assert again.returncode == 2
        assert "is RUNNING already" in again.stderr
    finally:
        cancelled = launch("cancel", tmp_path)
    assert cancelled.returncode == 0, cancelled.stderr
    followed = launch("logs", tmp_path, "-f")  # ends with the job
    assert re.search("stopped and saved after step|stopped in an evaluation, saved before it", followed.stdout)
    shown = launch("status", tmp_path).stdout
    assert "FAILED" not in shown
    assert "cancelled by python -m launch cancel, saved" in shown
    assert launch("cancel", tmp_path).returncode == 2  # there is nothing to end any more


def test_several_runs_follow_each_other(digits: Path, tmp_path: Path) -> None:
    short = ["--epochs", "1", "--no-pictures"]
    ended = launch(*words("local", tmp_path, digits, "--seeds", "0", "1", job=short))
    assert ended.returncode == 0, ended.stderr
    shown = launch("status", tmp_path).stdout
    assert shown.count("COMPLETED") == 2
    assert {"small_seed0", "small_seed1"} <= {path.name for path in tmp_path.iterdir()}


def test_preflight_on_this_machine(digits: Path, tmp_path: Path) -> None:
    here = ["--on", "local", "--processes-per-node", "2", "--run-dir", tmp_path / "run", "--data"]
    well = launch("preflight", *here, digits)
    assert well.returncode == 0, well.stdout + well.stderr
    assert "preflight: 2 processes, no fault" in well.stdout
    ill = launch("preflight", *here, tmp_path / "nowhere")
    assert ill.returncode == 1
    assert "preflight: 2 processes, 2 faults" in ill.stdout
    assert "Traceback" not in ill.stderr
