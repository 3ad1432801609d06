"""Values that are not finite stop the run with a record of the step, and the last good checkpoint stays."""

import json
import math
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
import torch.distributed as dist

from tests.support.processes import SUPPORT, run, weights
from trainer.__main__ import main
from trainer.data.order import epoch_order
from trainer.distributed import process_group
from trainer.distributed.process_group import World
from trainer.nonfinite import images_of
from trainer.recipe_file import load_recipe
from trainer.step_metrics import NotFiniteError, StepMetrics, Summary, spikes

RECIPE = SUPPORT / "small_recipe.py"
PER_EPOCH, COUNT = 14, 1437


def words(data: Path | str, run_dir: Path, *options: str) -> list[str]:
    return ["train", str(RECIPE), "--data", str(data), "--run-dir", str(run_dir), "--log-every", "4", *options]


def record(run_dir: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run_dir / "not_finite.json").read_text())
    return found


@pytest.mark.slow
def test_loss_that_is_not_finite_names_the_images_and_keeps_the_last_good_checkpoint(
    digits: Path, tmp_path: Path
) -> None:
    """Two processes and a learning rate that explodes. The images are those of one step, of the affected ranks."""
    explode = [
        "--schedule.warmup.lr",
        "1e19",
        "--optimizer.lr",
        "1e19",
        "--checkpoint-steps",
        "1",
        "--precision",
        "fp32",
    ]
    ended = run(words(digits, tmp_path, *explode), 2)
    assert ended.returncode != 0
    (said,) = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert "not finite" in said and said.endswith(str(tmp_path / "not_finite.json"))
    assert "Traceback (most recent call last):\n  File" not in ended.stderr.split("error: ")[0]
    found = record(tmp_path)
    recipe = load_recipe(RECIPE)
    step = found["step"] - 1
    order = epoch_order(recipe.seed, 0, COUNT)[step * 96 : (step + 1) * 96]
    shown = [image for rank in found["ranks"] for image in rank["images"]]
    assert set(shown) <= set(order.tolist()) and len(shown) == 48 * len(found["ranks"])
    assert found["steps"][-1]["step"] == found["step"]
    assert all(math.isfinite(earlier["loss"]) for earlier in found["steps"][:-1])
    kept = weights(tmp_path)
    assert int(kept["/step"]) <= step
    assert all(value.isfinite().all() for value in kept.values())


def test_nonfinite_images_of_all_ranks_are_the_global_batch() -> None:
    recipe = load_recipe(RECIPE)
    batch = epoch_order(recipe.seed, 1, COUNT)[3 * 96 : 4 * 96]
    for world_size in (1, 2, 3):
        shares = [images_of(recipe, world_size, PER_EPOCH + 3, PER_EPOCH, COUNT, rank) for rank in range(world_size)]
        assert sorted(np.concatenate(shares).tolist()) == sorted(batch.tolist())
    for rank in range(2):  # rank r computes the r-th block of micro-batches, image i of the batch being in the i-th
        expected = np.concatenate([batch[micro_batch::6] for micro_batch in range(3 * rank, 3 * rank + 3)])
        assert images_of(recipe, 2, PER_EPOCH + 3, PER_EPOCH, COUNT, rank).tolist() == expected.tolist()


