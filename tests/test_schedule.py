"""Learning rates at the points the papers name."""

import pytest

from trainer.recipe import Constant, Cosine, Linear, Steps, Warmup
from trainer.recipe_file import load_recipe
from trainer.schedule import lr_at

GOYAL = load_recipe("resnet50_goyal2017_8k")
PER_EPOCH = 1_281_167 // 8192  # 156 iterations


def goyal(iteration: float) -> float:
    return lr_at(GOYAL.schedule, peak=GOYAL.optimizer.lr, epoch=iteration / PER_EPOCH, epochs=GOYAL.epochs)


def test_goyals_warmup_starts_at_a_tenth_and_adds_a_constant_amount_per_iteration() -> None:
    steps = [goyal(iteration + 1) - goyal(iteration) for iteration in range(5 * PER_EPOCH - 1)]
    assert goyal(0) == 0.1
    assert goyal(1) == pytest.approx(0.1 + 3.1 / (5 * PER_EPOCH))
    assert goyal(2.5 * PER_EPOCH) == pytest.approx(1.65)
    assert steps == pytest.approx([3.1 / (5 * PER_EPOCH)] * len(steps))
    assert [round(goyal(epoch * PER_EPOCH), 2) for epoch in range(6)] == [0.1, 0.72, 1.34, 1.96, 2.58, 3.2]


@pytest.mark.parametrize(
    ("epoch", "before", "after"), [(5, 3.2, 3.2), (30, 3.2, 0.32), (60, 0.32, 0.032), (80, 0.032, 0.0032)]
)
def test_goyals_rate_drops_at_the_first_iteration_of_epochs_30_60_and_80(
    epoch: int, before: float, after: float
) -> None:
    assert goyal(epoch * PER_EPOCH - 1) == pytest.approx(before, rel=2e-3)
    assert goyal(epoch * PER_EPOCH) == pytest.approx(after)
    assert goyal(90 * PER_EPOCH - 1) == pytest.approx(0.0032)


def test_a_constant_warmup_waits_and_then_jumps() -> None:
    schedule = Constant(warmup=Warmup(epochs=5, lr=0.1, shape="constant"))
    assert lr_at(schedule, peak=3.2, epoch=4.999, epochs=90) == 0.1
    assert lr_at(schedule, peak=3.2, epoch=5, epochs=90) == 3.2


@pytest.mark.parametrize(
    ("schedule", "start", "middle", "end"),
    [
        (Cosine(), 1.0, 0.5, 0.0),
        (Cosine(final_lr=0.2), 1.0, 0.6, 0.2),
        (Linear(), 1.0, 0.5, 0.0),
        (Linear(final_lr=0.5), 1.0, 0.75, 0.5),
        (Constant(), 1.0, 1.0, 1.0),
        (Steps(milestones=(50,)), 1.0, 0.1, 0.1),
    ],
)
def test_schedules_run_from_the_end_of_the_warmup_to_the_end_of_training(
    schedule: Cosine | Linear | Constant | Steps, start: float, middle: float, end: float
) -> None:
    assert lr_at(schedule, peak=1.0, epoch=0, epochs=100) == pytest.approx(start)
    assert lr_at(schedule, peak=1.0, epoch=50, epochs=100) == pytest.approx(middle)
    assert lr_at(schedule, peak=1.0, epoch=100 - 1e-9, epochs=100) == pytest.approx(end, abs=1e-9)


def test_a_cosine_after_a_warmup_starts_at_the_peak() -> None:
    schedule = Cosine(warmup=Warmup(epochs=10, lr=0.0))
    assert lr_at(schedule, peak=1.0, epoch=5, epochs=110) == pytest.approx(0.5)
    assert lr_at(schedule, peak=1.0, epoch=10, epochs=110) == pytest.approx(1.0)
    assert lr_at(schedule, peak=1.0, epoch=60, epochs=110) == pytest.approx(0.5)


def test_training_that_is_all_warmup_has_no_division_by_zero() -> None:
    assert lr_at(Cosine(warmup=Warmup(epochs=1, lr=0.0)), peak=1.0, epoch=1, epochs=1) == pytest.approx(1.0)
