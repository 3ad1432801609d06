"""benchmark: measures what training does, finds the bottleneck from the rates, and reports mistakes in one line."""

import itertools
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from tests.support.processes import SUPPORT, TIMEOUT, run, run_new
from trainer.__main__ import main
from trainer.commands.benchmark import benchmark, peers
from trainer.commands.benchmark.bottleneck import (
    Rates,
    find_bottleneck,
    more_threads,
    smaller_side,
    smallest_useful_side,
)
from trainer.commands.benchmark.measure import Measured, Part, window_length
from trainer.commands.benchmark.peak import Peak, peak
from trainer.commands.benchmark.peers import Peer, PeerError, job
from trainer.commands.benchmark.repeated_step import RepeatedStep
from trainer.commands.benchmark.report import FFCV, TORCHVISION, figures, report
from trainer.commands.benchmark.whole_epoch import epoch_line, evaluation_part, whole_epoch
from trainer.cuda_graph import DDP_WARM_UP
from trainer.data.formats import open_source
from trainer.data.loader import Loader
from trainer.data.stream import train_stream
from trainer.data.synthetic import SyntheticSource
from trainer.distributed import process_group
from trainer.log import throughput
from trainer.model import build_model
from trainer.recipe import (
    EMA,
    SGD,
    CenterCrop,
    CifarResNet,
    Cosine,
    Mixing,
    PaddedCrop,
    ProgressiveResizing,
    RandomResizedCrop,
    Recipe,
    ScaleJitterCrop,
    Warmup,
)
from trainer.recipe_file import recipe_source
from trainer.run.checkpoint import read
from trainer.settings import BenchmarkSettings, TrainSettings
from trainer.setup.networks import build_module, build_state
from trainer.train import train

RECIPE = Recipe(
    name="small_crops",
    dataset="photographs",
    model=CifarResNet(depth=8),
    num_classes=4,
    train_crop=RandomResizedCrop(resolution=32),
    flip=True,
    mixing=Mixing(mixup_alpha=0.2, cutmix_alpha=1.0),
    eval_crop=CenterCrop(resolution=32, crop_ratio=1.0),
    optimizer=SGD(lr=0.05, nesterov=True),
    schedule=Cosine(warmup=Warmup(epochs=0.5, lr=0.01)),
    clip_grad_norm=1.0,
    ema=EMA(decay=0.9),
    epochs=2,
    global_batch_size=32,
    micro_batch_size=8,
    precision="fp32",
)
OURS = ["loader", "augmentation", "compute", "real", "evaluation"]  # on a CPU, where nothing is copied to a device

# ------------------------------------------------------------------------------------------------------- the bottleneck

PLENTY = Rates(loader=3000, compute=1000, real=990, copy=None, workers=8, cpus=8, processes=1)


def kind(**rates: Any) -> str:
    return find_bottleneck(replace(PLENTY, **rates)).kind


def test_bottleneck_changes_at_its_borders_and_nowhere_else() -> None:
    assert kind(loader=899, real=900) == "loader-bound"
    assert kind(loader=901, real=900) == "balanced"
    assert kind(loader=1249) == "balanced"
    assert kind(loader=1251) == "compute-bound"


def test_slower_of_reading_and_copying_is_what_feeds() -> None:
    assert kind(loader=500, copy=700) == "loader-bound"
    assert kind(loader=700, copy=500) == "copy-bound"
    assert kind(loader=1100, copy=5000) == kind(loader=5000, copy=1100) == "balanced"
    assert kind(loader=5000, copy=5000) == "compute-bound"


def test_bottleneck_of_the_loader_says_what_would_remove_it() -> None:
    rates = replace(PLENTY, loader=2100, compute=3300, real=2080, stored_side=500, smallest_side=256)
    assert more_threads(rates) == 5  # 8 x 3,300 / 2,100 = 12.6 in all
    assert smaller_side(rates) == 390
    assert find_bottleneck(rates).text == (
        "loader-bound: 2,100 of 3,300 images/s; about 5 more loader threads (CPUs) or images stored at 390 px would "
        "remove it"
    )
    assert smaller_side(replace(rates, smallest_side=400)) is None
    assert "stored" not in find_bottleneck(replace(rates, smallest_side=400)).text
    assert "--workers 13," in find_bottleneck(replace(rates, cpus=13)).text
    assert "--workers" not in find_bottleneck(replace(rates, cpus=12)).text
    assert "for each process" in find_bottleneck(replace(rates, processes=2)).text


