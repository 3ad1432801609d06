"""Every step is logged exactly once in metrics.jsonl and TensorBoard, across restarts; rank 0 alone logs."""

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.support.processes import SUPPORT
from trainer.distributed.process_group import World
from trainer.errors import UserError
from trainer.evaluation.result import Evaluation
from trainer.log.log import Log
from trainer.log.throughput import AGREEING_INTERVALS, Rates, StragglerDetector, Throughput, slowest
from trainer.recipe import BinaryCrossEntropy
from trainer.recipe_file import load_recipe
from trainer.run.state import Position
from trainer.step_metrics import StepRecord, Summary

PER_EPOCH = 4
RECIPE = replace(load_recipe(SUPPORT / "small_recipe.py"), epochs=25)
TAGS = {
    *("train/loss", "train/lr", "train_gradients/norm", "train_gradients/norm_max", "eval/top1", "eval/loss"),
    *("train_speed/images_per_second", "train_speed/step_seconds", "train_speed/data_wait"),
}


def world(rank: int = 0, size: int = 2) -> World:
    """A world without a process group: the log needs none."""
    here = {"rank": rank, "size": size, "local_rank": rank, "local_size": size}
    return World(**here, device=torch.device("cpu"), gloo=cast(Any, None))


def position(step: int) -> Position:
    """The position after `step` steps; at the end of an epoch before its evaluation, as in checkpoints."""
    epoch = max(0, step - 1) // PER_EPOCH
    return Position(steps_per_epoch=PER_EPOCH, epoch=epoch, batch=step - epoch * PER_EPOCH)


SECONDS = itertools.count(1_000_000_000)


