"""Learning rates and resolutions at the points the papers name, and against the sources' own schedulers."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from timm.scheduler import CosineLRScheduler
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR

from trainer.data.resolution import resolution_at, resolution_changes
from trainer.recipe import Constant, Cosine, Linear, ProgressiveResizing, RandomResizedCrop, Schedule, Steps, Warmup
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


def test_constant_warmup_waits_and_then_jumps() -> None:
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


def test_cosine_after_a_warmup_starts_at_the_peak() -> None:
    schedule = Cosine(warmup=Warmup(epochs=10, lr=0.0))
    assert lr_at(schedule, peak=1.0, epoch=5, epochs=110) == pytest.approx(0.5)
    assert lr_at(schedule, peak=1.0, epoch=10, epochs=110) == pytest.approx(1.0)
    assert lr_at(schedule, peak=1.0, epoch=60, epochs=110) == pytest.approx(0.5)


def test_training_that_is_all_warmup_has_no_division_by_zero() -> None:
    assert lr_at(Cosine(warmup=Warmup(epochs=1, lr=0.0)), peak=1.0, epoch=1, epochs=1) == pytest.approx(1.0)


def per_epoch(schedule: Schedule, *, peak: float, epochs: int) -> list[float]:
    """The rate of each epoch, the same at its first and at its last step."""
    first = [lr_at(schedule, peak=peak, epoch=epoch, epochs=epochs) for epoch in range(epochs)]
    last = [lr_at(schedule, peak=peak, epoch=epoch + 155 / 156, epochs=epochs) for epoch in range(epochs)]
    assert first == last
    return first


def an_optimizer(lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)


def test_warmup_by_epochs_has_goyals_rates_at_the_start_of_each() -> None:
    rates = per_epoch(replace(GOYAL.schedule, changes_every="epoch"), peak=3.2, epochs=90)
    assert [round(rate, 3) for rate in rates[:6]] == [0.1, 0.72, 1.34, 1.96, 2.58, 3.2]
    assert [rates[epoch] for epoch in (29, 30, 59, 60, 79, 80)] == pytest.approx(
        [3.2, 0.32, 0.32, 0.032, 0.032, 0.0032]
    )


def test_milestone_within_an_epoch_waits_for_its_end_where_rates_change_by_epochs() -> None:
    schedule = Steps(milestones=(1.5,), changes_every="epoch")
    assert per_epoch(schedule, peak=1.0, epochs=4) == [1.0, 1.0, pytest.approx(0.1), pytest.approx(0.1)]


@pytest.mark.parametrize("final_lr", [0.0, 0.01])
def test_cosine_after_linear_warmup_by_epochs_is_torchvisions_sequence_of_torch_schedulers(final_lr: float) -> None:
    """Its reference script: LinearLR(0.01, 5 epochs), then CosineAnnealingLR over the others."""
    peak, epochs = 3.2, 100
    optimizer = an_optimizer(peak)
    parts: list[LRScheduler] = [
        LinearLR(optimizer, start_factor=0.01, total_iters=5),
        CosineAnnealingLR(optimizer, T_max=epochs - 5, eta_min=final_lr),
    ]
    scheduler = SequentialLR(optimizer, parts, milestones=[5])
    theirs = []
    for _ in range(epochs):
        theirs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    warmup = Warmup(epochs=5, lr=0.01 * peak)
    ours = per_epoch(Cosine(warmup=warmup, final_lr=final_lr, changes_every="epoch"), peak=peak, epochs=epochs)
    assert [round(rate, 3) for rate in ours[:6]] == [0.032, 0.666, 1.299, 1.933, 2.566, 3.2]
    assert ours == pytest.approx(theirs)


@pytest.mark.parametrize("final_lr", [0.0, 1e-6])
def test_cosine_from_epoch_zero_is_timms_whose_warmup_covers_its_beginning(final_lr: float) -> None:
    peak, epochs = 5e-3, 100
    optimizer = an_optimizer(peak)
    scheduler = CosineLRScheduler(
        optimizer, t_initial=epochs, lr_min=final_lr, warmup_t=5, warmup_lr_init=1e-4, warmup_prefix=False
    )
    theirs = []
    for epoch in range(epochs):
        scheduler.step(epoch)
        theirs.append(optimizer.param_groups[0]["lr"])
    schedule = Cosine(warmup=Warmup(epochs=5, lr=1e-4), start_epoch=0, final_lr=final_lr, changes_every="epoch")
    ours = per_epoch(schedule, peak=peak, epochs=epochs)
    assert ours == pytest.approx(theirs)
    assert ours[5] < peak


def test_cosine_from_epoch_zero_by_steps_is_timms_counted_in_updates() -> None:
    peak, epochs, steps = 5e-3, 20, 7
    optimizer = an_optimizer(peak)
    scheduler = CosineLRScheduler(
        optimizer, t_initial=epochs * steps, warmup_t=5 * steps, warmup_lr_init=1e-4, t_in_epochs=False
    )
    schedule = Cosine(warmup=Warmup(epochs=5, lr=1e-4), start_epoch=0)
    for step in range(epochs * steps):
        scheduler.step_update(step)
        ours = lr_at(schedule, peak=peak, epoch=step / steps, epochs=epochs)
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"])


def test_warmup_that_ends_before_the_cosine_begins_is_nvidias() -> None:
    """DeepLearningExamples: peak * (epoch + 1) / 5 for 5 epochs, so that two epochs have the peak."""
    peak, epochs = 3.2, 90
    warmup = Warmup(epochs=4, lr=peak / 5)
    ours = per_epoch(Cosine(warmup=warmup, start_epoch=5, changes_every="epoch"), peak=peak, epochs=epochs)
    theirs = [
        peak * (epoch + 1) / 5 if epoch < 5 else peak * (1 + math.cos(math.pi * (epoch - 5) / (epochs - 5))) / 2
        for epoch in range(epochs)
    ]
    assert [round(rate, 2) for rate in ours[:6]] == [0.64, 1.28, 1.92, 2.56, 3.2, 3.2]
    assert ours == pytest.approx(theirs)


def test_schedule_between_the_warmup_and_the_start_of_the_cosine_the_rate_is_the_peak() -> None:
    schedule = Cosine(warmup=Warmup(epochs=4, lr=0.1), start_epoch=5)
    assert [lr_at(schedule, peak=2.0, epoch=epoch, epochs=90) for epoch in (4, 4.5, 5)] == [2.0, 2.0, 2.0]
    assert lr_at(schedule, peak=2.0, epoch=47.5, epochs=90) == pytest.approx(1.0)
    assert lr_at(Cosine(start_epoch=10), peak=2.0, epoch=3, epochs=20) == 2.0


@pytest.mark.parametrize("epochs", [16, 88])
def test_linear_after_a_warmup_is_ffcvs_triangle(epochs: int) -> None:
    """FFCV interpolates from epoch to epoch and, within them, from iteration to iteration."""
    peak, steps = 1.7, 9
    schedule = Linear(warmup=Warmup(epochs=2, lr=1e-4 * peak))
    for epoch in range(epochs):
        ends = np.interp([epoch, epoch + 1], [0, 2, epochs], [1e-4 * peak, peak, 0])
        theirs = np.interp(np.arange(steps), [0, steps], ends)
        ours = [lr_at(schedule, peak=peak, epoch=epoch + step / steps, epochs=epochs) for step in range(steps)]
        assert ours == pytest.approx(theirs.tolist(), rel=1e-9)


def resolutions(progressive: ProgressiveResizing | None, *, own: int, epochs: int) -> list[int]:
    """Of each epoch: as training asks for it, and as the list of changes says."""
    crop = RandomResizedCrop(resolution=own)
    recipe = replace(GOYAL, train_crop=crop, progressive=progressive, epochs=epochs)
    found = [resolution_at(recipe, epoch) for epoch in range(epochs)]
    changes = [0, *(epoch for epoch in range(1, epochs) if found[epoch] != found[epoch - 1])]
    assert resolution_changes(recipe) == {epoch: found[epoch] for epoch in changes}
    return found


def ffcvs(start: int, own: int, first: int, last: int, epochs: int) -> list[int]:
    between = np.interp(np.arange(epochs), [first, last], [start, own])
    return [
        start if epoch <= first else own if epoch >= last else int(np.round(value / 32)) * 32
        for epoch, value in enumerate(between)
    ]


@pytest.mark.parametrize(("epochs", "first", "last"), [(16, 11, 13), (88, 65, 76), (40, 29, 34), (30, 0, 30)])
@pytest.mark.parametrize(("start", "own"), [(160, 192), (96, 224), (128, 128)])
def test_growing_crops_have_ffcvs_resolutions(epochs: int, first: int, last: int, start: int, own: int) -> None:
    progressive = ProgressiveResizing(start_resolution=start, start_epoch=first, end_epoch=last)
    assert resolutions(progressive, own=own, epochs=epochs) == ffcvs(start, own, first, last, epochs)


def test_ffcvs_resnet50_of_16_epochs_grows_after_epoch_11_and_the_tie_goes_up() -> None:
    progressive = ProgressiveResizing(start_resolution=160, start_epoch=11, end_epoch=13)
    assert resolutions(progressive, own=192, epochs=16) == [160] * 12 + [192] * 4


def test_crop_that_does_not_grow_has_its_own_resolution() -> None:
    assert resolutions(None, own=176, epochs=3) == [176] * 3


def test_resolution_changes_are_found_among_the_epochs_in_which_crops_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(
        "trainer.data.resolution.resolution_at",
        lambda recipe, epoch: asked.append(epoch) or resolution_at(recipe, epoch),
    )
    progressive = ProgressiveResizing(start_resolution=160, start_epoch=1, end_epoch=2.5)
    crop = RandomResizedCrop(resolution=192)
    recipe = replace(GOYAL, train_crop=crop, progressive=progressive, epochs=1_000_000)
    assert resolution_changes(recipe) == {0: 160, 2: 192}
    assert asked == [0, 1, 2, 3]


def test_schedule_both_ends_are_exact_and_what_lies_between_never_leaves_them() -> None:
    progressive = ProgressiveResizing(start_resolution=100, start_epoch=1.5, end_epoch=6)
    found = resolutions(progressive, own=190, epochs=9)
    assert found[:2] == [100, 100]
    assert found[2:6] == [100, 128, 160, 160]  # 110, 130, 150 and 170 px
    assert found[6:] == [190] * 3
    tiny = ProgressiveResizing(start_resolution=8, start_epoch=0, end_epoch=10, multiple=32)
    assert resolutions(tiny, own=28, epochs=11) == [8] * 5 + [28] * 6  # not 0, and not 32, from 18 px on
    finer = ProgressiveResizing(start_resolution=16, start_epoch=0, end_epoch=4, multiple=4)
    assert resolutions(finer, own=32, epochs=5) == [16, 20, 24, 28, 32]


def test_schedule_where_growing_takes_no_time_the_crop_has_its_own_resolution_from_that_epoch() -> None:
    progressive = ProgressiveResizing(start_resolution=160, start_epoch=3, end_epoch=3)
    assert resolutions(progressive, own=192, epochs=5) == [160] * 3 + [192] * 2
