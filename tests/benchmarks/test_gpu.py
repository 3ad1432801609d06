"""benchmarks/gpu.py on a CPU: what it measures is there and what it found survives, so that a GPU's minutes count.

torch.compile is left out, and bf16 is only a variant: they take minutes here.
"""

import json
import os
import signal
import subprocess
import sys
import warnings
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import gpu
from benchmarks.gpu import per_second
from benchmarks.gpu_batches import EPOCH, Repeated
from benchmarks.gpu_look import waits
from benchmarks.gpu_record import Record
from benchmarks.gpu_report import report
from benchmarks.gpu_variants import variants
from benchmarks.roofline import _bytes_of_a_weight, _Traffic
from tests.support.processes import ROOT, TIMEOUT
from trainer.data.crop import CropBoxes
from trainer.data.formats import open_beton
from trainer.distributed.run_ahead import AHEAD
from trainer.precision import autocast
from trainer.recipe_file import load_recipe

STEPS = ("ours", "timm's step", "torchvision's step")


@pytest.mark.slow
def test_gpu_benchmark_one_command_measures_loader_step_peers_and_roofline(photo_betons: Path, tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    words = ["--data", photo_betons, "--device", "cpu", "--depth", 18, "--resolution", 32, "--batch", 4, "--seconds",
             0.05, "--minutes", 600, "--rounds", 2, "--workers", 2, "--no-compile", "--precision", "fp32",
             "--json", found]  # fmt: skip
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *map(str, words)],
        cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    figures = json.loads(found.read_text())
    assert figures["failed"] == {}
    rates = figures["images_per_second"]
    assert list(rates) == [
        "loader",
        "copy",
        "ours, synthetic",
        "ours, real",
        *(f"{step}, synthetic" for step in STEPS[1:]),
    ]
    assert all(len(rounds) == 2 and min(rounds) > 0 for rounds in rates.values())
    assert figures["variants"].keys() >= {"2 images", "tf32", "fp16", "bf16", "LAMB", "EMA", "ResNet-18"}
    assert min(each["images_per_second"] for each in figures["variants"].values()) > 0
    limit = figures["roofline"]
    assert limit["by_fused"] > limit["by_bytes"] > 0
    assert limit["by_flops"] > 0
    assert figures["waits"] == dict.fromkeys(STEPS)
    profile = figures["profile"]["ours"]
    assert "aten::convolution_backward" in {kernel["name"] for kernel in profile["kernels"]}
    assert ended.stdout.endswith(f"{report(figures)}\n")
    assert "NOT A GPU" in ended.stdout
    assert "real / synthetic: " in ended.stdout


@pytest.mark.slow
@pytest.mark.parametrize("words", [[], ["--data", "nowhere"], ["--data", "some", "--photos", "others"]])
def test_gpu_benchmark_images_that_are_not_given_or_not_there_are_one_line_and_exit_code_2(words: list[str]) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", *words],
        cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT,
    )  # fmt: skip
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: ") and ended.stderr.count("\n") == 1


FOUND: dict[str, Any] = {
    "what": "ResNet-50, 224 px, batch 256, bf16", "seconds": 4.0, "workers": 16,
    "hardware": {"gpu": "NVIDIA H200", "cpu": "", "commit": "abc", "packages": {"torch": "2.15.0"}},
    "images_per_second": {"ours, compiled, synthetic": [4000.0, 4400.0, 4200.0], "ours, compiled, real": [4116.0],
                          "timm's step, compiled, synthetic": [2100.0]},
    "failed": {"timm's step": "ImportError: no timm"},
    "compiled": {"ours, compiled": {"seconds": 61.5, "graphs": 1, "graph_breaks": 0, "cuda_graphs_recorded": 0,
                                    "cuda_graphs_skipped": 0}},
    "waits": {"ours": [], "torchvision's step": ["gpu_steps.py:80 (12 times in 4 steps)"]},
    "roofline": {"words": "roofline", "by_flops": 42000.0, "by_bytes": 8400.0, "by_fused": 16800.0},
    "profile": {}, "reserved_gb": [20.04, 20.06],
    "variants": {"32 images": {"images_per_second": 1050.0, "gb": 4.26}},
}  # fmt: skip


