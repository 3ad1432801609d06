"""On a real Slurm: whatever ends a job, it goes on by itself to the weights of a run that nothing ended."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import ROOT, SUPPORT, assert_same_run, metrics
from tests.support.slurm_cluster import Cluster, cluster, missing

RECIPE = SUPPORT / "small_recipe.py"
# 220 steps, which no start comes to the end of before it is ended, of as few images as 4 processes can share
BATCHES = ["--global-batch-size", "32", "--micro-batch-size", "8", "--epochs", "5"]
JOB = [*BATCHES, "--log-every", "1", "--checkpoint-steps", "7", "--no-pictures"]
PROCESSES = ["--nodes", "2", "--processes-per-node", "2", "--cpus-per-task", "1"]
LIMIT = 180  # seconds; a hang fails the test

pytestmark = [pytest.mark.slurm, pytest.mark.skipif(missing() is not None, reason=str(missing()))]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes, without accounting."""
    with cluster(tmp_path_factory.mktemp("slurm"), nodes=3) as it:
        yield it


def launch(slurm: Cluster, *words: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "launch", *map(str, words)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**slurm.env, "PYTHONPATH": str(cwd)},
        timeout=LIMIT,
    )


def submit(slurm: Cluster, run_dir: Path, data: Path, *options: str, job: list[str] = JOB, cwd: Path = ROOT) -> str:
    """The job's id."""
    words = ["--time", "30", "--signal-seconds", "60", *PROCESSES, *options]
    ended = launch(slurm, "slurm", *words, RECIPE, "--data", data, "--run-dir", run_dir, *job, cwd=cwd)
    assert ended.returncode == 0, ended.stderr
    return str(json.loads((run_dir / "launch" / newest(run_dir) / "job.json").read_text())["id"])


def newest(run_dir: Path) -> str:
    return max(path.name for path in (run_dir / "launch").iterdir())


def starts(run_dir: Path) -> list[dict]:
    """Every start that the newest launch has noted so far."""
    folder = run_dir / "launch" / newest(run_dir) / "attempts" / "0"
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def wait_for_end(slurm: Cluster, job: str) -> str:
    over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
    slurm.wait_until(lambda: slurm.job(job).get("JobState", "") in over, f"job {job} ends", LIMIT)
    return slurm.job(job)["JobState"]


def log(run_dir: Path, rank: int = 0) -> str:
    (path,) = (run_dir / "launch" / newest(run_dir) / "logs").glob(f"*_{rank}_log.out")
    return path.read_text()


