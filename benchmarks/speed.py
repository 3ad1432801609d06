"""Every ratio of docs/performance.md that needs no GPU, by one command, as a Markdown table.

    python -m benchmarks.speed PHOTOS --cifar CIFAR [--only loader loop ...] [--json FILE]

PHOTOS: a folder of class folders of photographs (196 of ImageNet for the table in the docs); CIFAR: CIFAR-10 as class
folders train/ and test/. Both are only read. Everything is measured in turn, several rounds, each in processes of its
own; ratios are of the best rounds, with the range of the rounds' own ratios beside them. Programs that train run in
turn by the second, and the median pair is printed. Nothing else should run.
"""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Literal

import tyro

from benchmarks.loaders import loader_rows, write_data
from benchmarks.loop import end_to_end_rows, loop_rows, ranks_row
from benchmarks.memory import memory_row
from benchmarks.starts import resume_row, start_rows
from benchmarks.table import Row, as_json, line, markdown
from trainer.data.beton.prepare import SMALL_IMAGES, prepare_folder
from trainer.distributed import process_group
from trainer.run.environment import environment
from trainer.settings import TrainSettings

Part = Literal["loader", "loop", "imagenet", "cifar", "start", "resume", "ranks", "memory"]
PARTS: tuple[Part, ...] = ("loader", "loop", "imagenet", "cifar", "start", "resume", "ranks", "memory")


def main(
    photos: tyro.conf.Positional[Path],
    cifar: Path | None = None,
    only: tuple[Part, ...] = PARTS,
    rounds: int = 4,
    seconds: float = 4.0,
    intervals: int = 20,
    repeats: int = 4,
    json: Path | None = None,
) -> None:
    """Measures and prints.

    `seconds`: of a loader in a round; `intervals`: of two training programs that run in turn by the second
    (in_turn.py); `repeats`: of PHOTOS.
    """
    load = os.getloadavg()[0]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(sys.stderr):
        data = write_data(photos, Path(name), repeats)
        small = _some_of_cifar(cifar, Path(name)) if cifar else None
        classes = len(list(photos.glob("*/")))
        for row in _rows(only, data, small, classes, rounds=rounds, seconds=seconds, intervals=intervals):
            rows.append(row)
            print(line(row))  # a quarter of an hour may pass until the next
    heading, hardware = _environment_rows(photos, rounds, load)
    print(markdown(rows, heading))
    if json:
        as_json(rows, hardware, json)


def _rows(
    only: tuple[Part, ...],
    data: dict[str, Path],
    small: Path | None,
    classes: int,
    *,
    rounds: int,
    seconds: float,
    intervals: int,
) -> Iterator[Row]:
    """Of the parts that are wanted, as they are measured."""
    workers = len(os.sched_getaffinity(0))
    if "loader" in only:
        yield from loader_rows(data, workers=workers, rounds=rounds, seconds=seconds)
    if "loop" in only:
        yield from loop_rows(intervals)
    if "imagenet" in only:
        of = ("resnet18_he2015", classes, 32, data["default"].parent, data["original"])
        yield from end_to_end_rows(*of, target=3.0, intervals=intervals, workers=workers)
    if "cifar" in only and small:
        of = ("resnet20_he2015", 10, 128, small / "beton", small / "train")
        yield from end_to_end_rows(*of, target=3.5, intervals=intervals, workers=workers)
    if "start" in only and small:
        yield from start_rows(small / "beton", "resnet20_he2015", rounds)
    if "resume" in only:
        yield resume_row()
    if "ranks" in only and small:
        yield ranks_row(small / "beton", intervals)
    if "memory" in only:
        yield memory_row(data["tiles"], 64, workers)


def _some_of_cifar(cifar: Path, folder: Path) -> Path:
    """15,000 training images, as links and as .beton: an epoch of a quarter of a minute."""
    for split, count in (("train", 1500), ("test", 50)):
        for images in sorted((cifar / split).iterdir()):
            for image in sorted(images.iterdir())[:count]:
                link = folder / "cifar" / split / images.name / image.name
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(image.absolute())
    prepare_folder(folder / "cifar", folder / "cifar" / "beton", SMALL_IMAGES, kind="cifar10")
    return folder / "cifar"


def _environment_rows(photos: Path, rounds: int, load: float) -> tuple[str, dict[str, object]]:
    """Commit, hardware, n and method: what makes the numbers results."""
    with process_group.initialize("cpu", timeout_minutes=1) as world:
        found = environment(world, TrainSettings(data="", run_dir=Path()))
    found |= {"date": date.today().isoformat(), "load": load, "rounds": rounds}
    images = len(list(photos.glob("*/*")))
    return (
        f"{found['date']}, commit {found['commit']}, {found['cpus']} cores of {found['cpu']}, load average before "
        f"{load:.1f}; torch {found['packages']['torch']}; {images} photographs; n = {rounds} rounds in turn, the best "
        "round of each, in brackets the ratios of single rounds.",
        found,
    )


if __name__ == "__main__":
    tyro.cli(main)
