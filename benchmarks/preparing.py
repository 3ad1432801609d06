"""`prepare` beside FFCV's own DatasetWriter: the same photographs, options and processes, in turn, as a Markdown table.

    python -m benchmarks.preparing PHOTOS [--images 1000] [--rounds 5]

PHOTOS: a folder of class folders of photographs, only read; they are repeated where there are fewer than `images`.
Each round starts each command once. `writing` is the call that writes one file, with all its checks, in a process that
has imported everything; `command` is from the start of the interpreter to its end. CPU seconds are what to compare
where other programs run.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np
import tyro

OURS = """
import os, sys, time
from pathlib import Path
from trainer.data.beton.images import Images
from trainer.data.beton.manifest import DataOrigin, Encoding
from trainer.data.sources.splits import both_splits, of_files
from trainer.data.beton.writer import write_beton
from trainer.data.sources import kinds
import numpy as np
folder, out, workers = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
files = sorted(path for path in folder.rglob("*") if path.is_file())
classes = sorted({path.parent.name for path in files})
labels = np.array([classes.index(path.parent.name) for path in files])
found = of_files(files, labels, [str(path) for path in files])
images = both_splits(found, found, classes, DataOrigin(kind="folder", name="photos"), Encoding())["train"]
since, cpu = time.perf_counter(), sum(os.times()[:4])
write_beton(out, images, Encoding(), workers=workers)
print("seconds", time.perf_counter() - since, sum(os.times()[:4]) - cpu)
"""
THEIRS = """
import multiprocessing, os, sys, time
from ffcv.fields import IntField, RGBImageField
from ffcv.writer import DatasetWriter
from torchvision.datasets import ImageFolder
folder, out, workers = sys.argv[1], sys.argv[2], int(sys.argv[3])
dataset = ImageFolder(folder)
image = RGBImageField(write_mode="proportion", max_resolution=500, compress_probability=0.5, jpeg_quality=90)
since, cpu = time.perf_counter(), sum(os.times()[:4])
DatasetWriter(out, {"image": image, "label": IntField()}, num_workers=workers).from_indexed_dataset(dataset)
seconds = time.perf_counter() - since
for process in multiprocessing.active_children():  # it does not wait for their end
    process.join()
print("seconds", seconds, sum(os.times()[:4]) - cpu)
"""


def main(photos: tyro.conf.Positional[Path], images: int = 1000, rounds: int = 5) -> None:
    workers = len(os.sched_getaffinity(0))
    seconds: dict[str, list[tuple[float, float, float]]] = {"trainer prepare": [], "FFCV's DatasetWriter": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "photos"
        repeat(photos, folder, images)
        for _ in range(rounds):
            for (writer, found), code in zip(seconds.items(), (OURS, THEIRS), strict=True):
                found.append(timed(code, folder, Path(name) / "out.beton", workers))
                print(writer, found[-1], file=sys.stderr)
                for left in Path(name).glob("out.beton*"):
                    left.unlink()
    print(f"{images:,} photographs of {photos.name}, {workers} processes, median of {rounds} rounds\n")
    print("| | writing, s | images/s while writing | CPU seconds of writing | command, s |")
    print("|---|---|---|---|---|")
    medians = {writer: np.median(found, axis=0).tolist() for writer, found in seconds.items()}
    for writer, (writing, cpu, command) in medians.items():
        print(f"| {writer} | {writing:.1f} | {images / writing:.0f} | {cpu:.1f} | {command:.1f} |")
    ours, theirs = medians.values()
    ratios = [f"{their / our:.2f}" for our, their in zip(ours, theirs, strict=True)]
    print(f"| times as fast | {ratios[0]} | | {ratios[1]} | {ratios[2]} |")


def repeat(photos: Path, folder: Path, images: int) -> None:
    """Class folders with links to photographs, `images` in all."""
    files = sorted(path for path in photos.rglob("*") if path.is_file())
    for number in range(images):
        file = files[number % len(files)]
        link = folder / file.parent.name / f"{number // len(files)}-{file.name}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file.absolute())


def timed(code: str, folder: Path, out: Path, workers: int) -> tuple[float, float, float]:
    """Seconds of the writing call, CPU seconds of it and its processes, and seconds of the whole command."""
    since = perf_counter()
    words = [sys.executable, "-c", code, str(folder), str(out), str(workers)]
    ended = subprocess.run(words, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    total = perf_counter() - since
    writing, cpu = ended.stdout.rpartition("seconds")[2].split()
    return float(writing), float(cpu), total


if __name__ == "__main__":
    tyro.cli(main)