def test_benchmark_as_many_threads_as_are_asked_for_would_be_enough_and_one_fewer_would_not() -> None:
    for loader in (100, 333, 500, 899):
        rates = replace(PLENTY, loader=loader)
        enough = PLENTY.workers + more_threads(rates)
        assert loader * enough / PLENTY.workers >= rates.compute > loader * (enough - 1) / PLENTY.workers


def test_benchmark_parts_that_hinder_each_other_are_reported() -> None:
    assert "together" not in find_bottleneck(replace(PLENTY, real=801)).text
    assert "together" in find_bottleneck(replace(PLENTY, real=799)).text
    sharing = replace(PLENTY, loader=1000, real=500)
    assert find_bottleneck(sharing).text.endswith(
        "together they reach 500 images/s, 50% of the slower one alone: they share the CPUs"
    )
    assert "busy otherwise?" in find_bottleneck(replace(sharing, loader=90_000)).text
    assert "something between them" in find_bottleneck(replace(sharing, copy=9000)).text


@pytest.mark.parametrize(("peak", "doubted"), [(1.06e12, False), (1.05e12, True)])
def test_benchmark_doubts_a_peak_that_a_whole_step_nearly_reaches(peak: float, doubted: bool) -> None:
    """1,000 images/s of 1 GFLOP."""
    found = figures(
        RECIPE,
        cast(Any, SimpleNamespace(name="photos", labels=[0] * 64, checksum="sha256:0")),
        {name: Measured([[1000.0]], [[0.0]]) for name in OURS},
        {"processes": 1, "commit": None},
        **{"seconds": 1.0, "workers": 1, "cpus": 1, "stored_side": None, "flops": 1e9},
        peak=Peak(peak, "a product", True),
        notes=[],
    )
    assert any("the peak is in doubt" in note for note in found["notes"]) == doubted


@pytest.mark.parametrize(("slowest", "unsteady"), [(100.0, False), (99.0, True)])
def test_benchmark_says_where_rounds_differ_by_more_than_three_tenths(slowest: float, unsteady: bool) -> None:
    """The loader's rounds; all others are alike."""
    measured = {name: Measured([[130.0], [130.0]], [[0.0], [0.0]]) for name in OURS}
    found = figures(
        RECIPE,
        cast(Any, SimpleNamespace(name="photos", labels=[0] * 64, checksum="sha256:0")),
        {**measured, "loader": Measured([[slowest], [130.0]], [[0.0], [0.0]])},
        {"processes": 1, "commit": None},
        **{"seconds": 1.0, "workers": 1, "cpus": 1, "stored_side": None, "flops": 1e9},
        peak=Peak(1e15, "a data sheet", False),
        notes=["a note"],
    )
    said = "the rounds differ much in loader: measure again with more --rounds, or on an idle machine"
    assert found["notes"] == ["a note", *([said] if unsteady else [])]


def test_benchmark_notes_what_disturbs_its_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are four CPUs: a load of two, 20 micro-batches and one resolution are nothing to note."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    resizing = replace(RECIPE, progressive=ProgressiveResizing(start_resolution=16, start_epoch=0, end_epoch=1))
    assert benchmark._notes(RECIPE, 2.0, micro_batches=20) == []
    assert benchmark._notes(resizing, 2.1, micro_batches=19) == [
        "other processes were busy here: load average 2.1 at the start",
        "measured at 32 px, the resolution of the last epochs; the first ones have 16 px",
        "an epoch has 19 micro-batches only: much of the measured time is its start",
    ]


def test_benchmark_window_is_not_sized_by_the_recording_of_a_cuda_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """With DDP the 11th step is recorded and the 12th compared, which takes seconds; all others take 2**-7 s."""
    now, calls = 0.0, itertools.count(1)

    def step(_batch: object) -> None:
        nonlocal now
        now += 5.0 if next(calls) in (DDP_WARM_UP, DDP_WARM_UP + 1) else 2**-7

    monkeypatch.setattr(throughput, "time", SimpleNamespace(perf_counter=lambda: now))
    part = Part(batches=lambda _: (batch for batch in itertools.count()), work=step, images=1, first=DDP_WARM_UP + 1)
    with process_group.initialize("cpu", timeout_minutes=1) as world:
        assert window_length(part, 1.0, world) == 128


def test_benchmark_only_crops_that_are_resized_leave_the_stored_size_open() -> None:
    assert smallest_useful_side(RandomResizedCrop(resolution=224)) == 256
    assert smallest_useful_side(PaddedCrop(resolution=32)) is None