def test_report_of_a_part_is_a_report() -> None:
    """Of a run that was ended: what is there is told, with the n of each."""
    said = report(FOUND)
    assert "| ours, compiled, synthetic | 4,200 (4,000 to 4,400) | 3 |" in said
    assert "| timm's step | failed: ImportError: no timm | 0 |" in said
    assert "ours, compiled, real / synthetic: 0.980 (wanted: 0.97)" in said
    assert "ours, compiled / timm's step, compiled, synthetic: 2.00" in said
    assert "fastest on real images: 4,116 images/s (wanted on an H200: 4,500)" in said
    assert "10% of the operations' bound (MFU), 50% of the bytes' bound unfused, 25% of fused" in said
    assert "ours: waits for the device nowhere" in said
    assert "torchvision's step: WAITS for the device at gpu_steps.py:80 (12 times in 4 steps)" in said
    assert "GB reserved after each round: 20.0, 20.1" in said
    assert "| 32 images | 1,050 |  | 4.3 |" in said
    beside = {**FOUND["images_per_second"], "ours, synthetic": [2100.0]}
    assert "| 32 images | 1,050 | 0.50 | 4.3 |" in report({**FOUND, "images_per_second": beside})
    nothing: dict[str, Any] = {name: {} for name in ("images_per_second", "failed", "compiled", "waits", "profile")}
    assert "| what | images/s (range) | n |" in report({**FOUND, **nothing, "roofline": None})
    assert report(nothing) == "nothing was measured"


@pytest.mark.parametrize("batch", [8, 100, 256])
def test_gpu_benchmark_variants_are_recipes_that_differ_in_what_they_say(batch: int) -> None:
    recipe = replace(load_recipe("resnet50_nvidia_90ep"), global_batch_size=batch, micro_batch_size=batch, ema=None)
    found = variants(recipe)
    assert len(found) == 12
    assert {found[precision].recipe.precision for precision in ("tf32", "fp16", "fp32")} == {"tf32", "fp16", "fp32"}
    in_fp32 = variants(replace(recipe, precision="fp32"))
    assert "fp32" not in in_fp32 and in_fp32["bf16"].recipe.precision == "bf16"
    assert {variant.compile_mode for variant in found.values()} == {None, "default", "reduce-overhead"}
    assert min(variant.recipe.micro_batch_size for variant in found.values()) == max(2, batch // 8)
    assert all(variant.recipe != recipe for variant in found.values())


def test_gpu_benchmark_what_was_found_is_in_the_file_at_once(tmp_path: Path) -> None:
    record = Record(tmp_path / "found.json", minutes=1)

    def fail() -> None:
        raise ValueError("of one part\nand more")

    record.note("roofline", fail)
    record.note("other", lambda: 3)
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["failed"] == {"roofline": "ValueError: of one part"}
    assert found["other"] == 3


@pytest.mark.parametrize(("number", "reason"), [(signal.SIGALRM, "the time is up"), (signal.SIGTERM, "SIGTERM")])
def test_gpu_benchmark_time_ends_what_does_not_end_and_nothing_else(
    number: signal.Signals, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where it is caught like any failing part: `except Exception` lets it pass."""
    before, record = signal.getsignal(number), Record(tmp_path / "found.json", minutes=60)
    with record.time_limit():
        record.note("first", lambda: 1)
        assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 3600  # seconds, until it raises SIGALRM itself
        record.note("second", lambda: signal.raise_signal(number))
        pytest.fail("went on")
    assert f"ended early: {reason}\n" in capsys.readouterr().out
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["first"], found["failed"], "second" in found) == (1, {}, False)
    assert (signal.getsignal(number), signal.getitimer(signal.ITIMER_REAL)[0]) == (before, 0)


def test_host_is_never_far_ahead_of_a_gpu_nor_waits_for_all_of_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events that count stand for CUDA's."""
    recorded: list[int] = []  # how many had been, at each one
    waited: list[int] = []  # the number of each that was waited for

    class Event:
        def __init__(self, blocking: bool) -> None:
            assert blocking

        def record(self) -> None:
            recorded.append(len(recorded))
            self.number = len(recorded)

        def synchronize(self) -> None:
            waited.append(self.number)
            assert len(recorded) - self.number == AHEAD

    looks = count()
    monkeypatch.setattr(gpu, "time", SimpleNamespace(perf_counter=lambda: float(next(looks))))  # a second at each look
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _device: waited.append(0))
    done: list[int] = []
    rate = per_second(done.append, count(), torch.device("cuda"), seconds=3 * AHEAD + 1)
    assert done == [*range(3 * AHEAD)] and len(recorded) == len(done)
    assert rate == len(done) / (len(done) + 2)  # looks: one before, one for each, the one that ends it and one after
    assert waited == [*range(1, len(done) - AHEAD + 1), 0]


def test_gpu_benchmark_where_a_step_waits_is_named_by_file_and_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A warning with torch's words stands for its own; others are not meant."""
    modes: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    def step(number: int) -> None:
        warnings.warn("something else", stacklevel=1)
        if number % 2:
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)

    line = step.__code__.co_firstlineno + 3
    assert waits(step, count()) == [f"test_gpu.py:{line} (2 times in 4 steps)"]  # type: ignore[arg-type]
    assert waits(lambda _: None, count()) == []  # type: ignore[arg-type]
    assert modes == ["warn", "default"] * 2


