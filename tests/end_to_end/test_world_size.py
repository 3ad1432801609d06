"""1, 2 and 3 processes see the same batches and pixels, and evaluate to the same sums."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import SUPPORT, TIMEOUT, run, start_ranks
from trainer.__main__ import main

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def seen(digits: Path, photo_betons: Path) -> dict[int, dict[str, Any]]:
    """What rank_worker.py prints under 1, 2 and 3 processes."""
    found = {}
    for processes in (1, 2, 3):
        ranks = start_ranks(["-m", "tests.support.rank_worker", str(digits), str(photo_betons)], processes)
        said = [rank.communicate(timeout=TIMEOUT) for rank in ranks]
        assert [rank.returncode for rank in ranks] == [0] * processes, said
        found[processes] = json.loads(said[0][0])
    return found


@pytest.mark.parametrize("processes", [2, 3])
def test_world_size_every_micro_batch_has_the_same_images_pixels_and_labels(
    processes: int, seen: dict[int, dict[str, Any]]
) -> None:
    """JPEGs decoded at their full size, and scaled, which is then to be seen in all micro-batches that hold any."""
    stream = seen[1]["stream"]
    full, scaled = ([stream[key] for key in stream if key.startswith(f"{name}/")] for name in ("full", "scaled"))
    assert len(set(full)) == len(set(scaled)) == 2 * 6  # two epochs of one step
    assert sum(one != other for one, other in zip(full, scaled, strict=True)) == 11  # by chance one holds none
    assert seen[processes]["stream"] == stream


@pytest.mark.parametrize("processes", [2, 3])
def test_evaluation_sums_agree_exactly_and_count_every_image_once(
    processes: int, seen: dict[int, dict[str, Any]]
) -> None:
    """Also on ranks whose running statistics were not rank 0's."""
    evaluation = seen[processes]["evaluation"]
    assert evaluation == seen[1]["evaluation"]
    assert (evaluation["seen"], evaluation["duplicates"], evaluation["total"]) == (360, 0, 360)
    assert 0 < evaluation["top1"] < 50  # an untrained network
    assert evaluation["loss"] > 1


@pytest.fixture(scope="module")
def trained(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two epochs."""
    run_dir = tmp_path_factory.mktemp("trained")
    recipe = str(SUPPORT / "small_recipe.py")
    assert main(["train", recipe, "--data", str(digits), "--run-dir", str(run_dir)]) == 0
    return run_dir


@pytest.mark.parametrize("processes", [1, 2])
def test_evaluate_command_repeats_the_result_of_the_run(
    processes: int, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = json.loads((trained / "result.json").read_text())
    if processes == 1:
        assert main(["evaluate", str(trained)]) == 0
        said = capsys.readouterr().out
    else:
        ended = run(["evaluate", str(trained)], processes)
        assert ended.returncode == 0, ended.stderr
        said = ended.stdout
    said = " ".join(said.split())  # long rows are wrapped
    assert f"{result['top1']:.2f} %" in said
    assert f"{result['loss']:.4f}" in said
    assert "360 of 360 images, 0 duplicates; 16 px, centre crop of 1.000 x short side, one view" in said
    assert "weights after 28 of 28 steps" in said


def test_best_checkpoint_says_how_it_was_chosen(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(trained), "--checkpoint", "best"]) == 0
    assert "the best epoch on these images and so optimistic" in " ".join(capsys.readouterr().out.split())


def test_result_carries_its_protocol_and_what_it_ran_on(trained: Path) -> None:
    result = json.loads((trained / "result.json").read_text())
    assert all(result["data"][split].startswith("sha256:") for split in ("train", "val"))
    (start,) = result["starts"]
    assert start["packages"]["torch"]
    assert start["processes"] == 1
    assert not [path.name for path in trained.iterdir() if os.uname().nodename in path.name]  # TensorBoard would
    text = "".join(path.read_text() for path in trained.glob("*.json*"))
    for secret in (os.uname().nodename, os.environ["HOME"] + "/", os.environ["PATH"]):
        assert secret not in text
