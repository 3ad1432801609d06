"""benchmark --fit: the largest micro-batch of this device, found by real steps, and the accumulation that follows."""

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

import torch

from trainer.atomic import replace_text
from trainer.commands.benchmark.fit_trial import NO_MEMORY
from trainer.commands.benchmark.report import require_writable
from trainer.commands.step_memory import choose_device
from trainer.commands.text import section
from trainer.errors import UserError
from trainer.process.memory import free_bytes, process_limits
from trainer.process.rows import text_table
from trainer.process.units import format_bytes, format_duration
from trainer.recipe import Recipe
from trainer.recipe_file import recipe_source
from trainer.settings import BenchmarkSettings
from trainer.setup.checks import misfit

_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""numbers of processes for which the accumulation is shown"""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Two steps at one micro-batch."""

    images: int
    peak: int | None
    """bytes; None: it does not fit"""
    reason: str
    """why it does not fit; empty if it does"""


def fit(recipe: Recipe, settings: BenchmarkSettings) -> None:
    """Prints the trials, the largest micro-batch and what follows from it; writes the file of --json.

    Raises UserError if not even the smallest micro-batch fits, if a step fails for a different reason, and before
    any trial where the file of --json cannot be written.
    """
    require_writable(settings.json)
    device = choose_device(settings.device)
    sizes = micro_batches(recipe)
    trials: list[Trial] = []

    def fits(images: int) -> bool:
        started = perf_counter()
        trial = run_trial(replace(recipe, micro_batch_size=images), device.type)
        trials.append(trial)
        answer = f"fits, {format_bytes(trial.peak)}" if trial.peak is not None else f"does not fit: {trial.reason}"
        print(f"  micro-batch {images:>6,}: {answer} ({format_duration(perf_counter() - started)})", flush=True)
        return trial.peak is not None

    print(f"{recipe.name}, {recipe.precision}, {recipe.train_crop.resolution} px, on {_named(device)}", flush=True)
    largest = largest_fitting(sizes, recipe.micro_batch_size, fits)
    if largest is None:
        raise UserError(
            f"not even --micro-batch-size {sizes[0]} fits on {_named(device)}: use a smaller --train-crop.resolution "
            f"or network, --precision bf16, or a device with more memory"
        )
    (peak,) = {trial.peak for trial in trials if trial.images == largest}
    assert peak is not None
    shares = accumulations(recipe, largest)
    if settings.json:
        found = {
            "recipe": recipe.name,
            "device": _named(device),
            "micro_batch_size": largest,
            "peak_bytes": peak,
            "trials": [vars(trial) for trial in trials],
            "accumulation": [
                {"processes": count, "micro_batch_size": images, "accumulation": passes}
                for count, images, passes in shares
            ],
        }
        replace_text(settings.json, json.dumps(found, indent=2) + "\n")
    print(_report(recipe, largest, peak, shares, is_all=largest == sizes[-1]))


def micro_batches(recipe: Recipe) -> list[int]:
    """The micro-batches, ascending, that the recipe allows: parts of the global batch, and whatever else it asks."""
    found = []
    for images in range(1, recipe.global_batch_size + 1):
        if recipe.global_batch_size % images == 0:
            try:
                replace(recipe, micro_batch_size=images)
            except ValueError:  # too small for mixing, or not a multiple of norm_batch_size
                continue
            found.append(images)
    return found


def largest_fitting(sizes: Sequence[int], first: int, fits: Callable[[int], bool]) -> int | None:
    """The largest of ascending `sizes` that fits, beginning with `first`, which is one of them; None if none does.

    It doubles, or halves, until one fits and a larger one does not, and bisects what is between them.
    """
    low, high, probe = -1, len(sizes), sizes.index(first)
    while high - low > 1:
        if fits(sizes[probe]):
            low = probe
        else:
            high = probe
        if high == len(sizes):
            probe = next((index for index in range(low + 1, high) if sizes[index] >= 2 * sizes[low]), high - 1)
        elif low == -1:
            probe = max((index for index in range(high) if 2 * sizes[index] <= sizes[high]), default=0)
        else:
            probe = (low + high) // 2
    return sizes[low] if low >= 0 else None


def accumulations(recipe: Recipe, largest: int) -> list[tuple[int, int, int]]:
    """For each number of processes that can share the batch: (processes, micro-batch, forward passes in a step).

    Stops at the first number of processes whose share of the batch is one micro-batch smaller than the largest.
    """
    found = []
    for count in _COUNTS:
        fitting = [
            images
            for images in micro_batches(recipe)
            if images <= largest and misfit(replace(recipe, micro_batch_size=images), count) is None
        ]
        if not fitting:
            break
        passes = recipe.global_batch_size // (fitting[-1] * count)
        found.append((count, fitting[-1], passes))
        if passes == 1 and fitting[-1] < largest:
            break
    return found


def run_trial(recipe: Recipe, device: str) -> Trial:
    """Runs a trial in a process of its own. Raises UserError if its step fails for another reason than memory."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "recipe.py"
        file.write_text(recipe_source(recipe), encoding="utf-8")
        words = [sys.executable, "-m", "trainer.commands.benchmark.fit_trial", str(file), device]
        ended = subprocess.run(words, capture_output=True, text=True)
    images, code = recipe.micro_batch_size, ended.returncode
    if code == 0:
        return Trial(images=images, peak=int(ended.stdout.split()[-1]), reason="")
    if code == NO_MEMORY:
        return Trial(images=images, peak=None, reason="out of memory")
    if code < 0:
        return Trial(images=images, peak=None, reason=f"killed by {signal.Signals(-code).name}")
    reason = (ended.stderr.strip() or f"exit code {code}").splitlines()[-1]
    raise UserError(f"a step of {recipe.name} at micro-batch {images} fails: {reason}")


def _report(recipe: Recipe, largest: int, peak: int, shares: list[tuple[int, int, int]], *, is_all: bool) -> str:
    limit = ", the whole global batch" if is_all else ""
    rows = [("largest", f"--micro-batch-size {largest}{limit}: peak {format_bytes(peak)} in one process")]
    if recipe.norm_batch_size is None and largest != recipe.micro_batch_size:
        rows.append(
            (
                "note",
                f"batch norm sees the micro-batch, which is {recipe.micro_batch_size} in this recipe. A different one "
                f"may change the accuracy; --norm-batch-size {recipe.micro_batch_size} keeps its statistics, where it "
                f"divides the micro-batch",
            )
        )
    header = ("processes", "--micro-batch-size", "accumulation")
    cells = [[f"{count:,}", f"{images:,}", f"{passes:,}"] for count, images, passes in shares]
    lines = text_table([header, *cells], right=range(len(header)))
    return section("", rows, ["", f"for the global batch of {recipe.global_batch_size:,}:", *lines])


def _named(device: torch.device) -> str:
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        return f"{torch.cuda.get_device_name(device)}, {format_bytes(total)}"
    return f"CPU, {format_bytes(min([free_bytes(), *process_limits()]))} free"
