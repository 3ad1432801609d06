"""Stop a run anywhere, by any means, start it again: the weights of the run that was never stopped, bit for bit."""

import os
import random
import re
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.support.processes import (
    SUPPORT,
    TIMEOUT,
    assert_same_run,
    kill,
    metrics,
    ranks_of,
    run,
    start,
    start_new,
    start_ranks,
    wait_for_step,
    weights,
)
from trainer.__main__ import main

pytestmark = pytest.mark.slow

RECIPE = str(SUPPORT / "everything_recipe.py")
STEPS_PER_EPOCH = 1437 // 96  # 14
LAST = 2 * STEPS_PER_EPOCH


def words(digits: Path, run_dir: Path, *options: str) -> list[str]:
    every_step = ["--log-every", "4", "--checkpoint-steps", "1", "--keep-last-checkpoints", "100"]
    return ["train", RECIPE, "--data", str(digits), "--run-dir", str(run_dir), *every_step, *options]


@pytest.fixture(scope="module")
def uninterrupted(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The run directory of an undisturbed run for 1, 2 and 3 processes, with a checkpoint of every step."""
    runs = {}
    for processes in (1, 2, 3):
        runs[processes] = tmp_path_factory.mktemp(f"uninterrupted{processes}")
        ended = run(words(digits, runs[processes]), processes)
        assert ended.returncode == 0, ended.stderr
        assert len(list((runs[processes] / "checkpoints").glob("step_*.pt"))) == LAST
    return runs


@pytest.mark.parametrize(
    ("processes", "step"),
    [(1, 1), (1, STEPS_PER_EPOCH - 1), (1, STEPS_PER_EPOCH), (1, STEPS_PER_EPOCH + 1), (2, 5), (3, 5)],
)
def test_run_continued_after_any_step_ends_the_same(
    processes: int,
    step: int,
    uninterrupted: dict[int, Path],
    digits: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Three processes are the ones whose sums depend on DDP's buckets (see trainer.distributed.ddp.warm_up_buckets).

    A single one goes on in the process of the tests, whatever these have left there.
    """
    run_dir = tmp_path / "run"
    shutil.copytree(uninterrupted[processes], run_dir)
    for later in (run_dir / "checkpoints").glob("step_*.pt"):
        if int(later.stem.removeprefix("step_")) > step:
            later.unlink()
    if processes == 1:
        assert main(words(digits, run_dir)) == 0
        said = capsys.readouterr().out
    else:
        ended = run(words(digits, run_dir), processes)
        assert ended.returncode == 0, ended.stderr
        said = ended.stdout
    assert f"continued after step {step}" in said
    assert_same_run(run_dir, uninterrupted[processes])


def test_resume_kill_9_at_random_steps_changes_nothing(
    uninterrupted: dict[int, Path], digits: Path, tmp_path: Path
) -> None:
    """On several processes: chaos.py."""
    chance = random.Random(1)
    for step in sorted(chance.sample(range(4, LAST - 2), 2)):
        process = start(words(digits, tmp_path))
        wait_for_step(process, tmp_path, step)
        kill(process)
    assert main(words(digits, tmp_path)) == 0
    assert_same_run(tmp_path, uninterrupted[1])


def test_torchrun_starts_all_ranks_again_after_one_has_died(
    uninterrupted: dict[int, Path], digits: Path, tmp_path: Path
) -> None:
    process = start_new(words(digits, tmp_path), 2, restarts=1)
    wait_for_step(process, tmp_path, 4)
    os.kill(ranks_of(process)[1], signal.SIGKILL)
    out, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, err
    assert "continued after step" in out
    assert_same_run(tmp_path, uninterrupted[2])


def test_signal_saves_says_how_to_continue_and_loses_nothing(
    uninterrupted: dict[int, Path], digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGTERM, then SIGINT to the run that goes on, then SIGUSR2."""
    rarely = words(digits, tmp_path, "--checkpoint-steps", "1000")  # what is found later is what the signal saved
    saved = 0
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR2, 140)):
        process = start(rarely)
        wait_for_step(process, tmp_path, max(4, saved + 1))
        os.kill(process.pid, number)
        out, err = process.communicate(timeout=TIMEOUT)
        assert process.returncode == code, err
        assert "run the same command again to resume" in out
        assert "Traceback" not in err
        assert saved == 0 or f"continued after step {saved}" in out
        before, saved = saved, int(weights(tmp_path)["/step"])
        assert max(4, before + 1) <= saved < LAST
    assert main(rarely) == 0
    assert f"continued after step {saved}" in capsys.readouterr().out
    assert_same_run(tmp_path, uninterrupted[1])


def test_signal_to_one_rank_stops_all_ranks_after_the_same_step(
    uninterrupted: dict[int, Path], digits: Path, tmp_path: Path
) -> None:
    ranks = start_ranks(["-m", "trainer", *words(digits, tmp_path, "--checkpoint-steps", "1000")], 2)
    wait_for_step(ranks[0], tmp_path, 4)
    ranks[1].send_signal(signal.SIGTERM)
    said = [rank.communicate(timeout=TIMEOUT) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [143, 143], said
    assert re.search("stopped and saved after step|stopped in an evaluation, saved before it", said[0][0])
    assert run(words(digits, tmp_path), 2).returncode == 0
    assert_same_run(tmp_path, uninterrupted[2])


def test_signal_in_an_evaluation_is_not_kept_waiting_for_its_end(digits: Path, tmp_path: Path) -> None:
    """The epoch was saved before it. At 224 px each batch of it takes long enough to be met."""
    small = str(SUPPORT / "small_recipe.py")
    command = ["train", small, "--data", str(digits), "--run-dir", str(tmp_path), "--epochs", "1", "--no-pictures"]
    command += ["--eval-crop.resolution", "224"]
    process = start_new(command, 2)
    saved = tmp_path / "checkpoints" / f"step_{STEPS_PER_EPOCH:08d}.pt"
    deadline = time.monotonic() + TIMEOUT
    while not saved.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGTERM)
    out, err = process.communicate(timeout=TIMEOUT)
    assert "stopped in an evaluation" in out, err
    assert not any(record["kind"] != "train" for record in metrics(tmp_path))
    ended = run(command, 2)
    assert f"continued after step {STEPS_PER_EPOCH}, the last one" in ended.stdout, ended.stderr
    assert [record["step"] for record in metrics(tmp_path) if record["kind"] == "eval"] == [STEPS_PER_EPOCH]


def test_finished_run_whose_result_is_lost_is_evaluated_again_and_not_trained_further(
    uninterrupted: dict[int, Path], digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(uninterrupted[1], run_dir)
    before = (run_dir / "result.json").read_text()
    (run_dir / "result.json").unlink()
    assert main(words(digits, run_dir)) == 0
    assert f"continued after step {LAST}, the last one" in capsys.readouterr().out
    assert (run_dir / "result.json").read_text() == before
    assert_same_run(run_dir, uninterrupted[1])


def test_resume_damaged_checkpoint_is_named_and_the_one_before_is_used(
    uninterrupted: dict[int, Path], digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(uninterrupted[1], run_dir)
    with (run_dir / "checkpoints" / f"step_{LAST:08d}.pt").open("r+b") as file:
        file.truncate(1000)
    assert main(words(digits, run_dir)) == 0
    said = capsys.readouterr()
    assert f"step_{LAST:08d}.pt: damaged" in said.err
    assert f"continued after step {LAST - 1}" in said.out
    assert_same_run(run_dir, uninterrupted[1])


def test_number_of_processes_changes_nothing_but_rounding(uninterrupted: dict[int, Path]) -> None:
    """The same images in the same micro-batches: losses of the first steps agree."""
    stories = [
        [record["loss"] for record in metrics(uninterrupted[processes]) if record["kind"] == "train"]
        for processes in (1, 2, 3)
    ]
    assert stories[1][0] == pytest.approx(stories[0][0], rel=2e-2)
    assert stories[2][0] == pytest.approx(stories[0][0], rel=2e-2)
