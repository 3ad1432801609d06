"""Training with pages of 2 MiB beside pages of 4 KiB, as a Markdown table.

    OMP_NUM_THREADS=1 python -m benchmarks.huge_pages [--intervals 24]

Both are `trainer train` on synthetic images, in turn by the second (in_turn.py), with GLIBC_TUNABLES set so that glibc
asks Linux for huge pages, or does not. Needs "madvise" in /sys/kernel/mm/transparent_hugepage/enabled.
"""

import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import tyro

from benchmarks.in_turn import in_turn
from benchmarks.loop import HUGE_PAGES, ours, small
from benchmarks.table import Row, markdown, pairs_row
from trainer.process.huge_pages import TUNABLE
from trainer.recipe import Recipe

SMALL_PAGES = {"GLIBC_TUNABLES": f"{TUNABLE}=0"}


def main(intervals: int = 24) -> None:
    resnet20, resnet18 = small("resnet20_he2015", 10, 128), small("resnet18_he2015", 10, 32)
    rows = [
        row("ResNet-20 at 32 px, batch 128, bf16", resnet20, 10, intervals),
        row("ResNet-20 at 32 px, batch 128, fp32", replace(resnet20, precision="fp32"), 5, intervals),
        row("ResNet-18 at 224 px, batch 32, bf16", resnet18, 3, intervals),
    ]
    print(markdown(rows, "Training with huge pages / without"))


def row(what: str, recipe: Recipe, steps: int, intervals: int) -> Row:
    """`steps`: of one interval."""
    images = steps * recipe.global_batch_size
    with tempfile.TemporaryDirectory() as folder:
        programs = {
            name: partial(ours, recipe, f"synthetic:{2 * intervals * images}", Path(folder) / name, steps)
            for name in ("huge", "small")
        }
        seconds = in_turn(programs, intervals, {"huge": HUGE_PAGES, "small": SMALL_PAGES})
    return pairs_row(what, seconds["huge"], seconds["small"], images, 1.0)


if __name__ == "__main__":
    tyro.cli(main)
