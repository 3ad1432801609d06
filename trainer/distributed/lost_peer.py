"""A lost peer: one line from one rank, and all ranks end at once.

Without this, each rank notices the loss only when its neighbour ends, and each prints an error of its own. So the
ranks' store counts the reports: the first rank prints its line, and wakes a thread of every other rank. A rank that
ends by an error of its own wakes them too: NCCL would let them wait for it.

That thread waits for a key of its own rank, so the rank itself can end it. A thread that the store wakes while the
interpreter ends would abort the process: "terminate called without an active exception".
"""

import contextlib
import os
import sys
import threading
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from trainer.distributed.parent import end_now

_PATIENCE = 2.0  # s for an answer of the store
_HEAD_START = 0.5  # s in which the rank that has failed ends before those that it wakes
_SAVE = 60.0  # s in which rank 0 may complete a checkpoint
_A_WEEK = timedelta(days=7)  # a wait cannot be endless
_REPORTS = "reports"

# of this process
_has_left = threading.Event()
_has_finished = threading.Event()
_has_heard = threading.Event()
_thread: threading.Thread | None = None
_counter: Any = None  # connected beforehand: torch logs a store that ends while it connects


def listen(rank: int, timeout: timedelta) -> None:
    """From now on this process ends when any rank has reported a lost peer, until leave() or finish() is called.

    Raises RuntimeError if the store does not answer within `timeout`.
    """
    global _thread, _counter
    _counter = _store(timeout)
    _thread = threading.Thread(target=_listen, args=(_store(timeout), rank), name="lost peer", daemon=True)
    _thread.start()


def leave() -> None:
    """From now on this process ends by itself, with an exit code of its own. It may still report a lost peer."""
    _has_left.set()


def finish(rank: int) -> None:
    """Ends the thread, if there is one. Call it if all ranks leave together."""
    _has_left.set()
    _has_finished.set()
    if _thread:
        with contextlib.suppress(RuntimeError):  # the store has ended, which has woken the thread
            _counter.set(_key(rank), "")
        _thread.join(_PATIENCE)


def report(message: str) -> None:
    """Prints `message`, unless a different rank has reported the loss."""
    if _has_heard.is_set():
        return
    if _counter is None:
        is_first = True
    elif (count := _count()) is not None:
        if is_first := count == 1:
            _wake_all()
    else:  # the store has ended with rank 0: killed, or after its report
        if _thread:
            _thread.join(_PATIENCE)  # what the store sent before its end has arrived then
        is_first = _reports_the_loss_of_rank_0() and not _has_heard.is_set()
    if is_first:
        print(f"error: {message}", file=sys.stderr, flush=True)


def end_others() -> None:
    """Has all other ranks end within seconds, if this one ends alone. Call it when its own error is printed."""
    if not _has_finished.is_set() and _counter is not None and _count() == 1:
        _wake_all()


def _wake_all() -> None:
    with contextlib.suppress(RuntimeError):
        size = int(os.environ["WORLD_SIZE"])
        _counter.multi_set([_key(rank) for rank in range(size)], [""] * size)
        _counter.add(_REPORTS, 0)  # its answer comes after the others were woken: the store may end with this process


def _count() -> int | None:
    """How many ranks have reported the loss, now that this one does; None if the store does not answer."""
    counts: list[int] = []

    def ask() -> None:
        with contextlib.suppress(RuntimeError):
            counts.append(_counter.add(_REPORTS, 1))

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_PATIENCE)
    return counts[0] if counts else None


def _listen(store: Any, rank: int) -> None:
    while True:
        try:
            store.wait([_key(rank)], _A_WEEK)
            break
        except dist.DistStoreError:
            continue
        except RuntimeError:  # the store has ended, with rank 0 or torchrun
            return
    if _has_finished.is_set():
        return
    _has_heard.set()
    # Rank 0 alone writes. The others let the rank that has failed end first: launchers take the first exit code.
    if not _has_left.wait(_SAVE if rank == 0 else _HEAD_START):
        end_now(None)


def _key(rank: int) -> str:
    """What this rank's thread waits for."""
    return f"{_REPORTS} to {rank}"


def _store(timeout: timedelta) -> Any:
    """A connection to the ranks' store."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(address, port, is_master=False, timeout=timeout)  # type: ignore[attr-defined]
    start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return dist.PrefixStore(f"lost peer {start}", store)  # type: ignore[attr-defined]


def _reports_the_loss_of_rank_0() -> bool:
    """True on the first rank of the second machine, if there is one: the whole first machine may be lost."""
    world_size, local_world_size = (int(os.environ.get(name, "1")) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    return os.environ.get("RANK") == str(local_world_size if local_world_size < world_size else 1)
