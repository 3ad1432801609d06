"""plan: the numbers of what training would do, the warnings, and mistakes in one line."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.processes import ROOT, SUPPORT, TIMEOUT, run_new
from tests.support.small_recipe import recipe as small
from trainer.__main__ import main
from trainer.commands.cost import PassCost
from trainer.commands.plan import plan as verb
from trainer.commands.plan.curve import ASCII, WIDTH, draw, marks, save_picture
from trainer.commands.plan.data import DataFacts, data_facts, data_warnings
from trainer.commands.plan.scaling import Links, all_reduce_seconds, ring_bytes, speed, world_sizes
from trainer.commands.plan.warnings import override_warnings, warnings
from trainer.commands.step_memory import measured_bytes
from trainer.commands.text import section
from trainer.data.contents import Contents
from trainer.errors import UserError
from trainer.process import memory
from trainer.process.units import format_bytes, format_flops
from trainer.recipe import (
    AdamW,
    CenterCrop,
    Constant,
    Cosine,
    ProgressiveResizing,
    RandomResizedCrop,
    Recipe,
    Schedule,
    Steps,
    Warmup,
)
from trainer.recipe_file import load_recipe, recipe_names
from trainer.setup.checks import misfit

GOYAL = load_recipe("resnet50_goyal2017_8k")
LINKS = Links(node_size=8, inside=450e9, between=50e9)
SMALL = str(SUPPORT / "small_recipe.py")


def planned(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["plan", *words]) == 0
    return capsys.readouterr().out


def row(plan: str, name: str) -> str:
    """The text of the first row of that name, on one line."""
    found = re.search(rf"^  {re.escape(name)} +(.+(?:\n {{15}}\S.*)*)", plan, re.MULTILINE)
    assert found, f"no row {name} in\n{plan}"
    return " ".join(found.group(1).split())


# ---------------------------------------------------------------------------------------------------------- the command


@pytest.mark.slow
def test_plan_of_the_digits_says_what_training_would_do(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = planned(
        ["resnet20_digits", "--data", str(digits), "--out", str(tmp_path / "new"), "--optimizer.lr", "0.2"], capsys
    )
    assert len(plan.splitlines()) <= 60
    assert row(plan, "changed").startswith("optimizer.lr:")
    assert row(plan, "data").endswith("1,437 training images, 360 validation images")
    assert row(plan, "steps") == "14 x 20 epochs = 280"
    assert row(plan, "images") == "26,880 in all; 93 are left out of each epoch"
    assert row(plan, "parameters") == "269,722, all of them trained"
    assert row(plan, "forward") == "20.3 MFLOPs per image at 16 px, 10.1 MMACs"
    assert row(plan, "whole run").startswith(format_flops(26_880 * (3 * 20_276_480 - 2 * 16 * 16 * 16 * 27)))
    sizes = [(digits / f"{split}.beton").stat().st_size for split in ("train", "val")]
    assert row(plan, ".beton") == f"{format_bytes(sizes[0])} for training, {format_bytes(sizes[1])} for validation"
    assert "The resolved recipe" not in plan
    assert max(map(len, plan.splitlines())) <= 120
    assert "\x1b" not in plan
    with Image.open(tmp_path / "new" / "lr.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 800


@pytest.mark.slow
def test_plan_names_the_resolved_recipe_as_python_that_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = planned(["resnet20_digits", "--epochs", "3", "--recipe"], capsys)
    (tmp_path / "again.py").write_text(plan.partition("The resolved recipe\n\n")[2])
    assert load_recipe(tmp_path / "again.py") == replace(load_recipe("resnet20_digits"), epochs=3)


@pytest.mark.slow
def test_measured_step_takes_at_least_the_tensors_that_were_counted() -> None:
    """In a process of its own: in one that has freed memory before, the same tensors take none."""
    words = [SMALL, "--data", "synthetic:960", "--measure", "--device", "cpu", "--micro-batch-size", "96"]
    ended = run_new(["plan", *words])
    assert ended.returncode == 0, ended.stderr
    plan = ended.stdout
    together, measured = (
        float(row(plan, name).split()[0]) * {"MB": 1.0, "GB": 1000.0}[row(plan, name).split()[1]]
        for name in ("together", "measured")
    )
    assert together < measured < 10 * together + 300


@pytest.mark.slow
def test_prediction_is_marked_as_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    """By hand: 63,960 steps of 128 images, a micro-batch in 6.4 ms and 1,078,888 bytes of gradients in 5.394 ms, of
    which 2/3 of 6.4 ms overlap: a step of two processes takes 7.528 ms at best and 11.794 ms without overlap."""
    links = ["--gpus-per-node", "1", "--link-gbytes", "0.5", "--network-gbytes", "0.2"]
    plan = planned(["resnet20_he2015", "--world-size", "2", "--images-per-second", "10000", *links], capsys)
    assert row(plan, "model").startswith("not a measurement")
    header, one, two, *others = plan.partition("  processes  ")[2].splitlines()
    assert header.split()[-4:] == ["images/s", "overlap", "none", "training"]
    assert " ".join(one.split()) == "1 2 x 64 0 bytes - 10,000 100.0% 100.0% 13.6 min"
    assert " ".join(two.split()) == "2 1 x 64 1.08 MB 5.39 ms 17,004 85.0% 54.3% 8.02 min"
    assert others == []  # more processes do not fit
    short = planned(["resnet20_he2015", "--world-size", "4"], capsys)
    assert row(short, "these fit") == "1, 2"
    assert row(short, "4").startswith("does not fit: a step has 2 micro-batches; --micro-batch-size 32 would fit, with")
    assert row(planned(["resnet20_he2015", "--world-size", "2"], capsys), "with 2").startswith(
        "1 micro-batch of 64 each"
    )


def test_plan_weighs_the_operations_of_each_resolution_by_its_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two epochs at 16 px and one at 32, with operations that are easily summed."""
    resizing = ProgressiveResizing(start_resolution=16, start_epoch=1, end_epoch=2, multiple=16)
    recipe = replace(small, train_crop=RandomResizedCrop(resolution=32), progressive=resizing, epochs=3)
    monkeypatch.setattr(verb, "forward_flops", lambda _recipe, _model, size: {16: 30_000}[size])
    cost = PassCost(forward_flops=100_000, training_flops=250_000, activations=0)
    flops = dict(verb._flops_rows(recipe, torch.nn.Module(), cost, steps=10))
    assert flops["whole run"] == f"{format_flops(10 * 96 * 2.5 * (2 * 30_000 + 100_000))}, without evaluation"
    assert flops["training"].startswith("250 kFLOPs per image, 2.50 x forward")
    facts = DataFacts(name="D", train=Contents(count=960), val=Contents(count=96))
    training = dict(verb._training_rows(recipe, facts, steps=10))
    assert training["resolution"] == "16 px from epoch 0, 32 px from epoch 2; evaluated at 16 px"
    same = replace(recipe, progressive=None)
    assert dict(verb._training_rows(same, facts, 10))["resolution"] == "32 px; evaluated at 16 px"