def test_ranks_that_wait_for_each_other_are_as_fast_as_the_slowest() -> None:
    measured = Measured(
        images_per_second=[[10, 30], [12, 20], [50, 40]], data_wait=[[0.1, 0.5], [0.2, 0.4], [0.3, 0.6]]
    )
    assert measured.ranks == [12, 30]
    assert (measured.total, measured.slowest_rank) == (24, 0)
    assert measured.rounds == [20, 24, 80]
    assert measured.waits == [0.2, 0.5]


@pytest.mark.slow
def test_benchmark_only_the_very_name_of_a_gpu_has_a_known_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    assert peak(torch.device("cuda"), "bf16").flops_per_second == pytest.approx(989.4e12)
    assert peak(torch.device("cuda"), "fp32").flops_per_second == pytest.approx(66.9e12)
    found = peak(torch.device("cpu"), "bf16")
    assert found.flops_per_second > 0
    assert "measured here" in found.source


@pytest.mark.parametrize("scaled", [False, True])
def test_peer_that_decodes_at_full_size_where_we_do_not_is_reported(scaled: bool) -> None:
    measured = {
        name: Measured(images_per_second=[[rate]], data_wait=[[0.0]])
        for name, rate in {**dict.fromkeys(OURS, 300.0), FFCV: 200.0, TORCHVISION: 100.0}.items()
    }
    found = figures(
        replace(RECIPE, train_crop=RandomResizedCrop(resolution=32, scaled_decoding=scaled)),
        SyntheticSource(64, 4, 32),
        measured,
        {"processes": 1, "gpu": None, "cpu": "a CPU", "torch_threads": 1, "commit": None},
        seconds=1, workers=1, cpus=1, stored_side=None, flops=1e9, peak=Peak(1e12, "made up", False), notes=[],
    )  # fmt: skip
    assert found["decoding"] == ("scaled" if scaled else "full")
    said = ", but ours decodes scaled, this at full size" if scaled else ""
    compared = [line.partition("ours / this: ")[2] for line in report(found).splitlines() if "ours / this" in line]
    assert compared == [f"1.50{said}", f"3.00{said}"]


# ---------------------------------------------------------------------------------------------------------- the step


@pytest.mark.slow
def test_measured_step_is_the_loops(tmp_path: Path) -> None:
    """Weights and average after two epochs of both, bit for bit: accumulation, mixing, clipping, EMA and schedule."""
    recipe = replace(RECIPE, global_batch_size=16)
    settings = TrainSettings(data="synthetic:64", run_dir=tmp_path / "run", device="cpu", workers=1)
    train(recipe, settings)
    trained = read(max((tmp_path / "run" / "checkpoints").glob("step_*.pt")))
    assert trained["step"] == 8
    with (
        process_group.initialize("cpu", timeout_minutes=1) as world,
        Loader(open_source("synthetic:64", "train", num_classes=4, resolution=32), workers=1) as loader,
    ):
        torch.manual_seed(recipe.seed)
        module, _ = build_module(recipe, settings, world, fresh=True)
        step = RepeatedStep(recipe, module, world, steps_per_epoch=4)
        for epoch in (0, 1):
            for batch in train_stream(recipe, loader, world, epoch=epoch, accumulation=2):
                step(batch)
    assert step.state.average
    ours = [*module.state_dict().values(), *step.state.average.state_dict().values()]
    loops = [*trained["model"].values(), *trained["average"].values()]
    assert len(ours) == len(loops) > 80
    assert all(torch.equal(mine, its) for mine, its in zip(ours, loops, strict=True))


# ------------------------------------------------------------------------------------------------------- whole epochs


def test_benchmark_whole_epoch_is_the_sum_of_its_parts() -> None:
    """ImageNet at 1,000 images/s, evaluated at 2,500: 1,281 s, 20 s and 1 s."""
    epoch = whole_epoch(
        images=1_281_000, images_per_second=1000, evaluated=50_000, evaluated_per_second=2500, copy_seconds=1.0
    )
    assert epoch["seconds"] == {"steps": 1281.0, "evaluation": 20.0, "copy": 1.0}
    assert epoch["images_per_second"] == pytest.approx(1_281_000 / 1302)
    assert epoch_line(epoch) == (
        "whole epoch: 984 images/s with evaluation and saving = 1,281,000 images / (1,281.0 s of steps + 20.0 s for "
        "50,000 validation images + 1.00 s for the copy that is saved)"
    )


