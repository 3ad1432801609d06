"""Class folders, and wheels alone, beside torchvision's reference pipeline: in time and in CPU time.

    python -m benchmarks.folders PHOTOS [--rounds 7] [--batches 4]        # writes up to 1 GB, for a while

PHOTOS: a folder of class folders of photographs, only read. All loaders read JPEGs of at most 500 px with as many
threads or processes as there are CPUs. In each round each reads the same number of batches in turn, while the others
wait. Time is measured from when the batches are read that were ready. CPU time is that of all threads and processes of
a loader, from full queues to full queues: no epoch ends meanwhile, before which neither loader would read ahead. On a
machine that is shared it varies less than time does.
"""

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from time import perf_counter, sleep

import tyro

from benchmarks.loaders import BATCH, our_loader, our_loader_from_wheels, torchvision_io, write_data
from trainer.commands.benchmark.peers import Job, torchvision_pipeline
from trainer.recipe import RandomResizedCrop

REFERENCE = "reference pipeline (PIL, ToTensor, Normalize)"
READERS: dict[str, tuple[Callable[[Job], Iterator[int]], str]] = {
    "class folders": (our_loader, "stored"),
    "class folders, wheels alone": (our_loader_from_wheels, "stored"),
    "`.beton` with tiles": (our_loader, "tiles"),
    "`.beton` with tiles, wheels alone": (our_loader_from_wheels, "tiles"),
    "torchvision.io and its transforms on tensors": (torchvision_io, "stored"),
    REFERENCE: (torchvision_pipeline, "stored"),
}
_READY = 4  # batches in the queues of either kind of loader, with 2 workers


def main(photos: tyro.conf.Positional[Path], rounds: int = 7, batches: int = 4) -> None:
    """Measures and prints."""
    count = sum(1 for _ in photos.glob("*/*"))
    if not count:
        raise SystemExit(f"error: {photos} has no class folders with photographs")
    most_read = (3 * _READY + rounds * (_READY + batches) + _READY) * BATCH
    repeats = -(-most_read // count)
    with tempfile.TemporaryDirectory() as name:
        with contextlib.redirect_stdout(sys.stderr):
            data = write_data(photos, Path(name), repeats)
        loaders = {what: _Loader(read, data[kind]) for what, (read, kind) in READERS.items()}
        try:
            before = os.getloadavg()[0]
            read = {what: [] for what in loaders}  # type: dict[str, list[tuple[float, float]]]
            for _ in range(rounds):
                for what, loader in loaders.items():
                    read[what].append(loader.read(batches))
        finally:
            for loader in loaders.values():
                loader.close()
    print(f"n = {rounds} rounds of {batches * BATCH} images; load average {before:.1f} to {os.getloadavg()[0]:.1f}\n")
    print("| | CPU ms for an image | images/s | CPU time: times less (rounds) | time: times as fast (rounds) |")
    print("|---|---|---|---|---|")
    for what, pairs in read.items():
        cpu, seconds = (sorted(pair[part] for pair in pairs) for part in (0, 1))
        print(f"| {what} | {1e3 * median(cpu):.2f} | {1 / median(seconds):.0f} |", end="")
        for part in (0, 1):
            ratios = [theirs[part] / ours[part] for ours, theirs in zip(pairs, read[REFERENCE], strict=True)]
            print(f" {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |", end="")
        print()


class _Loader:
    """A loader in a process of its own, which reads only when it is asked."""

    def __init__(self, read: Callable[[Job], Iterator[int]], source: Path) -> None:
        job = Job(
            source=source, batch_size=BATCH, workers=len(os.sched_getaffinity(0)),
            crop=RandomResizedCrop(resolution=224), flip=True, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225),
        )  # fmt: skip
        context = get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, read, job))
        self._process.start()
        theirs.close()
        self._connection.recv()
        self._used = self._when_idle()

    def read(self, batches: int) -> tuple[float, float]:
        """CPU seconds and seconds for an image."""
        self._connection.send(batches)
        seconds = self._connection.recv()
        before, self._used = self._used, self._when_idle()
        return (self._used - before) / ((_READY + batches) * BATCH), seconds / (batches * BATCH)

    def close(self) -> None:
        self._connection.close()
        self._process.join(5)
        self._process.kill()

    def _when_idle(self) -> float:
        """CPU seconds of the process and its children, once its queues are full."""
        last, quiet = -1.0, 0
        while quiet < 4:
            sleep(0.2)
            now = _cpu_seconds(self._process.pid or 0)
            quiet = quiet + 1 if now - last < 0.002 else 0
            last = now
        return last


def _serve(connection: Connection, read: Callable[[Job], Iterator[int]], job: Job) -> None:
    batches = read(job)
    for _ in range(3 * _READY):
        next(batches)
    connection.send(None)
    with contextlib.suppress(EOFError):
        while True:
            count = connection.recv()
            for _ in range(_READY):
                next(batches)
            begin = perf_counter()
            for _ in range(count):
                next(batches)
            connection.send(perf_counter() - begin)
    os._exit(0)  # without waiting for the batches ahead


def _cpu_seconds(process: int) -> float:
    """Of all threads of a process and of its children (Linux, proc(5))."""
    total, waiting = 0, [process]
    while waiting:
        threads = Path(f"/proc/{waiting.pop()}/task")
        for thread in threads.iterdir():
            total += int((thread / "schedstat").read_text().split()[0])
            waiting += map(int, (thread / "children").read_text().split())
    return total / 1e9


if __name__ == "__main__":
    tyro.cli(main)
