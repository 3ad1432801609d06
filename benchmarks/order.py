"""Random against quasi-random order for a file that is larger than memory, as a Markdown table. Needs root.

    python -m benchmarks.order DATA --memory 700 [--window 1024] [--rounds 3]

DATA: a folder with train.beton. Each epoch is read by a process of its own in a memory cgroup of `memory` MB, which
limits the page cache too, with none of the file cached before. The orders take turns. The table has the bytes that
the process read from the disk, from /proc/self/io, over the bytes of the file, and images/s.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Literal

import numpy as np
import tyro

from trainer.data.beton.source import BetonSource
from trainer.data.crop import eval_view
from trainer.data.loader import Loader
from trainer.data.order import epoch_order, train_batches
from trainer.recipe import CenterCrop, QuasiRandom

BATCH = 64
CGROUPS = Path("/sys/fs/cgroup")


def main(
    data: tyro.conf.Positional[Path],
    memory: int,
    stretch: int = 64,
    window: int = 1024,
    rounds: int = 3,
    only: Literal["random", "quasi-random"] | None = None,
) -> None:
    """`only`: read one epoch in this order, in this process, and print its two numbers."""
    file = data / "train.beton"
    if only:
        read_epoch(file, QuasiRandom(stretch=stretch, window=window) if only == "quasi-random" else None)
        return
    found: dict[str, list[tuple[float, float]]] = {"random": [], "quasi-random": []}
    group = limited_group(memory)

    def enter() -> None:
        (group / "cgroup.procs").write_text(str(os.getpid()))

    for _ in range(rounds):
        for order, results in found.items():
            options = ["--memory", str(memory), "--stretch", str(stretch), "--window", str(window), "--only", order]
            words = [sys.executable, "-m", "benchmarks.order", str(data), *options]
            drop(file)
            ended = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True, preexec_fn=enter)
            results.append(tuple(json.loads(ended.stdout)))
    group.rmdir()
    size = file.stat().st_size
    print(f"{file}: {size / 1e6:,.0f} MB, {memory} MB of memory, n = {rounds} epochs in turn")
    print("| order | read from disk / file | images/s, median (range) |\n|---|---|---|")
    for order, results in found.items():
        read, rates = [read / size for read, _ in results], sorted(rate for _, rate in results)
        print(f"| {order} | {median(read):.2f} | {median(rates):.0f} ({rates[0]:.0f} to {rates[-1]:.0f}) |")


def limited_group(memory: int) -> Path:
    """A memory cgroup (v1 or v2) with a limit in MB."""
    old = CGROUPS / "memory"
    group = (old if old.exists() else CGROUPS) / f"benchmarks-order-{os.getpid()}"
    group.mkdir()
    (group / ("memory.limit_in_bytes" if old.exists() else "memory.max")).write_text(str(memory << 20))
    return group


def drop(file: Path) -> None:
    """Takes the file out of the page cache."""
    descriptor = os.open(file, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def read_epoch(file: Path, order: QuasiRandom | None) -> None:
    """Prints [bytes read from the disk, images/s] of one epoch."""
    with Loader(BetonSource(file, check_content=False), workers=2) as loader:
        samples = epoch_order(0, 0, len(loader), quasi_random=order)
        batches = train_batches(samples, first_step=0, micro_batch_size=BATCH, accumulation=1, rank=0, world_size=1)
        view = eval_view(CenterCrop(resolution=128, crop_ratio=1.0))  # of raw images too, all rows are read
        warm_up = loader.batches([np.arange(1)], view, 128)  # compiled code is loaded
        assert len([*warm_up]) == 1
        before, begin = bytes_read(), perf_counter()
        ahead = order and max(1, order.window // BATCH)
        images = sum(len(batch.labels) for batch in loader.batches(batches, view, 128, read_ahead=ahead or None))
        print(json.dumps([bytes_read() - before, images / (perf_counter() - begin)]))


def bytes_read() -> int:
    """Bytes that all threads of this process caused the disk to read."""
    line = next(line for line in Path("/proc/self/io").read_text().splitlines() if line.startswith("read_bytes"))
    return int(line.split()[1])


if __name__ == "__main__":
    tyro.cli(main)
