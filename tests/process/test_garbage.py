"""Garbage is collected at the same steps on all ranks, and at no other time."""

import gc
import weakref

from trainer.process.garbage import EVERY, collect_garbage, collected_by_steps


class Node:
    """An object in a cycle, which only the collector frees."""

    def __init__(self) -> None:
        self.itself = self


def test_garbage_is_collected_after_its_steps_only() -> None:
    assert gc.isenabled()
    with collected_by_steps():
        lost = weakref.ref(Node())
        assert not gc.isenabled()
        assert gc.get_freeze_count() > 0
        collect_garbage(EVERY - 1)
        assert lost() is not None
        collect_garbage(EVERY)
        assert lost() is None
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0