@pytest.mark.slow
def test_loss_scale_that_collapses_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Real fp16 whose gradients always overflow, because the loss is multiplied by 1e9."""
    from trainer import distillation

    build = distillation.build_loss
    monkeypatch.setattr(distillation, "build_loss", lambda spec: lambda *given: build(spec)(*given) * 1e9)
    small = ["--global-batch-size", "2", "--micro-batch-size", "2", "--no-pictures"]
    options = ["--precision", "fp16", "--checkpoint-steps", "5", *small]
    assert main(words("synthetic:100", tmp_path, *options)) == 2
    said = capfd.readouterr().err
    assert "fp16's loss scale has collapsed to 0.5 at step 18, its gradients overflow" in said
    found = record(tmp_path)
    assert found["step"] == 18
    assert [step["loss_scale"] for step in found["steps"]] == [1.0, 0.5]
    assert {step["grad_norm"] for step in found["steps"]} <= {"inf", "nan"}
    assert len(found["ranks"][0]["images"]) == 2
    assert int(weights(tmp_path)["/step"]) < 18
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["skipped"]) for line in lines[:4]] == [(1, 1), (2, 1), (4, 2), (8, 4)]


# ------------------------------------------------------------------------------------------- metrics of the steps


def summary(
    losses: list[float], *, norm: float = 1.0, scale: float = 1.0, count: int = 8, scaled: bool = False
) -> Summary:
    with process_group.initialize("cpu", 1) as world:
        numbers = StepMetrics(count, world, scaled=scaled)
        for step, loss in enumerate(losses):
            numbers.start(step)
            numbers.add_loss(step, torch.tensor(loss / 2))
            numbers.add_loss(step, torch.tensor(loss / 2))
            numbers.add_gradient(step, torch.tensor(norm * (step + 1)), torch.tensor(scale))
        return numbers.read(len(losses))


def test_losses_and_norms_are_those_of_the_latest_steps() -> None:
    found = summary([8.0, 8.0, 8.0, 4.0, 2.0], count=2)
    assert (found.loss, found.grad_norm, found.grad_norm_max, found.skipped) == (3.0, 4.5, 5.0, 0)


def test_nonfinite_first_step_that_is_not_finite_is_named() -> None:
    with pytest.raises(NotFiniteError, match="the loss of step 4 is not finite") as caught:
        summary([1.0, 1.0, 1.0, math.nan, math.inf])
    assert [one.step for one in caught.value.latest] == [1, 2, 3, 4]
    with pytest.raises(NotFiniteError, match="the gradient of step 1 is not finite"):
        summary([1.0, 1.0], norm=math.inf)
    with pytest.raises(NotFiniteError, match=r"fp16's loss scale has collapsed to 0\.5 at step 1"):
        summary([1.0, 1.0], scale=0.5, scaled=True)


def test_steps_that_the_scaler_left_out_are_counted() -> None:
    found = summary([1.0, 2.0], norm=math.inf, scale=1024.0, scaled=True)
    assert (found.loss, found.grad_norm, found.grad_norm_max, found.skipped) == (1.5, None, None, 2)


def recorded(numbers: StepMetrics, steps: range) -> None:
    for step in steps:
        numbers.start(step)
        numbers.add_loss(step, torch.tensor(step + 0.1))
        numbers.add_gradient(step, torch.tensor(step + 0.2), torch.tensor(64.0))


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (3, 3), (4, 2)])
def test_restored_metrics_are_the_same_for_any_number_of_processes(
    before: int, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All ranks of a step have the same loss here, so that the mean over any number of them is that loss."""

    def metrics(ranks: int) -> StepMetrics:
        place = {"rank": 0, "size": ranks, "local_rank": 0, "local_size": ranks}
        world = World(**place, device=torch.device("cpu"), gloo=MagicMock())
        monkeypatch.setattr(dist, "all_reduce", lambda total, **_: MagicMock(total=total.mul_(ranks)))
        return StepMetrics(8, world, scaled=True)

    uninterrupted = metrics(1)
    recorded(uninterrupted, range(23))
    first = metrics(before)
    recorded(first, range(19))
    saved = first.means(19)
    continued = metrics(after)
    continued.restore(saved, first.known_from, 19)
    assert torch.equal(continued.means(19), saved)
    recorded(continued, range(19, 23))
    torch.testing.assert_close(continued.means(23), uninterrupted.means(23), rtol=1e-15, atol=0)
    assert continued.read(23, since=20)[:4] == pytest.approx(uninterrupted.read(23, since=20)[:4])


def test_records_begin_anew_where_their_number_has_changed() -> None:
    with process_group.initialize("cpu", 1) as world:
        numbers = StepMetrics(8, world, scaled=True)
        numbers.restore(torch.zeros(3, 4), 0, 19)
        recorded(numbers, range(19, 21))
        assert numbers.read(21, since=12)[:3] == pytest.approx((19.6, 19.7, 20.2))


def test_spike_is_what_is_an_outlier_of_its_neighbours() -> None:
    calm = [2.0 + 0.1 * math.sin(number) for number in range(19)]
    assert spikes([*calm, 7.0]) == [19]
    assert spikes([*calm, 2.5]) == []
    assert spikes([0.001, 0.001, 7.0]) == []  # too few for a median
    generator = torch.Generator().manual_seed(0)
    spread = torch.empty(500, 20).exponential_(generator=generator)
    assert sum(len(spikes(losses)) for losses in spread.tolist()) <= 3