def test_repeated_source_has_an_epoch_of_many_batches_of_the_same_images(photo_betons: Path) -> None:
    once = open_beton(photo_betons / "train.beton", check_content=False)
    repeated, images = Repeated(once, micro_batch_size=8), len(once.labels)
    assert len(repeated.labels) >= 8 * EPOCH
    some = np.array([3, 3 + images, 5 + 7 * images])
    assert np.array_equal(repeated.labels[some], once.labels[[3, 3, 5]])
    heights, widths = repeated.sizes(some)
    boxes = np.stack([np.zeros(3), np.zeros(3), heights, widths], axis=1).astype(np.int32)
    out = np.zeros((3, 32, 32, 3), np.uint8)
    repeated.read(some, CropBoxes(boxes, np.zeros(3, bool)), out)
    assert np.array_equal(out[0], out[1])
    assert not np.array_equal(out[0], out[2])
    repeated.close()


def test_bytes_of_an_operation_are_its_inputs_and_outputs() -> None:
    """A convolution of 1 x 1 from 4 to 8 channels and a ReLU, by hand; views move nothing."""
    images = torch.zeros(2, 4, 10, 10)
    layer = nn.Conv2d(4, 8, 1, bias=False)
    with torch.no_grad(), _Traffic() as traffic:
        layer(images).relu().view(2, -1)
    convolution = 4 * (2 * 4 * 100 + 8 * 4 + 2 * 8 * 100)
    assert traffic.products == convolution
    assert traffic.all == convolution + 2 * 4 * 2 * 8 * 100


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_bytes_of_the_weights_are_those_that_do_not_grow_with_the_images(precision: Any) -> None:
    """Of a linear layer: what twice the images move is twice what one times moves, but for the weights."""
    layer, device = nn.Linear(300, 200, bias=False), torch.device("cpu")
    moved = []
    for images in (8, 16):
        with _Traffic() as traffic:
            with autocast(precision, device):
                loss = layer(torch.ones(images, 300, requires_grad=True)).sum()
            loss.backward()
        layer.zero_grad(set_to_none=True)
        moved.append((traffic.all, traffic.products))
    for once, twice, of_a_weight in zip(*moved, _bytes_of_a_weight(precision), strict=True):
        assert 2 * once - twice == pytest.approx(of_a_weight * 300 * 200, rel=0.01)


def test_gpu_benchmark_what_is_changed_in_place_is_read_and_written() -> None:
    values = torch.zeros(4)
    with torch.no_grad(), _Traffic() as traffic:
        values.relu_()
    assert traffic.all == 2 * values.nbytes