def test_benchmark_evaluates_each_validation_image_in_turn_with_all_networks() -> None:
    """Full batches without end, on modules whose mode and weights stay."""
    with (
        process_group.initialize("cpu", timeout_minutes=1) as world,
        Loader(open_source("synthetic:96", "val", num_classes=4, resolution=32), workers=1) as loader,
    ):
        module = build_model(RECIPE.model, 4)
        state = build_state(RECIPE, module, world, steps_per_epoch=2)
        networks = [*state.networks.values()]
        before = [{name: value.clone() for name, value in network.state_dict().items()} for network in networks]
        part = evaluation_part(RECIPE, loader, state, world)
        assert (part.images, len(networks)) == (64, 2)
        seen = []
        with closing(part.batches(0)) as batches:
            for _ in range(3):
                batch = next(batches)
                assert not any(network.training for network in networks)
                part.work(batch)
                seen += batch.samples.tolist()
        assert seen == [*range(len(loader))] * (3 * 64 // len(loader)) + [*range(3 * 64 % len(loader))]
        assert module.training
    after = [network.state_dict() for network in networks]
    assert all(map(torch.equal, *(itertools.chain(*(one.values() for one in states)) for states in (before, after))))


def test_benchmark_without_validation_images_leaves_the_evaluation_out(photo_betons: Path, tmp_path: Path) -> None:
    for file in photo_betons.glob("train.beton*"):
        (tmp_path / file.name).symlink_to(file)
    notes: list[str] = []
    settings = BenchmarkSettings(data=str(tmp_path), device="cpu", workers=1)
    with process_group.initialize("cpu", timeout_minutes=1) as world, ExitStack() as stack:
        assert benchmark._open_evaluation(RECIPE, settings, 1, world, notes, stack) is None
        assert len(notes) == 1 and notes[0].startswith(
            f"the evaluation is left out: --data {tmp_path} has neither val."
        )
        whole = replace(settings, data=str(photo_betons))
        assert len(benchmark._open_evaluation(RECIPE, whole, 1, world, notes, stack) or ()) == 24
    assert len(notes) == 1


# --------------------------------------------------------------------------------------------------------- real runs


def content(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("recipe") / "small_crops.py"
    path.write_text(recipe_source(RECIPE))
    return str(path)


def words(recipe: str, data: Path, *options: object) -> list[str]:
    always = ["--seconds", "0.2", "--rounds", "1", "--device", "cpu"]
    return ["benchmark", recipe, "--data", str(data), *always, *map(str, options)]


@pytest.mark.slow
def test_benchmark_real_run_measures_every_part_and_touches_nothing(
    recipe_file: str, photo_betons: Path, photos: Path, tmp_path: Path
) -> None:
    before = content(photo_betons)
    ended = run_new(
        words(recipe_file, photo_betons, "--original", photos, "--json", "b.json", "--workers", 2), cwd=tmp_path
    )
    assert ended.returncode == 0, ended.stderr
    assert content(photo_betons) == before
    assert [path.name for path in tmp_path.iterdir()] == ["b.json"]
    found = json.loads((tmp_path / "b.json").read_text())

    assert list(found["parts"]) == [*OURS, FFCV, TORCHVISION]
    rates = {name: part["images_per_second"] for name, part in found["parts"].items()}
    assert min(rates.values()) > 0
    assert found["n"] == 1 and found["hardware"]["processes"] == 1 and "commit" in found
    assert found["data"]["images"] == 64
    assert found["ratios"] == {
        "real/compute": rates["real"] / rates["compute"],
        "real/loader": rates["real"] / rates["loader"],
        f"loader/{FFCV}": rates["loader"] / rates[FFCV],
        f"loader/{TORCHVISION}": rates["loader"] / rates[TORCHVISION],
    }
    assert 0 <= found["data_wait"] <= 1
    assert found["mfu"]["real"] > 0
    assert found["mfu"]["compute"] == pytest.approx(
        rates["compute"] * found["mfu"]["flops_per_image"] / found["mfu"]["peak_flops_per_second"]
    )
    headroom = rates["loader"] / rates["compute"]
    by_rule = "loader-bound" if headroom < 0.9 else "compute-bound" if headroom > 1.25 else "balanced"
    assert found["verdict"]["kind"] == by_rule
    epoch = found["epoch"]
    seconds = 64 / rates["real"] + 24 / rates["evaluation"] + epoch["seconds"]["copy"]
    assert (epoch["images"], epoch["evaluated"]) == (64, 24) and epoch["seconds"]["copy"] > 0
    assert epoch["images_per_second"] == pytest.approx(64 / seconds)
    assert epoch_line(epoch) in ended.stdout.splitlines()
    assert ended.stdout.splitlines()[-1] == found["verdict"]["words"]
    assert ended.stdout.count("images/s") >= 1 and "none: the CPU is the device" in ended.stdout
    assert "note: an epoch has 8 micro-batches only" in ended.stdout
    assert ended.stderr == ""


@pytest.mark.slow
def test_benchmark_two_processes_are_measured_together(recipe_file: str, photos: Path, tmp_path: Path) -> None:
    ended = run(words(recipe_file, photos, "--json", tmp_path / "b.json", "--workers", 1), processes=2)
    assert ended.returncode == 0, ended.stderr
    found = json.loads((tmp_path / "b.json").read_text())
    assert found["hardware"]["processes"] == 2
    assert list(found["parts"]) == OURS
    for part in found["parts"].values():
        assert len(part["ranks"]) == 2
        assert part["ranks"][part["slowest_rank"]] == min(part["ranks"]) > 0
        assert part["images_per_second"] == 2 * min(part["ranks"])
    assert len(found["data_wait_ranks"]) == 2
    assert ended.stdout.count("slowest rank") == len(OURS)
    assert ended.stdout.count(found["verdict"]["words"]) == 1  # only rank 0 prints


# ---------------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--num-classes", "5"], "num_classes=5, but {data} has 4 classes: use --num-classes 4"),
        (["--global-batch-size", "96"], "global_batch_size=96 is more than the 64 training images"),
        (["--original", "nowhere"], "--original nowhere has no class folders below train/"),
        (["--json", "nowhere/b.json"], "--json nowhere/b.json cannot be written"),
        (["--data", "nowhere"], "--data nowhere has neither train.beton nor the folder train/"),
        (["--rounds", "0"], "rounds=0 is not a positive number"),
        (["--device", "cuda"], "torch can use no GPU: check nvidia-smi, "),
    ],
)
def test_benchmark_mistake_is_one_line(
    options: list[str], message: str, recipe_file: str, photo_betons: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(recipe_file, photo_betons, *options)) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ") and said.err.count("\n") == 1
    assert message.format(data=photo_betons) in said.err


