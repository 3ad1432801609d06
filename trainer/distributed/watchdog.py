"""Ranks watch one another, so that one that hangs is named within a bounded time and the run ends.

A collective waits for its slowest rank and does not know which that is. So a thread of every rank tells torch's store
how far the rank has come, and reads how far the others have: rank 0 looks at all, the others at rank 0. The main thread
may be blocked for good, so the thread itself ends the process, with exit code 75 and one line.
"""

import contextlib
import json
import os
import threading
import time
from datetime import timedelta
from typing import Any, NamedTuple, Self

import torch.distributed as dist

from trainer.data.loader import Loader
from trainer.distributed.parent import GO_ON, end_now
from trainer.distributed.process_group import World
from trainer.distributed.stop import Stopped

COMPUTING, EXCHANGING = "computes", "waits for the others"
_LONGEST_INTERVAL = 2.0  # s between two looks
_STORE_PATIENCE = timedelta(seconds=60)
_VERDICT = "verdict"


class Report(NamedTuple):
    """What a rank tells of itself."""

    beat: int  # counts what its thread told; no more of them: the process is stopped or gone
    mark: int  # counts the places its main thread was at
    step: int
    place: str
    left: bool = False  # the loop is over: no longer watched


class PeerStatus(NamedTuple):
    """A rank's latest report, and when its beat and its mark changed last, in seconds of a monotonic clock."""

    report: Report
    beat_at: float
    mark_at: float


def find_stalled_ranks(seen: dict[int, PeerStatus], now: float, silent: float, behind: float) -> str | None:
    """One line that names the ranks which keep the run waiting; None where all is well.

    `silent`: seconds after which a rank that no longer reports is given up. `behind`: the same for one that reports but
    does not go on while others wait for it.
    """
    watched = {rank: one for rank, one in seen.items() if not one.report.left}
    if lost := [rank for rank, one in watched.items() if now - one.beat_at > silent]:
        waited = now - min(watched[rank].beat_at for rank in lost)
        return f"{_ranks(lost)} not answered for {_duration(waited)}: stopped, or its machine is gone; {GO_ON}"
    if not watched or now - max(one.mark_at for one in watched.values()) <= behind:
        return None
    marks = {rank: one.report.mark for rank, one in watched.items()}
    last = [rank for rank, mark in marks.items() if mark == min(marks.values())]
    report, waited = watched[last[0]].report, now - watched[last[0]].mark_at
    if len(last) < len(watched):  # else they evaluate, save, or are in a collective, which has a time limit itself
        return f"{_ranks(last)} hung in step {report.step + 1} for {_duration(waited)}, the others wait for it; {GO_ON}"
    return None


