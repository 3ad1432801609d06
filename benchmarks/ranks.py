"""Several processes: two on the cores of one, and what each needs in memory."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks.table import Row, in_a_process, ratio_row

LOGGED = 5  # steps: the median of the rates over so many counts
EPOCHS = (1, 30, 60)  # after which memory is looked at


def rate(processes: int, data: Path, recipe: str, words: tuple[str, ...]) -> float:
    """Images/s over all processes, which share the same global batch."""
    with tempfile.TemporaryDirectory() as folder:
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        command = [sys.executable, *(torchrun if processes > 1 else []), "-m", "trainer", "train", recipe]
        command += ["--data", str(data), "--run-dir", folder, "--log-every", str(LOGGED), "--no-pictures", *words]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=1800)
        return logged_rate(Path(folder))


def logged_rate(run: Path) -> float:
    """The median of the images/s that a run has logged, without the first line's."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return float(median([record["images_per_second"] for record in records if record["kind"] == "train"][1:]))


def ranks_row(data: Path, recipe: str, rounds: int, words: tuple[str, ...] = ()) -> Row:
    rates: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for processes, found in rates.items():
            found.append(rate(processes, data, recipe, words))
    return ratio_row("2 processes / 1 process, same cores, same global batch", rates[2], rates[1], 0.95)


class Memory(NamedTuple):
    """Of a process that reads and does not train, in MB."""

    before: float
    after: list[float]  # each of EPOCHS


def loader_memory(data: Path, batch: int, workers: int) -> Memory:
    """Resident memory before a loader is opened, and while it reads 224 px crops."""
    import torch  # noqa: F401  # its own memory is none of the loader's

    from trainer.data import open_beton
    from trainer.data.crop import train_view
    from trainer.data.loader import Loader
    from trainer.data.order import epoch_order, train_batches
    from trainer.recipe import RandomResizedCrop

    before = _resident()
    after = []
    with Loader(open_beton(data, check_content=False), workers=workers) as loader:
        for epoch in range(max(EPOCHS)):
            order = epoch_order(0, epoch, len(loader))
            samples = train_batches(order, first_step=0, micro_batch_size=batch, accumulation=1, rank=0, world_size=1)
            for _ in loader.batches(samples, train_view(RandomResizedCrop(resolution=224), True, 0, epoch), 224):
                pass
            if epoch + 1 in EPOCHS:
                after.append(_resident())
    return Memory(before, after)


def _resident() -> float:
    """MB of this process now."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1000


def memory_row(data: Path, batch: int, workers: int) -> Row:
    found = in_a_process(loader_memory, data, batch, workers)
    grown = [memory - found.before for memory in found.after]
    batches = 5 * batch * 3 * 224**2 / 1e6  # three ahead, one being started and one in the caller's hands
    return Row(
        what=f"memory of a rank's loader beyond the model: batch {batch}, {workers} threads, 224 px",
        figure=" / ".join(f"{megabytes:.0f} MB" for megabytes in grown),
        target="flat from 30 epochs on",
        reached=grown[-1] <= 1.05 * grown[1],
        detail=f"after {', '.join(map(str, EPOCHS))} epochs; {batches:.0f} MB of it batches, the rest the compiled "
        "code, its compiler and what malloc keeps; the file is in the page cache alone, which all ranks share",
    )