def start(run_dir: Path, step: int, rank: int = 0, size: int = 2) -> Log:
    """Starts the log in a new second, as real runs do: TensorBoard reads its files in the order of their names."""
    run_dir.mkdir(exist_ok=True)
    now = next(SECONDS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.time", lambda: float(now))
        return Log(run_dir, world(rank, size), position(step), RECIPE)


EVALUATION = Evaluation(top1=50.0, top5=51.0, loss=0.5, seen=360, duplicates=0, total=360)


def log_steps(log: Log, step: int, loss: float, skipped: int = 0, spikes: Sequence[StepRecord] = ()) -> None:
    rates = Rates(images_per_second=loss * 1000, data_wait=loss / 100)
    steps = Summary(
        loss=loss, grad_norm=loss * 2, grad_norm_max=loss * 3, skipped=skipped, spikes=[*spikes], median=1.0
    )
    log.steps(position(step), lr=loss / 10, steps=steps, rates=rates)


def log_evaluation(log: Log, step: int, top1: float) -> None:
    result = Evaluation(top1=top1, top5=top1 + 1, loss=top1 / 100, seen=360, duplicates=0, total=360)
    log.evaluation("eval", result, position(step), best=False)


def lines(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def logged(run_dir: Path) -> list[tuple[str, int, float]]:
    return [(line["kind"], line["step"], line["loss"]) for line in lines(run_dir)]


def board(run_dir: Path) -> EventAccumulator:
    return EventAccumulator(str(run_dir), size_guidance={"scalars": 0}).Reload()


def scalars(run_dir: Path, tag: str) -> list[tuple[int, float]]:
    return [(event.step, pytest.approx(event.value, rel=1e-6)) for event in board(run_dir).Scalars(tag)]


# -------------------------------------------------------------------------------------------------- what is logged


def test_metrics_hold_one_object_per_line(tmp_path: Path) -> None:
    with start(tmp_path, 0) as log:
        log_steps(log, 2, loss=2.5)
        log_evaluation(log, 4, top1=50.0)
    train, evaluation = lines(tmp_path)
    assert train == {
        **{"kind": "train", "step": 2, "epoch": 0.5, "lr": 0.25, "loss": 2.5},
        **{"images_per_second": 2500.0, "data_wait": 0.025, "grad_norm": 5.0, "grad_norm_max": 7.5},
    }
    assert evaluation == {
        **{"kind": "eval", "step": 4, "epoch": 1.0, "top1": 50.0, "top5": 51.0, "loss": 0.5},
        **{"seen": 360, "duplicates": 0, "total": 360},
    }


def test_spike_of_the_loss_and_skipped_steps_are_logged(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with start(tmp_path, 0) as log:
        log_steps(log, 20, loss=2.5, skipped=2, spikes=[StepRecord(13, 7.125, 54.2, 1.0)])
    (line,) = lines(tmp_path)
    assert (line["skipped"], line["spikes"]) == (2, [{"step": 13, "loss": 7.125}])
    said = "note: the loss of step 13 spikes: 7.125; the median of the steps around it is 1; gradient norm 54.2"
    assert said in capfd.readouterr().out
    assert said in (tmp_path / "log.txt").read_text()
    assert "train/spikes" not in board(tmp_path).Tags()["scalars"]


def test_line_can_be_read_as_soon_as_it_is_logged(tmp_path: Path) -> None:
    with start(tmp_path, 0) as log:
        for step in range(1, 4):
            log_steps(log, step, loss=1.0)
            assert len(lines(tmp_path)) == step


def test_tensorboard_shows_the_names_of_the_project_by_step(tmp_path: Path) -> None:
    with start(tmp_path, 0) as log:
        for step in (1, 2, 3, 4):
            log_steps(log, step, loss=5.0 - step)
        log_evaluation(log, 4, top1=50.0)
    found = board(tmp_path).Tags()["scalars"]
    assert set(found) >= TAGS
    assert {tag for tag in found if tag.startswith("train/")} == {tag for tag in TAGS if tag.startswith("train/")}
    assert scalars(tmp_path, "train/loss") == [(1, 4.0), (2, 3.0), (3, 2.0), (4, 1.0)]
    assert scalars(tmp_path, "train/lr") == [(1, 0.4), (2, 0.3), (3, 0.2), (4, 0.1)]
    assert scalars(tmp_path, "train_speed/images_per_second") == [(1, 4000), (2, 3000), (3, 2000), (4, 1000)]
    assert scalars(tmp_path, "train_speed/data_wait") == [(1, 0.04), (2, 0.03), (3, 0.02), (4, 0.01)]
    assert scalars(tmp_path, "eval/top1") == [(4, 50.0)]
    assert scalars(tmp_path, "eval/loss") == [(4, 0.5)]


def test_log_other_ranks_write_and_say_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with start(tmp_path, 0, rank=1) as log:
        log.say("hello")
        log_steps(log, 1, loss=1.0)
        log_evaluation(log, 4, top1=50.0)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")
    with start(tmp_path, 0, rank=0) as log:
        log.say("hello [red]")
        log_steps(log, 1, loss=1.0)
        log_evaluation(log, 4, top1=50.0)
    said = capfd.readouterr().out.splitlines()
    assert said[0] == "hello [red]"  # no markup
    assert said[1].startswith("epoch   0.25  step 1/100  loss 1.0000  lr 0.1  1,000 images/s  data wait 1%")
    assert said[2] == "epoch   1.00  top-1 50.00 %  loss 0.5000"


def test_evaluation_shows_what_is_not_as_expected(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Top-5 from eleven classes on; the counts if images were left out or counted twice."""
    tmp_path.mkdir(exist_ok=True)
    with Log(tmp_path, world(), position(0), replace(RECIPE, num_classes=11)) as log:
        log_evaluation(log, 4, top1=50.0)
        result = Evaluation(top1=50.0, top5=51.0, loss=0.5, seen=359, duplicates=1, total=360)
        log.evaluation("eval_ema", result, position(4), best=True)
    first, second = capfd.readouterr().out.splitlines()
    assert first == "epoch   1.00  top-1 50.00 %  top-5 51.00 %  loss 0.5000"
    assert second.startswith("epoch   1.00  EMA top-1 50.00 %  top-5 51.00 %  loss 0.5000  (359 of 360 images, 1 dup")
    assert second.endswith(")  best so far")


def test_log_remarks_on_a_loss_far_above_a_uniform_guess(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """ln 10 is 2.30."""
    with start(tmp_path, 0) as log:
        log_steps(log, 1, loss=23.1)
        log_evaluation(log, 4, top1=100.0)  # loss 1
        log.evaluation("eval", replace(EVALUATION, loss=250.0), position(8), best=False)
    lines = capfd.readouterr().out.splitlines()
    assert ["a uniform guess has loss 2.30" in line for line in lines] == [True, False, True]


@pytest.mark.parametrize(("over_classes", "guess"), [("mean", 0.69), ("sum", 6.93)])  # ln 2, and 10 ln 2
@pytest.mark.parametrize("times", [9.9, 10.1])
def test_uniform_guess_of_binary_cross_entropy_counts_as_the_loss_does(
    over_classes: Literal["mean", "sum"], guess: float, times: float, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = replace(RECIPE, loss=BinaryCrossEntropy(over_classes=over_classes))
    with Log(tmp_path, world(), position(0), recipe) as log:
        log_steps(log, 1, loss=times * guess)
    assert (f"a uniform guess has loss {guess}" in capfd.readouterr().out) == (times > 10)


# ------------------------------------------------------------------------------------------------- resumed runs


@pytest.mark.parametrize("stopped_after", range(10))
def test_resumed_run_logs_every_step_once(stopped_after: int, tmp_path: Path) -> None:
    """Killed after step 9, resumed from any earlier step: later records are those of the second start."""
    records: list[list[tuple[str, int, float]]] = []
    for number, first in enumerate((0, stopped_after)):
        records.append([])
        with start(tmp_path, first) as log:
            if number and first in (4, 8):  # the checkpoint at the end of an epoch precedes its evaluation
                log_evaluation(log, first, top1=20.0)
                records[number].append(("eval", first, 0.2))
            for step in range(first + 1, 10):
                log_steps(log, step, loss=number + step / 100)
                records[number].append(("train", step, number + step / 100))
                if step in (4, 8):
                    log_evaluation(log, step, top1=10.0 + 10 * number)
                    records[number].append(("eval", step, 0.1 + 0.1 * number))
    kept = [(kind, step, loss) for kind, step, loss in records[0] if step <= stopped_after]
    if stopped_after in (4, 8):
        kept.remove(("eval", stopped_after, 0.1))
    expected = kept + records[1]
    assert logged(tmp_path) == expected
    for kind in ("train", "eval"):
        assert scalars(tmp_path, f"{kind}/loss") == [(step, loss) for of, step, loss in expected if of == kind]


def test_run_resumed_three_times_logs_every_step_once(tmp_path: Path) -> None:
    for number, (first, last) in enumerate([(0, 7), (2, 6), (5, 9), (1, 10)]):
        with start(tmp_path, first) as log:
            for step in range(first + 1, last + 1):
                log_steps(log, step, loss=1.0 + number)
    assert logged(tmp_path) == [("train", 1, 1.0)] + [("train", step, 4.0) for step in range(2, 11)]
    assert scalars(tmp_path, "train/loss") == [(1, 1.0)] + [(step, 4.0) for step in range(2, 11)]


@pytest.mark.parametrize("cut", range(1, 40, 6))
def test_line_cut_short_by_a_crash_is_removed(cut: int, tmp_path: Path) -> None:
    with start(tmp_path, 0) as log:
        for step in (1, 2, 3):
            log_steps(log, step, loss=1.0)
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text(metrics.read_text()[:-cut])  # cut = 1: complete except for its newline
    with start(tmp_path, 3) as log:
        log_steps(log, 4, loss=1.0)
    assert [line["step"] for line in lines(tmp_path)] == ([1, 2, 3, 4] if cut == 1 else [1, 2, 4])


def test_log_damaged_line_is_left_out_and_that_is_reported(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with start(tmp_path, 0) as log:
        for step in (1, 2, 3):
            log_steps(log, step, loss=1.0)
    text = (tmp_path / "metrics.jsonl").read_text().replace('"step": 2', '"step": "2"')
    (tmp_path / "metrics.jsonl").write_text(
        text + '{"kind": "tra'
    )  # and one cut short by a crash, which is not reported
    capfd.readouterr()
    with start(tmp_path, 3):
        pass
    assert [line["step"] for line in lines(tmp_path)] == [1, 3]
    assert "damaged lines of metrics.jsonl were removed and their values are lost: 1" in capfd.readouterr().out


def test_zeros_that_a_power_failure_left_are_removed(tmp_path: Path) -> None:
    with start(tmp_path, 0) as log:
        log_steps(log, 1, loss=1.0)
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(bytes(100))
    with start(tmp_path, 1) as log:
        log_steps(log, 2, loss=1.0)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]


def test_log_that_cannot_be_written_is_a_users_error(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(UserError, match=r"cannot be written: "):
        start(tmp_path, 0)


# ---------------------------------------------------------------------------------------------------- throughput


class Clock:
    """time.perf_counter of a test."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def batches(self, seconds: float) -> Iterator[int]:
        """Batches, each after a wait of `seconds`."""
        number = 0
        while True:
            self.now += seconds
            yield (number := number + 1)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("time.perf_counter", clock)
    return clock


def test_throughput_counts_waiting_and_work(clock: Clock) -> None:
    throughput = Throughput(world(size=1))
    batches = clock.batches(seconds=0.5)
    for expected in (1, 2, 3, 4):
        assert throughput.wait_for(batches) == expected
        clock.now += 1.5
        throughput.images += 100
    assert throughput.read() == Rates(images_per_second=50.0, data_wait=0.25)


def test_log_each_reading_is_of_the_time_since_the_last(clock: Clock) -> None:
    throughput = Throughput(world(size=1))
    throughput.wait_for(clock.batches(seconds=8.0))
    throughput.images += 80
    assert throughput.read() == Rates(images_per_second=10.0, data_wait=1.0)
    throughput.wait_for(clock.batches(seconds=1.0))
    clock.now += 3.0
    throughput.images += 80
    assert throughput.read() == Rates(images_per_second=20.0, data_wait=0.25)


def test_log_what_came_before_start_does_not_count(clock: Clock) -> None:
    """Such as an evaluation, a save, and the steps since the last read before them."""
    throughput = Throughput(world(size=1))
    throughput.wait_for(clock.batches(seconds=7.0))
    throughput.images += 1_000_000
    clock.now += 3600.0
    throughput.start()
    throughput.wait_for(clock.batches(seconds=1.0))
    clock.now += 1.0
    throughput.images += 64
    assert throughput.read() == Rates(images_per_second=32.0, data_wait=0.5)


def test_throughput_of_an_epoch_counts_everything_since_its_start(clock: Clock) -> None:
    """Such as saving and the evaluation, and the intervals that have been read."""
    throughput = Throughput(world(size=1))
    clock.now += 100.0
    throughput.start()
    for _interval in range(2):
        clock.now += 5.0
        throughput.images += 80
        throughput.end_interval()
    throughput.images += 40
    clock.now += 10.0
    assert throughput.images_per_second_of_epoch == 10.0


def test_end_of_the_batches_reaches_the_caller() -> None:
    with pytest.raises(StopIteration):
        Throughput(world(size=1)).wait_for(iter(()))


def test_slowest_rank_is_measured_against_the_median_of_two_the_lower() -> None:
    assert slowest([1.0, 1.0, 1.5, 1.0]) == (2, 0.5)
    assert slowest([1.5, 1.0]) == (0, 0.5)
    assert slowest([0.0, 0.0]) == (0, 0.0)


def test_rank_is_named_where_it_is_more_than_10_percent_slower(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four ranks, and the same one is slow in each of three intervals."""
    monkeypatch.setattr("trainer.log.console_log._SECONDS", -1.0)  # every interval is printed
    rates = Rates(images_per_second=10.0, data_wait=0.0, slowest_rank=3, slower_by=0.25)
    steps = Summary(loss=1.0, grad_norm=1.0, grad_norm_max=1.0, skipped=0, spikes=[], median=1.0)
    with start(tmp_path, 0, size=4) as log:
        for step in (1, 2, 3):
            log.steps(position(step), lr=0.1, steps=steps, rates=rates)
        log.steps(position(4), lr=0.1, steps=steps, rates=replace(rates, slower_by=0.1))
    *early, third, fourth = capfd.readouterr().out.splitlines()
    assert third.endswith("rank 3 is 25% slower than the median")
    assert "slower" not in fourth
    assert len(early) == 2 and "slower" not in "".join(early)
    assert scalars(tmp_path, "train_speed/slowest_rank_share") == [(1, 0.25), (2, 0.25), (3, 0.25), (4, 0.1)]
    assert scalars(tmp_path, "train_speed/slowest_rank") == [(1, 3), (2, 3), (3, 3), (4, 3)]


def claims(ranks: int, *intervals: tuple[int | None, float]) -> list[str | None]:
    """What is claimed after each interval, given its slowest rank and by how much that is slower."""
    detector = StragglerDetector(ranks)
    return [
        detector.update(Rates(images_per_second=1.0, data_wait=0.0, slowest_rank=rank, slower_by=share))
        for rank, share in intervals
    ]


def test_straggler_is_named_only_after_three_intervals_in_a_row_agree() -> None:
    assert AGREEING_INTERVALS == 3
    first, second, third, fourth = claims(4, (1, 0.5), (1, 0.2), (1, 0.3), (1, 0.4))
    assert first is second is None
    assert third == fourth == "3 intervals in a row: rank 1 is 20% slower than the median"  # true of each of them
    assert claims(4, (1, 0.5), (1, 0.5), (2, 0.5), (1, 0.5), (1, 0.5)) == [None] * 5  # not the same rank
    assert claims(4, (1, 0.5), (1, 0.5), (1, 0.1), (1, 0.5), (1, 0.5)) == [None] * 5  # not in a row
    assert claims(1, *[(None, 0.0)] * 5) == [None] * 5


def test_straggler_of_two_ranks_needs_a_wider_gap() -> None:
    """Of two ranks one is always the slower one: on a busy machine by half, in a second of work."""
    assert claims(2, *[(1, 0.5)] * 5) == [None] * 5
    assert claims(2, *[(1, 0.6)] * 3)[-1] == "3 intervals in a row: rank 1 is 60% slower than the median"
    assert claims(3, *[(1, 0.5)] * 3)[-1] == "3 intervals in a row: rank 1 is 50% slower than the median"
