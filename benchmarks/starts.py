"""From the command to the first step, and from a checkpoint's position to the first batch."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.table import Row, in_a_process, seconds_row

PATIENCE = 300.0  # s
IMAGES = 1_281_167  # ImageNet's
RESUMES = 12  # times each position is resumed at


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


def seconds_to_first_batch(first_steps: tuple[int, ...]) -> list[float]:
    """Of an epoch of ImageNet's size, entered at each of the steps in turn: order, draws and the first batch of 256.

    In seconds of CPU: there is nothing in it to wait for but other processes.
    """
    from trainer.data.crop import train_view
    from trainer.data.loader import Loader
    from trainer.data.order import epoch_order, train_batches
    from trainer.data.synthetic import SyntheticSource
    from trainer.recipe import RandomResizedCrop

    view = train_view(RandomResizedCrop(resolution=224), True, 0, 1)
    best = [float("inf")] * len(first_steps)
    with Loader(SyntheticSource(IMAGES, 1000, 224), workers=1) as loader:
        for _ in range(RESUMES):
            for number, step in enumerate(first_steps):
                start = time.process_time()
                samples = train_batches(
                    epoch_order(0, 1, len(loader)),
                    first_step=step,
                    micro_batch_size=256,
                    accumulation=1,
                    rank=0,
                    world_size=1,
                )
                batches = loader.batches(samples, view, 224)
                next(batches)
                best[number] = min(best[number], time.process_time() - start)
                batches.close()  # type: ignore[attr-defined]
    return best


def resume_row() -> Row:
    steps = IMAGES // 256
    middle, end = steps // 2, steps - 5
    start, *later = in_a_process(seconds_to_first_batch, (0, middle, end))
    ratios = [seconds / start for seconds in later]
    return Row(
        what=f"first batch of an epoch of {IMAGES:,} images, entered at step {middle:,} / {end:,} / at 0, in CPU time",
        figure=" / ".join(f"{ratio:.2f}" for ratio in ratios),
        target="1.0 within noise",
        reached=max(ratios) <= 1.1,
        detail=f"{start:.2f} s of CPU at 0, best of n = {RESUMES} in turn",
    )
