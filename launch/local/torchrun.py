"""torchrun as a function: starts processes on this machine, forwards signals to them, and returns how they ended.

As a command it would print a traceback of its own and exit with 1 whatever the processes' codes are.
"""

import logging
import os
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from signal import Signals

from trainer.distributed.cpus import usable_cpus
from trainer.errors import EXIT_RETRY
from trainer.process.huge_pages import huge_page_variables

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR2)
_PATIENCE = "600"  # s that it waits, after a signal, for the processes to save


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How the processes ended."""

    summary: str = "ended"
    code: int = 0
    """exit code of the process that failed first; negative after a signal; 0 if none failed"""
    signal: Signals | None = None
    """that this process received and forwarded"""


def torchrun(processes: int, entry: list[str], run_id: str) -> Ended:
    """Runs `python ENTRY` in this number of processes with torchrun's variables set, and waits for them."""
    os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = _PATIENCE
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cpus() // processes)))
    os.environ.update(huge_page_variables())
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.disable(logging.CRITICAL)  # it would repeat what the processes print
    heard = [number.name for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]  # nohup's is not
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=f"{socket.gethostname()}-{run_id}",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        signals_to_handle=",".join(heard),
    )
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        elastic_launch(config, sys.executable)(*entry)
    except SignalException as error:
        return Ended(summary=f"stopped by {error.sigval.name}", signal=error.sigval)
    except ChildFailedError as error:
        rank, code = first_failure(
            {rank: (failure.timestamp, failure.exitcode) for rank, failure in error.failures.items()}
        )
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        return Ended(summary=f"rank {rank} {how}", code=code)
    finally:
        for number, handler in before.items():  # it leaves its own ones, which raise
            signal.signal(number, handler)
    return Ended()


def first_failure(failures: Mapping[int, tuple[int, int]]) -> tuple[int, int]:
    """Rank and code of the process that failed first. `failures`: time and code of those that torchrun found together.

    Processes that have lost a peer end with EXIT_RETRY, so one that ended otherwise comes before them.
    """
    rank = min(failures, key=lambda rank: (failures[rank][1] == EXIT_RETRY, failures[rank][0]))
    return rank, failures[rank][1]