@pytest.fixture(scope="module")
def uninterrupted(slurm: Cluster, digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing ends, submitted from a copy of the code that is gone before the job begins."""
    checkout, run_dir = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("runs") / "uninterrupted"
    for package in ("trainer", "recipes", "launch"):
        shutil.copytree(ROOT / package, checkout / package)
    slurm.run("scontrol", "update", "NodeName=ALL", "State=DRAIN", "Reason=test")
    job = submit(slurm, run_dir, digits, cwd=checkout)
    shutil.rmtree(checkout)
    slurm.run("scontrol", "update", "NodeName=ALL", "State=RESUME")
    assert wait_for_end(slurm, job) == "COMPLETED", log(run_dir)
    return run_dir


@pytest.fixture(scope="module")
def ordeal(slurm: Cluster, digits: Path, uninterrupted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose job meets, start by start, everything that ends a job on a cluster; and is launched once more."""
    run_dir = tmp_path_factory.mktemp("runs") / "ordeal"
    job = submit(slurm, run_dir, digits)

    def wait_for_start(number: int) -> None:
        """Waits until start `number` has trained some steps; what an earlier one logged beyond is cut off by then."""

        def trains() -> bool:
            record = run_dir / "starts.json"
            trained = len(json.loads(record.read_text())) if record.exists() else 0
            return trained > number and last_step(run_dir) > starts(run_dir)[-1]["step"] + 3

        slurm.wait_until(trains, f"start {number} trains", LIMIT)

    wait_for_start(0)
    slurm.run("scontrol", "requeue", job)
    wait_for_start(1)
    slurm.run("scancel", "--signal=USR2", job)  # what Slurm does itself before the limit, up to a minute early
    slurm.wait_until(lambda: slurm.job(job)["JobState"] == "PENDING", "queued again", LIMIT)
    wait_for_start(2)
    os.kill(process_of(slurm, job, rank=3), signal.SIGKILL)
    wait_for_start(3)
    preempt(slurm, nodes=3)
    wait_for_start(4)
    slurm.lose_node(2)
    wait_for_start(5)
    assert launch(slurm, "cancel", run_dir).returncode == 0
    assert wait_for_end(slurm, job) == "CANCELLED"
    job = submit(slurm, run_dir, digits, "--partition", "grace")  # where only the processes get the signal
    wait_for_start(6)
    preempt(slurm, nodes=2)
    assert wait_for_end(slurm, job) == "COMPLETED", log(run_dir)
    return run_dir


def preempt(slurm: Cluster, nodes: int) -> None:
    """Has a job of a higher priority take so many nodes, and waits until that has run."""
    words = ["--parsable", "-p", "high", "-N", str(nodes), "--exclusive", "-o", "/dev/null", "--wrap", "true"]
    assert wait_for_end(slurm, slurm.run("sbatch", *words).strip()) == "COMPLETED"


def last_step(run_dir: Path) -> int:
    return max((record["step"] for record in metrics(run_dir, whole=False)), default=0)


def process_of(slurm: Cluster, job: str, rank: int) -> int:
    """The process of that rank, on whatever node."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            environment = dict(entry.split("=", 1) for entry in path.read_text().split("\0") if "=" in entry)
            command = (path.parent / "cmdline").read_text()
        except OSError:
            continue
        mine = environment.get("SLURM_CONF") == slurm.env["SLURM_CONF"] and environment.get("SLURM_JOB_ID") == job
        it = mine and environment.get("SLURM_PROCID") == str(rank) and "submitit.core._submit" in command
        if it and "srun" not in command.partition("\0")[0]:
            return int(path.parent.name)
    raise AssertionError(f"no process of rank {rank}")


def test_a_job_ends_with_a_result_of_the_code_that_was_submitted(uninterrupted: Path) -> None:
    """Its checkout was removed while it waited."""
    assert json.loads((uninterrupted / "result.json").read_text())["starts"][0]["processes"] == 4
    assert [start["reason"] for start in starts(uninterrupted)] == ["finished"]
    assert "preflight: 4 processes, no fault" in log(uninterrupted)


def test_whatever_ends_a_job_it_ends_with_the_weights_of_one_that_nothing_ended(
    ordeal: Path, uninterrupted: Path
) -> None:
    assert_same_run(ordeal, uninterrupted)


def test_every_end_of_a_start_is_told(ordeal: Path) -> None:
    first = ordeal / "launch" / "001" / "attempts" / "0"
    told = [json.loads(path.read_text())["reason"] for path in sorted(first.glob("*.json"))[:5]]
    assert told[0] == "ended from outside"  # scontrol requeue
    assert told[1] == "saved before the time limit"
    assert told[2].startswith("srun ended with ")  # a rank that was killed could not say why
    assert told[3] == "ended from outside"  # preempted
    assert told[4].startswith(("ended from outside", "srun ended with "))  # the node was lost: who saw it first


def test_a_signal_saves_where_it_finds_the_run(ordeal: Path) -> None:
    """Requeue, time limit, preemption, cancel, preemption with a grace: the next start begins at the step it says."""
    saved, begun = [], []
    for line in (ordeal / "log.txt").read_text().splitlines():
        if match := re.match(r"stopped and saved after step (\d+): .* after SIG(TERM|USR2)\)", line):
            saved.append(int(match[1]))
        if match := re.match(r"continued after step (\d+)", line):
            begun.append(int(match[1]))
    in_an_evaluation = (ordeal / "log.txt").read_text().count("stopped in an evaluation")
    assert len(saved) + in_an_evaluation == 5
    assert set(saved) <= set(begun)


def test_a_preemption_with_a_grace_is_followed_by_another_start(ordeal: Path) -> None:
    """The job's script outlives its processes there, and has to tell it from scancel."""
    assert [start["reason"] for start in starts(ordeal)] == ["preempted, saved", "finished"]


def test_a_lost_node_is_left_behind(ordeal: Path) -> None:
    first = ordeal / "launch" / "001" / "attempts" / "0"
    nodes = [json.loads(path.read_text())["nodes"] for path in sorted(first.glob("*.json"))]
    assert nodes[4] == "n[1-2]"
    assert nodes[5] == "n[1,3]"


def test_each_start_meets_at_another_port(ordeal: Path) -> None:
    first = ordeal / "launch" / "001" / "attempts" / "0"
    ports = [json.loads(path.read_text())["port"] for path in first.glob("*.json")]
    assert len(ports) == len(set(ports)) >= 6


def test_wrong_input_is_not_tried_again(slurm: Cluster, tmp_path: Path) -> None:
    job = submit(slurm, tmp_path / "run", tmp_path / "nowhere", "--processes-per-node", "1")
    assert wait_for_end(slurm, job) == "FAILED"
    assert [start["again"] for start in starts(tmp_path / "run")] == [False]
    shown = launch(slurm, "status", tmp_path / "run").stdout
    assert "FAILED" in shown
    assert "nowhere" in shown  # the error itself, not only that there was one
    assert "nowhere" in launch(slurm, "logs", tmp_path / "run").stdout


def test_a_job_that_never_gets_on_is_given_up_with_the_reason(slurm: Cluster, digits: Path, tmp_path: Path) -> None:
    crashing = tmp_path / "crashing"
    crashing.write_text('#!/bin/sh\nulimit -c 0\nif [ "$SLURM_STEP_ID" = 0 ]; then kill -SEGV $$; fi\nexec "$@"\n')
    crashing.chmod(0o755)
    job = submit(
        slurm, tmp_path / "run", digits, "--container", str(crashing), "--max-restarts-without-checkpoint", "2"
    )
    assert wait_for_end(slurm, job) == "FAILED"
    assert len(starts(tmp_path / "run")) == 2
    assert "given up after 2 starts without a new checkpoint" in launch(slurm, "status", tmp_path / "run").stdout


def test_recipes_and_seeds_become_an_array_with_a_folder_for_each_run(
    slurm: Cluster, digits: Path, tmp_path: Path
) -> None:
    short = ["--epochs", "1", "--log-every", "5", "--no-pictures"]
    words = [
        "--seeds",
        "0",
        "1",
        "--time",
        "30",
        "--cpus-per-task",
        "1",
        RECIPE,
        "--data",
        digits,
        "--run-dir",
        tmp_path,
    ]
    submitted = launch(slurm, "slurm", *words, *short)
    assert submitted.returncode == 0, submitted.stderr
    running = launch(slurm, "slurm", *words, *short)
    assert running.returncode == 2
    assert "is PENDING already" in running.stderr or "is RUNNING already" in running.stderr
    runs = [tmp_path / "small_seed0", tmp_path / "small_seed1"]
    slurm.wait_until(lambda: all((run / "result.json").exists() for run in runs), "both have a result", LIMIT)
    done = lambda: launch(slurm, "status", tmp_path).stdout.count("COMPLETED") == 2  # noqa: E731
    slurm.wait_until(done, "both have finished", LIMIT)
    assert [json.loads((run / "result.json").read_text())["seed"] for run in runs] == [0, 1]
    assert "small" in launch(slurm, "logs", runs[1]).stdout
    compared = subprocess.run(
        [sys.executable, "-m", "trainer", "compare", str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=LIMIT,
    )
    assert compared.returncode == 0, compared.stderr


def test_what_slurm_refuses_is_one_line_and_leaves_nothing(slurm: Cluster, digits: Path, tmp_path: Path) -> None:
    words = ["--partition", "absent", "--time", "30", RECIPE, "--data", digits, "--run-dir", tmp_path / "run"]
    refused = launch(slurm, "slurm", *words)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: Slurm refused the job: ")
    assert "invalid partition specified: absent" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert not list((tmp_path / "run").rglob("*.json"))


def test_a_plan_asks_slurm_and_submits_nothing(slurm: Cluster, digits: Path, tmp_path: Path) -> None:
    words = ["--plan", "--nodes", "2", "--gpus-per-node", "2", "--time", "30", RECIPE]
    shown = launch(slurm, "slurm", *words, "--data", digits, "--run-dir", tmp_path / "run", "--global-batch-size", "64")
    assert shown.returncode == 0, shown.stderr
    assert "#SBATCH --gpus-per-node=2" in shown.stdout
    assert "4 processes on 2 nodes" in shown.stdout
    assert "--device cuda" in shown.stdout
    assert "sbatch --test-only: sbatch: Job " in shown.stdout
    assert "global_batch_size=64" in shown.stdout  # the resolved recipe
    assert not (tmp_path / "run").exists()
    too_many = launch(
        slurm, "slurm", "--plan", "--nodes", "6", "--time", "30", RECIPE, "--data", digits, "--run-dir", "r"
    )
    assert "Requested node configuration is not available" in too_many.stdout + too_many.stderr


def test_preflight_on_the_nodes_of_slurm(slurm: Cluster, digits: Path, tmp_path: Path) -> None:
    words = ["--nodes", "2", "--processes-per-node", "1", "--run-dir", tmp_path / "run"]
    well = launch(slurm, "preflight", *words, "--data", digits)
    assert well.returncode == 0, well.stderr + well.stdout
    assert "preflight: 2 processes, no fault" in well.stdout
    assert "GB/s" in well.stdout
    ill = launch(slurm, "preflight", *words, "--data", tmp_path / "nowhere")
    assert ill.returncode == 1
    faults = [line for line in ill.stdout.splitlines() if line.startswith("fault: ")]
    assert any("nowhere" in line and line.startswith("fault: n") for line in faults)


@pytest.mark.skipif(missing(accounts=True) is not None, reason=str(missing(accounts=True)))
def test_with_accounting_what_slurm_has_forgotten_is_still_known(tmp_path: Path) -> None:
    (tmp_path / "slurm").mkdir()
    with cluster(tmp_path / "slurm", nodes=2, accounts=True) as it:
        job = submit(it, tmp_path / "run", tmp_path / "nowhere", "--nodes", "1", "--processes-per-node", "1")
        assert wait_for_end(it, job) == "FAILED"
        it.wait_until(lambda: "FAILED" in it.run("sacct", "-n", "-X", "-j", job, "-o", "State"), "sacct knows it")
        forgets = tmp_path / "bin" / "scontrol"
        forgets.parent.mkdir()
        forgets.write_text("#!/bin/sh\nexit 1\n")  # as after MinJobAge, minutes to hours
        forgets.chmod(0o755)
        shutil.rmtree(tmp_path / "run" / "launch" / "001" / "attempts" / "0")
        it.env["PATH"] = f"{forgets.parent}:{it.env['PATH']}"
        shown = launch(it, "status", tmp_path / "run").stdout
        assert "FAILED" in shown, shown
