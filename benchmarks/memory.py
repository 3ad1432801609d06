"""What the loader of a rank needs in memory."""

from pathlib import Path
from typing import NamedTuple

from benchmarks.table import Row, in_a_process

EPOCHS = (1, 30, 60)  # after which memory is looked at


class Memory(NamedTuple):
    """Of a process that reads and does not train, in MB."""

    before: float
    after: list[float]  # each of EPOCHS


def loader_memory(data: Path, batch: int, workers: int) -> Memory:
    """Resident memory before a loader is opened, and while it reads 224 px crops."""
    import torch  # noqa: F401  # its own memory is none of the loader's

    from trainer.data.crop import train_view
    from trainer.data.formats import open_beton
    from trainer.data.loader import Loader
    from trainer.data.order import epoch_order, train_batches
    from trainer.process.linux import proc_bytes
    from trainer.recipe import RandomResizedCrop

    before = proc_bytes("VmRSS") / 1e6
    after = []
    with Loader(open_beton(data, check_content=False), workers=workers) as loader:
        for epoch in range(max(EPOCHS)):
            order = epoch_order(0, epoch, len(loader))
            samples = train_batches(order, first_step=0, micro_batch_size=batch, accumulation=1, rank=0, world_size=1)
            for _ in loader.batches(samples, train_view(RandomResizedCrop(resolution=224), True, 0, epoch), 224):
                pass
            if epoch + 1 in EPOCHS:
                after.append(proc_bytes("VmRSS") / 1e6)
    return Memory(before, after)


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
