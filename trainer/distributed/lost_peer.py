"""A lost peer: one line from one rank, and all ranks end at once.

Left alone, each rank notices the loss when its neighbour has ended, one after another, and each reports it. So the
ranks' store counts the reports: the first rank prints its line, and the count wakes a thread of every other rank.
"""

import os
import socket
import sys
import threading
import time
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from trainer.distributed.parent import end_now

_PATIENCE = timedelta(seconds=1)  # for an answer of the store
_SAVE = 60.0  # s in which rank 0 may complete a checkpoint
_A_WEEK = timedelta(days=7)  # a wait cannot be endless
_REPORTS = "reports"

# of this process
_has_left = threading.Event()
_has_heard = threading.Event()
_thread: threading.Thread | None = None


def listen(rank: int, timeout: timedelta) -> None:
    """From now on this process ends when any rank has reported a lost peer, until leave() is called.

    Raises OSError or RuntimeError where the store does not answer within `timeout`.
    """
    global _thread
    _thread = threading.Thread(target=_listen, args=(_store(timeout), rank), name="lost peer", daemon=True)
    _thread.start()


def leave() -> None:
    """From now on this process ends by itself, with an exit code of its own."""
    _has_left.set()


def report(message: str) -> None:
    """Prints `message`, unless a different rank has reported the loss."""
    if "MASTER_ADDR" not in os.environ or "MASTER_PORT" not in os.environ:
        is_first = True
    else:
        try:
            is_first = not _has_heard.is_set() and _store(_PATIENCE).add(_REPORTS, 1) == 1
        except (OSError, RuntimeError, ValueError):  # the store has ended with rank 0: killed, or after its report
            if _thread:
                _thread.join(_PATIENCE.total_seconds())  # what the store sent before its end has arrived then
            is_first = _reports_the_loss_of_rank_0() and not _has_heard.is_set()
    if is_first:
        print(f"error: {message}", file=sys.stderr, flush=True)


def _listen(store: Any, rank: int) -> None:
    while not _has_heard.is_set():
        try:
            store.wait([_REPORTS], _A_WEEK)
        except dist.DistStoreError:
            continue
        except RuntimeError:  # the store has ended, with rank 0 or torchrun
            return
        _has_heard.set()
    if rank == 0:  # it alone writes
        time.sleep(_SAVE)
    if not _has_left.is_set():
        end_now(None)


def _store(timeout: timedelta) -> Any:
    """A connection to the ranks' store. Raises OSError where none listens: TCPStore itself would retry, and log it."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    socket.create_connection((address, port), timeout.total_seconds()).close()
    store = dist.TCPStore(address, port, is_master=False, timeout=timeout)  # type: ignore[attr-defined]
    start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return dist.PrefixStore(f"lost peer {start}", store)  # type: ignore[attr-defined]


def _reports_the_loss_of_rank_0() -> bool:
    """Of several machines the first rank of the second one: the loss may be that of a machine."""
    size, local_size = (int(os.environ.get(name, "1")) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    return os.environ.get("RANK") == str(local_size if local_size < size else 1)
