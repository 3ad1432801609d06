"""Programs in turn by the second: what disturbs a shared machine for longer than that disturbs all of them alike.

Each program runs in a process group of its own, with all its threads and workers, and all but one are stopped.
"""

import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection

Tick = Callable[[bool], None]
_PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>
WARM_UP = 2  # intervals of each that are not counted


def in_turn(
    programs: Mapping[str, Callable[[Tick], None]],
    intervals: int,
    variables: Mapping[str, Mapping[str, str]] | None = None,
) -> dict[str, list[float]]:
    """Seconds of each program's intervals: of one, then of the next, and so on.

    `programs`: functions of modules (or partials) that call tick(True) at the end of each interval, for longer than is
    measured here, and tick(False) at the end of one that is not to count.
    `variables`: of the environment in which a program starts, by the program's name.
    """
    spawn = get_context("spawn")
    started = {}
    for name, program in programs.items():
        here, there = spawn.Pipe(duplex=False)
        process = spawn.Process(target=_child, args=(program, there))
        with _environment((variables or {}).get(name, {})):
            process.start()
        there.close()
        started[name] = (process, here)
        assert here.recv() is None  # it has a process group now
        os.killpg(process.pid or 0, signal.SIGSTOP)
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    try:
        for _ in range(WARM_UP + intervals):
            for name, (process, ticks) in started.items():
                seconds[name].append(_interval(process.pid or 0, ticks))
    finally:
        for process, _ in started.values():
            os.killpg(process.pid or 0, signal.SIGKILL)
            process.join()
    return {name: found[WARM_UP:] for name, found in seconds.items()}


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _interval(group: int, ticks: Connection) -> float:
    """Lets the processes of a group run to the end of an interval that counts."""
    os.killpg(group, signal.SIGCONT)
    counts = False
    while not counts:
        since, counts = time.perf_counter(), ticks.recv()
    took = time.perf_counter() - since
    os.killpg(group, signal.SIGSTOP)
    return took


def _child(program: Callable[[Tick], None], ticks: Connection) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # else a stopped one would outlive the parent for good
    os.setpgid(0, 0)
    ticks.send(None)
    program(ticks.send)