@pytest.mark.slow
def test_plan_without_a_speed_nothing_is_predicted(capsys: pytest.CaptureFixture[str]) -> None:
    plan = planned(["resnet20_digits"], capsys)
    assert "give --images-per-second" in row(plan, "speed")
    assert "images/s  " not in plan


@pytest.mark.slow
def test_terminal_without_block_characters_gets_a_plan_too() -> None:
    """With the encoding of a pipe in the C locale."""
    words = [sys.executable, "-m", "trainer", "plan", "resnet20_digits"]
    environment = {"PYTHONIOENCODING": "ascii", "PATH": "", "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(words, cwd=ROOT, capture_output=True, timeout=TIMEOUT, env=environment)
    assert ended.returncode == 0, ended.stderr
    assert b"#####" in ended.stdout
    assert ended.stdout.isascii()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["resnet50_finetune"], r"is for 'any folder of classes'.* not known: add --data DIR"),
        (["resnet20_digits", "--data", "nowhere"], r"--data nowhere has neither train.beton nor the folder train/"),
        (["resnet20_digits", "--data", "synthetic:x"], r"names no number of images"),
        (["resnet20_digits", "--data", "synthetic:1000000000"], r"names no number of images below a billion"),
        (["resnet20_digits", "--data", "synthetic:" + "1" * 60], r"--data synthetic:1{50} names no number of images"),
        (["resnet20_digits", "--data", "synthetic:50"], r"global_batch_size=96 is more than the 50 training images"),
        (["resnet20_digits", "--world-size", "0"], r"world_size=0 is not a positive number"),
        (["resnet20_digits", "--images-per-second", "nan"], r"images_per_second=nan is not a positive number"),
        (["resnet20_digits", "--network-gbytes", "0"], r"network_gbytes=0.0 is not a positive number"),
        (
            ["resnet20_digits", "--gpus-per-node", "4"],
            r"--gpus-per-node is for the prediction: add --images-per-second",
        ),
        (["resnet20_digits", "--device", "cuda"], r"--device cuda is where --measure runs: add that, or leave"),
        (["resnet20_digits", "--device", "cuda", "--measure"], r"torch can use no GPU"),
        (["resnet20_digits", "--global-batch-size", "100"], r"=100 is not a multiple of micro_batch_size=48"),
        (["resnet20"], r"no recipe is called 'resnet20'"),
        (["--world-size", "2"], r"the recipe comes first"),
        ([], r"which recipe\?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_plan_mistake_is_one_line(words: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *words]) == 2
    said = capsys.readouterr().err
    assert re.search(line, said), said
    assert said.count("\n") == 1


@pytest.mark.slow
def test_picture_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    assert main(["plan", "resnet20_digits", "--out", str(tmp_path / "file" / "deeper")]) == 2
    assert re.fullmatch(r"error: .*lr.png cannot be written: .*\n", capsys.readouterr().err)


def test_plan_without_matplotlib_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # as if it were not installed
    with pytest.raises(UserError, match=r"needs matplotlib: pip install matplotlib, or no --out"):
        save_picture(small, 14, tmp_path / "lr.png")


@pytest.mark.slow
def test_plan_needs_a_device_only_to_measure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """CUDA may be unable to use the GPU of a login node, and --device cpu belongs to --measure."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "Memory of one process" in planned(["resnet20_digits"], capsys)
    assert main(["plan", "resnet20_digits", "--measure"]) == 2
    assert "torch can use no GPU" in capsys.readouterr().err


def test_step_that_the_job_may_not_hold_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "proc_bytes", lambda *_: 8 * 10**9)  # whatever other programs have left just now
    monkeypatch.setattr(memory, "cgroup_room", lambda: [2 * 10**9])
    with pytest.raises(UserError, match=r"--measure would take about 3\.00 GB, and 1\.90 GB are free"):
        measured_bytes(small, torch.device("cpu"), 1, expected=3 * 10**9)


@pytest.mark.slow
def test_step_that_this_machine_cannot_hold_is_not_tried(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["resnet20_digits", "--data", "synthetic:2000000", "--measure", "--device", "cpu"]
    huge = ["--global-batch-size", "1000000", "--micro-batch-size", "1000000"]
    assert main(["plan", *words, *huge]) == 2
    assert re.search(r"--measure would take about \d+.\d GB, and .* are free", capsys.readouterr().err)


# ----------------------------------------------------------------------------------------------- the data, the warnings


def test_plan_known_data_sets_have_their_published_sizes() -> None:
    known = {name: data_facts(load_recipe(name), None) for name in recipe_names() if name != "resnet50_finetune"}
    assert len(known) == 85
    assert {(facts.name, facts.train.count, facts.val.count) for facts in known.values()} == {
        ("ImageNet-1k", 1_281_167, 50_000),
        ("Imagenette", 9_469, 3_925),
        ("CIFAR-10", 50_000, 10_000),
        ("digits (scikit-learn)", 1_437, 360),
    }


def test_plan_images_are_counted_alike_in_folders_and_in_betons(photos: Path, photo_betons: Path) -> None:
    for folder in (photos, photo_betons):
        facts = data_facts(small, str(folder))
        assert (facts.train.count, facts.val.count, facts.train.classes) == (64, 24, 4)
        assert facts.train.heights is not None
        assert len(facts.train.heights) == 64
    assert data_facts(small, str(photo_betons)).train.file_bytes == (photo_betons / "train.beton").stat().st_size


@pytest.mark.parametrize("stored", ["photos", "photo_betons"])
def test_data_that_does_not_match_the_recipe_is_reported(stored: str, request: pytest.FixtureRequest) -> None:
    data = str(request.getfixturevalue(stored))
    facts = data_facts(small, data)
    heights, widths = facts.train.heights, facts.train.widths
    assert heights is not None and widths is not None
    notes = data_warnings(small, facts)
    assert "train in" in notes[0] and "4 classes, but num_classes=10" in notes[0]
    assert notes[2].startswith("64 of 64 (100.0%) training images are not 16 x 16 px")
    cropped = replace(small, num_classes=4, train_crop=RandomResizedCrop(resolution=100))
    few = sum(min(sides) < 100 for sides in zip(heights, widths, strict=True))
    assert 0 < few < 64
    assert data_warnings(cropped, facts)[0].startswith(f"{few} of 64 ({few / 64:.1%}) training images are smaller")
    assert data_warnings(replace(cropped, train_crop=RandomResizedCrop(resolution=32)), facts) == []


def test_plan_reports_validation_images_that_are_enlarged() -> None:
    """Those of which the crop, half of the short side, has fewer than 32 pixels."""
    recipe = replace(
        small, train_crop=RandomResizedCrop(resolution=32), eval_crop=CenterCrop(resolution=32, crop_ratio=0.5)
    )
    heights, widths = np.array([64, 63, 100, 200]), np.array([64, 100, 62, 200])
    facts = DataFacts(name="D", train=Contents(count=4), val=Contents(count=4, heights=heights, widths=widths))
    said = "validation images are enlarged to 32 px, see --eval-crop.resolution"
    assert data_warnings(recipe, facts) == [f"2 of 4 (50.0%) {said}"]
    sampled = replace(facts, val=replace(facts.val, count=400))
    assert data_warnings(recipe, sampled) == [f"2 of 4 (50.0%) of a sample {said}"]
    assert data_warnings(replace(recipe, eval_crop=CenterCrop(resolution=31, crop_ratio=0.5)), facts) == []


def test_plan_warns_of_processes_that_training_would_refuse() -> None:
    facts = data_facts(GOYAL, None)
    refused = "training would refuse 3 processes: 64 micro-batches cannot be shared evenly"
    assert warnings(GOYAL, facts, world_size=3) == [refused]
    assert warnings(GOYAL, facts, world_size=4) == []


@pytest.mark.slow
def test_plan_no_recipe_as_published_is_warned_of_on_its_own_data() -> None:
    quiet = [name for name in recipe_names() if name != "resnet50_finetune"]
    for name in quiet:
        assert warnings(load_recipe(name), data_facts(load_recipe(name), None), 1) == [], name
    assert len(quiet) == 85


@pytest.mark.parametrize(
    ("name", "batch", "rule"),
    [
        ("resnet50_goyal2017_8k", 4096, r"linear scaling .* would be --optimizer.lr 1.6$"),
        ("resnet50_goyal2017", 512, r"linear scaling .* would be --optimizer.lr 0.2$"),
        ("resnet50_wightman2021_a2", 512, r"LAMB's square-root scaling .* would be --optimizer.lr 0.0025$"),
    ],
)
def test_batch_without_its_rate_gets_the_rate_that_scaling_gives(name: str, batch: int, rule: str) -> None:
    named = load_recipe(name)
    changed = replace(named, global_batch_size=batch)
    assert re.search(rule, override_warnings(named, changed)[0])
    scaled = replace(changed, optimizer=replace(named.optimizer, lr=named.optimizer.lr * batch / 8192))
    assert override_warnings(named, scaled) == []
    assert override_warnings(named, named) == []


def test_warnings_know_the_scaling_rule_of_adamw() -> None:
    named = load_recipe("resnet50_goyal2017_8k")
    adam = replace(named, optimizer=AdamW(lr=1e-3))
    (note,) = override_warnings(adam, replace(adam, global_batch_size=2048))
    assert re.search(r"square-root scaling of Adam .* would be --optimizer.lr 0.0005$", note)


def test_norm_that_sees_other_images_is_reported() -> None:
    named = load_recipe("resnet50_torchvision_v1")
    assert override_warnings(named, replace(named, micro_batch_size=64)) == [
        "batch normalisation sees 64 images at a time instead of 32: --norm-batch-size 32 keeps it"
    ]
    assert override_warnings(named, replace(named, micro_batch_size=64, norm_batch_size=32)) == []
    assert "more than a micro-batch of 16 holds" in override_warnings(named, replace(named, micro_batch_size=16))[0]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (replace(GOYAL, epochs=60), r"epochs went from 90 to 60, and schedule.milestones stayed \(30, 60, 80\)"),
        (replace(GOYAL, epochs=60), r"schedule.milestones \[60, 80\] come after the last of 60 epochs"),
        (replace(GOYAL, epochs=5), r"schedule.warmup.epochs=5 is not before the end of 5 epochs"),
        (
            replace(GOYAL, progressive=ProgressiveResizing(start_resolution=128, start_epoch=0, end_epoch=90)),
            r"progressive.end_epoch=90 is not before the end",
        ),
    ],
)
def test_plan_what_ends_after_training_is_reported(changed: Recipe, words: str) -> None:
    assert any(re.search(words, note) for note in warnings(changed, data_facts(changed, None), 1))


# ------------------------------------------------------------------------------------------------------------ the curve


def test_curve_of_goyal_has_its_papers_places() -> None:
    """Section 5.1: 5 epochs of warmup from 0.1 to 0.1 * 8192 / 256, a tenth at 30, 60 and 80 of 90 epochs."""
    found = [(mark.name, round(mark.epoch, 2), round(mark.lr, 6)) for mark in marks(GOYAL, 156)]
    assert found == [
        ("first step", 0, 0.1),
        ("warmup ends, peak", 5, 3.2),
        ("milestone", 30, 0.32),
        ("milestone", 60, 0.032),
        ("milestone", 80, 0.0032),
        ("last step", 89.99, 0.0032),
    ]
    drawn = draw(GOYAL, 156)
    assert drawn[0].startswith("      3.2 |")
    assert max(map(len, drawn)) <= 90
    bars = drawn[7][11:]
    assert len(bars) == WIDTH and " " not in bars  # the lowest rate is visible
    assert max(map(len, draw(GOYAL, 156, columns=20)[:10])) == 11 + 20


@pytest.mark.parametrize(
    "schedule",
    [
        Cosine(warmup=Warmup(epochs=0.5, lr=0.0)),
        Cosine(warmup=Warmup(epochs=0.3, lr=0.0), start_epoch=0.0),
        Steps(milestones=()),
        Steps(milestones=(0.5, 7.0), warmup=Warmup(epochs=3, lr=0.0)),
        Constant(),
    ],
    ids=str,
)
@pytest.mark.parametrize("steps", [1, 14])
def test_plan_any_curve_can_be_drawn(schedule: Schedule, steps: int) -> None:
    for recipe in (replace(small, schedule=schedule), replace(small, optimizer=replace(small.optimizer, lr=0.0))):
        drawn = draw(recipe, steps, ASCII)
        assert len(drawn) == 8 + 3 + len(marks(recipe, steps))
        assert all(line.isascii() for line in drawn)
        assert all(mark.epoch < recipe.epochs for mark in marks(recipe, steps))


# ------------------------------------------------------------------------------------------------------- many processes


def test_plan_what_fits_is_what_training_accepts() -> None:
    """The oracle is the recipe itself, for every number of processes in the table and some more."""
    fits = set()
    for count in {*world_sizes(256), 3, 6, 48, 65}:
        try:
            GOYAL.accumulation(count)
            fits.add(count)
        except ValueError:
            assert misfit(GOYAL, count)
    assert fits == {count for count in (*world_sizes(256), 3, 6, 48, 65) if misfit(GOYAL, count) is None}
    assert fits == {1, 2, 4, 8, 16, 32, 64}


def test_smaller_micro_batch_is_proposed_where_it_fits() -> None:
    plain = replace(GOYAL, norm_batch_size=None)
    norms = "with norms over 32 images"
    assert misfit(plain, 256) == f"a step has 64 micro-batches; --micro-batch-size 32 would fit, {norms}"
    assert replace(plain, micro_batch_size=32).accumulation(256) == 1
    assert misfit(GOYAL, 512) == "a step has 64 micro-batches"  # 16 images are fewer than a norm needs
    assert misfit(plain, 100) == "a step has 64 micro-batches"
    assert misfit(plain, 3) == "64 micro-batches cannot be shared evenly"
    precise = replace(plain, precise_norm_images=128 * 12)
    assert misfit(precise, 4) is None
    assert misfit(precise, 8) == "precise_norm_images=1,536 cannot be shared evenly"


def test_plan_all_reduce_sends_what_a_ring_has_to_and_as_fast_as_its_slowest_link() -> None:
    assert [ring_bytes(n, 1000) for n in (1, 2, 4, 1000)] == [0, 1000, 1500, 1998]
    assert all_reduce_seconds(1, 450_000_000, LINKS) == 0
    assert all_reduce_seconds(8, 450_000_000, LINKS) == pytest.approx(1.75e-3)
    assert all_reduce_seconds(16, 450_000_000, LINKS) == pytest.approx(1.875 * 9e-3)
    slow_inside = replace(LINKS, inside=25e9)
    assert all_reduce_seconds(16, 450_000_000, slow_inside) == pytest.approx(1.875 * 18e-3)


def test_prediction_follows_its_assumptions() -> None:
    """64 processes, one micro-batch of 128 each: 51.2 ms at 2,500 images/s, of which 34.1 ms are the backward pass."""
    gradients = 4 * 25_557_032
    sums = all_reduce_seconds(64, gradients, LINKS)
    worst = speed(GOYAL, 64, gradients, LINKS, images_per_second=2500, overlap=False)
    assert worst.step_seconds == pytest.approx(0.0512 + sums)
    best = speed(GOYAL, 64, gradients, LINKS, images_per_second=2500, overlap=True)
    assert best.step_seconds == pytest.approx(0.0512)  # all of it is hidden
    assert best.efficiency == pytest.approx(1)
    assert best.images_per_second == pytest.approx(64 * 2500)
    slow = replace(LINKS, between=1e9)
    waiting = all_reduce_seconds(64, gradients, slow)
    exposed = speed(GOYAL, 64, gradients, slow, images_per_second=2500, overlap=True)
    assert exposed.step_seconds == pytest.approx(0.0512 + waiting - 2 / 3 * 0.0512)
    assert exposed.efficiency == pytest.approx(0.0512 / exposed.step_seconds)
    alone = speed(GOYAL, 1, gradients, slow, images_per_second=2500, overlap=False)
    assert alone.images_per_second == pytest.approx(2500)


def test_number_of_processes_that_was_asked_for_is_looked_at() -> None:
    assert world_sizes(256) == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]
    assert world_sizes(12)[3:5] == [8, 12]
    assert world_sizes(5000)[-1] == 5000


# ------------------------------------------------------------------------------------------------------------- the text


def test_rows_that_do_not_fit_continue_below() -> None:
    text = section("Title", [("name", "word " * 60)])
    assert text.startswith("\nTitle\n  name         word word")
    assert all(len(line) <= 110 for line in text.splitlines())