class Watchdog:
    """Watches all ranks while its block runs. A context manager, entered and left by all ranks together."""

    def __init__(self, world: World, *, heartbeat_timeout_minutes: float, timeout_minutes: float) -> None:
        self._world = world
        self._silent = 60 * heartbeat_timeout_minutes
        self._behind = 60 * timeout_minutes * 0.9  # before the collectives give up, which know no names
        self._storage = 60 * timeout_minutes * 0.8  # before the rank is found to be behind for it
        self._loaders: tuple[Loader, ...] = ()
        self._interval = min(_LONGEST_INTERVAL, self._silent / 10)
        self._beat = 0
        self._here = (0, 0, EXCHANGING)
        self._answered = time.monotonic()  # the store
        self._seen: dict[int, PeerStatus] = {}
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def at(self, step: int, place: str) -> None:
        """Where the main thread is, after `step` complete steps."""
        self._here = (self._here[0] + 1, step, place)

    def follow(self, *loaders: Loader) -> None:
        """From here on, also ends the run where their images do not come."""
        self._loaders = loaders

    def __enter__(self) -> Self:
        work = [self._look]
        if self._world.size > 1:
            self._store = _store()
            self._tell()
            if self._world.is_main:
                self._store.set(_VERDICT, "")
            dist.barrier(group=self._world.gloo)
            work.append(self._talk)
        self._answered = time.monotonic()
        self._threads = [threading.Thread(target=part, name="watch", daemon=True) for part in work]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind in (None, Stopped) and self._world.size > 1:
            dist.barrier(group=self._world.gloo)  # rank 0 may keep the store: it leaves with the last one
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=2 * _LONGEST_INTERVAL)  # where the store is gone one may go on; a daemon harms nobody

    def _look(self) -> None:
        """Judges by the clock alone, and never waits for anybody."""
        looked = started = time.monotonic()
        while not self._stop.wait(self._interval):
            now = time.monotonic()
            if (gap := now - looked) > 5 * self._interval:  # this process was stopped itself: others are not to blame
                self._seen = {rank: PeerStatus(one[0], one[1] + gap, one[2] + gap) for rank, one in self._seen.items()}
                self._answered += gap
                started = now
            looked = now
            for since in [loader.waits_since for loader in self._loaders]:
                if since is not None and (waited := now - max(since, started)) > self._storage:
                    what = f"rank {self._world.rank} has waited for images for {_duration(waited)}"
                    end_now(f"{what}: is the storage of --data reachable there? {GO_ON}")
            if self._world.size == 1:
                self._beat += 1
                self._note({0: self._report()}, now)
            elif now - self._answered > self._silent:
                keeper = "torchrun" if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" else "rank 0"
                end_now(f"{keeper} has not answered rank {self._world.rank} for {_duration(self._silent)}; {GO_ON}")
            if verdict := find_stalled_ranks(self._seen, now, self._silent, self._behind):
                if self._world.is_main and self._world.size > 1:  # the store may be what does not answer
                    telling = threading.Thread(target=self._store.set, args=(_VERDICT, verdict), daemon=True)
                    telling.start()
                    telling.join(timeout=2 * _LONGEST_INTERVAL)
                end_now(verdict if self._world.rank <= 1 else None)  # rank 1 speaks where rank 0 is silent

    def _talk(self) -> None:
        """Tells the store of this rank and asks it for others. The store may block it for long."""
        others = range(self._world.size) if self._world.is_main else range(1)
        names = [*(f"rank {rank}" for rank in others), _VERDICT]
        while not self._stop.wait(self._interval):
            self._beat += 1
            try:
                self._tell()
                *told, verdict = self._store.multi_get(names)
            except RuntimeError:  # the store has ended: _look() finds that it does not answer
                continue
            self._answered = time.monotonic()
            if verdict and not self._world.is_main:
                end_now(None)  # rank 0 says it
            reports = {rank: Report(*json.loads(text)) for rank, text in zip(others, told, strict=True)}
            self._note(reports, self._answered)
        with contextlib.suppress(RuntimeError):
            self._tell(left=True)

    def _report(self, left: bool = False) -> Report:
        return Report(self._beat, *self._here, left)

    def _tell(self, left: bool = False) -> None:
        self._store.set(f"rank {self._world.rank}", json.dumps(self._report(left)))

    def _note(self, reports: dict[int, Report], now: float) -> None:
        before = self._seen
        self._seen = {
            rank: PeerStatus(
                report,
                before[rank].beat_at if rank in before and before[rank].report.beat == report.beat else now,
                before[rank].mark_at if rank in before and before[rank].report.mark == report.mark else now,
            )
            for rank, report in reports.items()
        }


def _store() -> Any:
    """A connection of its own to the ranks' store: the process groups' own may be blocked by one of them."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(host, port, is_master=False, timeout=_STORE_PATIENCE)  # type: ignore[attr-defined]
    return dist.PrefixStore(f"watch {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)  # type: ignore[attr-defined]


def _ranks(ranks: list[int]) -> str:
    if len(ranks) == 1:
        return f"rank {ranks[0]} has"
    more = f" and {len(ranks) - 8} more" if len(ranks) > 8 else ""
    return f"ranks {', '.join(map(str, ranks[:8]))}{more} have"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"
