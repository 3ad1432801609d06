"""Real training on a real Slurm: whatever ends its job, a run ends with the weights of one that nothing ended."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.processes import ROOT, SUPPORT, TIMEOUT, assert_same_run, metrics
from tests.support.slurm_cluster import Cluster, cluster, missing

RECIPE = SUPPORT / "small_recipe.py"
# 220 steps, which no start comes to the end of before it is ended
BATCHES = ["--global-batch-size", "32", "--micro-batch-size", "8", "--epochs", "5"]
JOB = [*BATCHES, "--log-every", "1", "--checkpoint-steps", "7", "--no-pictures"]
PROCESSES = ["--nodes", "2", "--processes-per-node", "1", "--cpus-per-task", "1"]

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
        timeout=TIMEOUT,
    )


def submit(slurm: Cluster, run_dir: Path, data: Path, *options: str, job: list[str] = JOB, cwd: Path = ROOT) -> str:
    """The job's id."""
    words = ["--time", "30", "--signal-seconds", "60", *PROCESSES, *options]
    ended = launch(slurm, "slurm", *words, RECIPE, "--data", data, "--run-dir", run_dir, *job, cwd=cwd)
    assert ended.returncode == 0, ended.stderr
    return str(json.loads((run_dir / "launch" / newest(run_dir) / "job.json").read_text())["id"])


def newest(run_dir: Path) -> str:
    return max(path.name for path in (run_dir / "launch").iterdir() if path.name.isdigit())


def starts(run_dir: Path) -> list[dict]:
    """Every start that the newest launch has noted so far."""
    folder = run_dir / "launch" / newest(run_dir) / "attempts" / "0"
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def log(run_dir: Path, rank: int = 0) -> str:
    (path,) = (run_dir / "launch" / newest(run_dir) / "logs").glob(f"*_{rank}_log.out")
    return path.read_text()


