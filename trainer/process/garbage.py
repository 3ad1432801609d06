"""Runs Python's garbage collection at the same steps on all ranks. Else each rank's pause stalls the others."""

import contextlib
import gc
from collections.abc import Iterator

EVERY = 100  # steps: a pass over what a hundred steps leave takes about a millisecond


@contextlib.contextmanager
def collected_by_steps() -> Iterator[None]:
    """In the block, garbage is collected by collect_garbage() alone. What exists before is not looked through again."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_enabled:
            gc.enable()


def collect_garbage(step: int) -> None:
    """Called after each step, by all ranks together."""
    if step % EVERY == 0 and not gc.isenabled():
        gc.collect()
