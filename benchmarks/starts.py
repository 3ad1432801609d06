"""From the command to the first step, and from a checkpoint's position to the first batch."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks.table import Row, in_a_process, seconds_row

PATIENCE = 300.0  # s
IMAGES = 1_281_167  # ImageNet's
RESUMES = 5  # times each position is resumed at


class Start(NamedTuple):
    seconds: float  # until metrics.jsonl has the first step
    cpu: float  # seconds of CPU until then, which other processes lengthen less


def first_step(data: Path, recipe: str, cache: Path | None, extra: tuple[str, ...] = ()) -> Start:
    """`cache`: for Numba's compiled code, None: where it always is."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["train", recipe, "--data", str(data), "--run-dir", folder, "--log-every", "1", *extra]
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache)} if cache else dict(os.environ)
        metrics, start = Path(folder) / "metrics.jsonl", time.perf_counter()
        with subprocess.Popen(
            [sys.executable, "-m", "trainer", *words], env=environment, stdout=subprocess.DEVNULL
        ) as process:
            try:
                while time.perf_counter() - start < PATIENCE:
                    if metrics.exists() and metrics.stat().st_size:
                        return Start(time.perf_counter() - start, _cpu_seconds(process.pid))
                    if process.poll() is not None:
                        raise RuntimeError(f"{' '.join(words)} ended ({process.returncode}) before its first step")
                    time.sleep(0.02)
                raise RuntimeError(f"no step within {PATIENCE:g} s")
            finally:
                process.kill()


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # user and system: proc_pid_stat(5)


def import_seconds(module: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
    return time.perf_counter() - start


def start_rows(data: Path, recipe: str, rounds: int, extra: tuple[str, ...] = ()) -> list[Row]:
    warm: list[Start] = []
    cold: list[Start] = []
    torch: list[float] = []
    optimizer: list[float] = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as cache:
            cold.append(first_step(data, recipe, Path(cache), extra))
        warm.append(first_step(data, recipe, None, extra))
        torch.append(import_seconds("torch"))
        optimizer.append(import_seconds("torch, torch._dynamo"))
    share = f"`import torch` {min(torch):.1f} s, with what every torch.optim optimizer imports {min(optimizer):.1f} s"
    rows = []
    for what, starts, target, detail in (("compiled code kept from before", warm, 8, share),
                                         ("nothing compiled yet", cold, 25, "")):  # fmt: skip
        cpu = f"{min(start.cpu for start in starts):.1f} s of CPU{detail and '; '}{detail}"
        rows.append(seconds_row(f"command to first step, {what}", [start.seconds for start in starts], target, cpu))
    return rows


def seconds_to_first_batch(first_step: int) -> float:
    """Of an epoch of ImageNet's size, entered at a step: order, draws and the first batch of 256."""
    import numpy as np

    from trainer.data.crop import train_view
    from trainer.data.loader import Loader
    from trainer.data.order import epoch_order, train_batches
    from trainer.data.synthetic import SyntheticSource
    from trainer.recipe import RandomResizedCrop

    view = train_view(RandomResizedCrop(resolution=224), True, 0, 1)
    taken = []
    with Loader(SyntheticSource(IMAGES, 1000, 224), workers=2) as loader:
        for _ in range(RESUMES):
            start = time.perf_counter()
            samples = train_batches(
                epoch_order(0, 1, len(loader)),
                first_step=first_step,
                micro_batch_size=256,
                accumulation=1,
                rank=0,
                world_size=1,
            )
            batches = loader.batches(samples, view, 224)
            assert len(np.unique(next(batches).samples)) == 256
            taken.append(time.perf_counter() - start)
            batches.close()  # type: ignore[attr-defined]
    return min(taken)


def resume_row(rounds: int) -> Row:
    steps = IMAGES // 256
    positions = {"start": 0, "middle": steps // 2, "last": steps - 5}
    taken: dict[str, list[float]] = {name: [] for name in positions}
    for _ in range(rounds):
        for name, step in positions.items():
            taken[name].append(in_a_process(seconds_to_first_batch, step))
    best = {name: min(seconds) for name, seconds in taken.items()}
    middle, last = best["middle"] / best["start"], best["last"] / best["start"]
    noise = max(taken["start"]) / best["start"]
    return Row(
        what=f"first batch of an epoch of {IMAGES:,} images, entered at step {steps // 2:,} / {steps - 5:,} / at 0",
        figure=f"{middle:.2f} / {last:.2f}",
        target="1.0 within noise",
        reached=max(middle, last) <= max(1.1, noise),
        detail=f"{best['start']:.2f} s at 0 (to {max(taken['start']):.2f}, median {median(taken['start']):.2f}), "
        f"best of {RESUMES}, n = {rounds}",
    )