def test_benchmark_images_of_a_different_size_than_a_padded_crop_are_one_line(
    photo_betons: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = str(SUPPORT / "small_recipe.py")
    assert main(words(small, photo_betons, "--num-classes", "4", "--global-batch-size", "32")) == 2
    assert "train_crop.resolution=16 needs images of 16 x 16 px, but image 0 is" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------------- peers


def tells_its_gpus(_job: object) -> Iterator[int]:
    raise ValueError(f"GPUs: {os.environ.get('CUDA_VISIBLE_DEVICES')!r}")


@pytest.mark.slow
def test_peer_that_fails_ends_or_hangs_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "START_SECONDS", float(TIMEOUT))
    ends: Any = os._exit
    sleeps: Any = time.sleep
    cases: list[tuple[Any, Any, str]] = [
        (ends, 3, r"its process ended \(exit code 3\)"),
        (int, "no number", "invalid literal for int"),
        (tells_its_gpus, None, "GPUs: ''"),  # FFCV's Loader would open the first one in every rank
    ]
    for read_images, argument, message in cases:
        peer = Peer(read_images, argument)
        with pytest.raises(PeerError, match=message):
            peer.wait_until_ready()
        peer.close()
    monkeypatch.setattr(peers, "START_SECONDS", 0.1)
    monkeypatch.setattr(peers, "END_SECONDS", 0.1)
    peer = Peer(sleeps, 1000)  # type: ignore[arg-type]
    try:
        with pytest.raises(PeerError, match="no answer within 0 s"):
            peer.wait_until_ready()
    finally:
        peer.close()
    assert peer._process.exitcode == -signal.SIGKILL


def test_peers_cut_as_the_recipe_does_or_nearly(tmp_path: Path) -> None:
    padded = PaddedCrop(resolution=32)
    assert job(replace(RECIPE, train_crop=padded), tmp_path, 2).crop == padded
    nearly = job(replace(RECIPE, train_crop=ScaleJitterCrop(resolution=224, short_side=(256, 448))), tmp_path, 2)
    assert nearly.crop == RandomResizedCrop(resolution=224, scale=(0.25, (224 / 256) ** 2), ratio=(1.0, 1.0))
    assert asdict(nearly)["batch_size"] == RECIPE.micro_batch_size