@pytest.fixture(scope="module")
def uninterrupted(slurm: Cluster, digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing ends, submitted from a copy of the code that is gone before the job begins."""
    checkout, run_dir = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("runs") / "uninterrupted"
    for package in ("trainer", "recipes", "launch"):
        unfinished = shutil.ignore_patterns("*.pyc*", "*.tmp.*")  # other tests compile meanwhile
        shutil.copytree(ROOT / package, checkout / package, ignore=unfinished)
    slurm.run("scontrol", "update", "NodeName=ALL", "State=DRAIN", "Reason=test")
    job = submit(slurm, run_dir, digits, cwd=checkout)
    shutil.rmtree(checkout)
    slurm.run("scontrol", "update", "NodeName=ALL", "State=RESUME")
    assert slurm.wait_for_end(job) == "COMPLETED", log(run_dir)
    return run_dir


def last_step(run_dir: Path) -> int:
    return max((record["step"] for record in metrics(run_dir, whole=False)), default=0)


def process_of(slurm: Cluster, job: str, rank: int) -> int:
    """The process of that rank, on whatever node."""
    for process, command in slurm.processes(job, SLURM_PROCID=str(rank)).items():
        if "submitit.core._submit" in command and "srun" not in command.partition(" ")[0]:
            return process
    raise AssertionError(f"no process of rank {rank}")


def test_job_ends_with_a_result_of_the_code_that_was_submitted(uninterrupted: Path) -> None:
    """Its checkout was removed while it waited."""
    assert json.loads((uninterrupted / "result.json").read_text())["starts"][0]["processes"] == 2
    assert starts(uninterrupted)[-1]["reason"] == "finished"  # on a busy machine Slurm may cancel a step by itself
    assert "preflight: 2 processes, no fault" in log(uninterrupted)


def requeue(slurm: Cluster, run_dir: Path, job: str) -> None:
    slurm.run("scontrol", "requeue", job)


def soft_signal(slurm: Cluster, run_dir: Path, job: str) -> None:
    """What Slurm sends before the time limit, up to a minute early."""
    slurm.run("scancel", "--signal=USR2", job)


def kill_a_rank(slurm: Cluster, run_dir: Path, job: str) -> None:
    slurm.wait_until(lambda: any((run_dir / "checkpoints").glob("step_*.pt")), "a checkpoint is there")
    os.kill(process_of(slurm, job, rank=1), signal.SIGKILL)


def preempt(slurm: Cluster, run_dir: Path, job: str) -> None:
    """Has a job of a higher priority take all nodes. In this partition only the processes are signalled at first."""
    words = ["--parsable", "-p", "high", "-N", "3", "--exclusive", "-o", "/dev/null", "--wrap", "true"]
    assert slurm.wait_for_end(slurm.run("sbatch", *words).strip()) == "COMPLETED"


def cancel(slurm: Cluster, run_dir: Path, job: str) -> None:
    assert launch(slurm, "cancel", run_dir).returncode == 0
    assert slurm.wait_for_end(job) == "CANCELLED"


@pytest.mark.parametrize("end", [requeue, soft_signal, kill_a_rank, preempt, cancel])
def test_run_that_was_ended_has_the_weights_of_one_that_was_not(
    end: Callable[[Cluster, Path, str], None], slurm: Cluster, digits: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    job = submit(slurm, run_dir, digits, "--partition", "grace")
    slurm.wait_until(lambda: last_step(run_dir) > 10, "start 0 trains")
    end(slurm, run_dir, job)
    if end is cancel:  # launched again, it continues
        job = submit(slurm, run_dir, digits)
    assert slurm.wait_for_end(job) == "COMPLETED", log(run_dir)
    assert len(json.loads((run_dir / "starts.json").read_text())) == 2
    assert_same_run(run_dir, uninterrupted)
    said = (run_dir / "log.txt").read_text()
    saved = re.findall(r"stopped and saved after step (\d+): .* after SIG(?:TERM|USR2)\)", said)
    begun = re.findall(r"continued after step (\d+)", said)
    assert len(begun) == 1
    if end is kill_a_rank:
        assert saved == []
    else:
        assert saved == begun or "stopped in an evaluation" in said
    ports = [start["port"] for start in starts(run_dir)]
    assert len(set(ports)) == len(ports)


def test_slurm_wrong_input_is_not_tried_again(slurm: Cluster, tmp_path: Path) -> None:
    job = submit(slurm, tmp_path / "run", tmp_path / "nowhere", "--processes-per-node", "1")
    assert slurm.wait_for_end(job) == "FAILED"
    assert [start["again"] for start in starts(tmp_path / "run")] == [False]
    shown = launch(slurm, "status", tmp_path / "run").stdout
    assert "FAILED" in shown
    assert "nowhere" in shown  # the error itself, not only that there was one
    assert "nowhere" in launch(slurm, "logs", tmp_path / "run").stdout


def test_job_that_never_makes_progress_is_given_up_with_the_reason(
    slurm: Cluster, digits: Path, tmp_path: Path
) -> None:
    crashing = tmp_path / "crashing"
    crashing.write_text('#!/bin/sh\nulimit -c 0\nif [ "$SLURM_STEP_ID" = 0 ]; then kill -SEGV $$; fi\nexec "$@"\n')
    crashing.chmod(0o755)
    job = submit(
        slurm, tmp_path / "run", digits, "--container", str(crashing), "--max-restarts-without-checkpoint", "2"
    )
    assert slurm.wait_for_end(job) == "FAILED"
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
        "--gpus-per-node",
        "0",
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
    slurm.wait_until(lambda: all((run / "result.json").exists() for run in runs), "both have a result")
    done = lambda: launch(slurm, "status", tmp_path).stdout.count("COMPLETED") == 2  # noqa: E731
    slurm.wait_until(done, "both have finished")
    assert [json.loads((run / "result.json").read_text())["seed"] for run in runs] == [0, 1]
    assert "small" in launch(slurm, "logs", runs[1]).stdout
    compared = subprocess.run(
        [sys.executable, "-m", "trainer", "compare", str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=TIMEOUT,
    )
    assert compared.returncode == 0, compared.stderr


def test_slurm_what_slurm_refuses_is_one_line_and_leaves_nothing(slurm: Cluster, digits: Path, tmp_path: Path) -> None:
    words = ["--partition", "absent", "--time", "30", RECIPE, "--data", digits, "--run-dir", tmp_path / "run"]
    refused = launch(slurm, "slurm", *words)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: Slurm refused the job: ")
    assert "invalid partition specified: absent" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert not list((tmp_path / "run").rglob("*.json"))


def test_plan_asks_slurm_and_submits_nothing(slurm: Cluster, digits: Path, tmp_path: Path) -> None:
    words = ["--plan", "--nodes", "2", "--gpus-per-node", "2", "--time", "30", RECIPE]
    shown = launch(slurm, "slurm", *words, "--data", digits, "--run-dir", tmp_path / "run", "--global-batch-size", "64")
    assert shown.returncode == 0, shown.stderr
    assert "#SBATCH --gpus-per-node=2" in shown.stdout
    assert "4 processes on 2 nodes" in shown.stdout
    assert "--device cuda" in shown.stdout
    assert "sbatch --test-only: sbatch: Job " in shown.stdout
    assert "64 images per step" in shown.stdout  # the recipe's plan
    assert not (tmp_path / "run").exists()
    too_many = launch(
        slurm, "slurm", "--plan", "--nodes", "6", "--time", "30", RECIPE, "--data", digits, "--run-dir", "r"
    )
    assert "12 processes cannot share" in too_many.stderr  # on all GPUs of the nodes, which have two
    on_cpus = ["--plan", "--nodes", "6", "--gpus-per-node", "0", "--time", "30", RECIPE]
    too_many = launch(slurm, "slurm", *on_cpus, "--data", digits, "--run-dir", "r")
    assert "Requested node configuration is not available" in too_many.stdout + too_many.stderr


def test_preflight_on_the_nodes_of_slurm(slurm: Cluster, digits: Path, tmp_path: Path) -> None:
    words = ["--nodes", "2", "--processes-per-node", "1", "--run-dir", tmp_path / "run"]
    once = ["--setup", f"echo $SLURM_NTASKS >> {tmp_path}/setup.txt"]
    on_each = ["--setup", "srun --ntasks-per-node=1 --ntasks=$SLURM_JOB_NUM_NODES true", "--setup", "export A=1"]
    well = launch(slurm, "preflight", *words, *once, *on_each, "--data", digits)
    assert well.returncode == 0, well.stderr + well.stdout
    assert (tmp_path / "setup.txt").read_text() == "2\n"  # as in a job's script
    assert "preflight: 2 processes, no fault" in well.stdout
    assert "GB/s" in well.stdout
    ill = launch(slurm, "preflight", *words, "--data", tmp_path / "nowhere")
    assert ill.returncode == 1
    faults = [line for line in ill.stdout.splitlines() if line.startswith("fault: ")]
    assert any("nowhere" in line and line.startswith("fault: n") for line in faults)


@pytest.mark.skipif(missing(accounts=True) is not None, reason=str(missing(accounts=True)))
def test_slurm_with_accounting_what_slurm_has_forgotten_is_still_known(tmp_path: Path) -> None:
    (tmp_path / "slurm").mkdir()
    with cluster(tmp_path / "slurm", nodes=2, accounts=True) as it:
        job = submit(it, tmp_path / "run", tmp_path / "nowhere", "--nodes", "1", "--processes-per-node", "1")
        assert it.wait_for_end(job) == "FAILED"
        it.wait_until(lambda: "FAILED" in it.run("sacct", "-n", "-X", "-j", job, "-o", "State"), "sacct knows it")
        forgets = tmp_path / "bin" / "scontrol"
        forgets.parent.mkdir()
        forgets.write_text("#!/bin/sh\nexit 1\n")  # as after MinJobAge, minutes to hours
        forgets.chmod(0o755)
        shutil.rmtree(tmp_path / "run" / "launch" / "001" / "attempts" / "0")
        it.env["PATH"] = f"{forgets.parent}:{it.env['PATH']}"
        shown = launch(it, "status", tmp_path / "run").stdout
        assert "FAILED" in shown, shown
