"""A watchdog over all ranks: it names a rank that hangs within a bounded time, and ends the run.

A collective waits for its slowest rank without knowing which one that is. So a thread of every rank publishes the
rank's heartbeat and progress in torch's store, and reads those of others: rank 0 reads all, the others read rank 0. The
main thread may be blocked forever, so the watchdog's thread ends the process: with one line and exit code 75. It does
so too where the main thread waits for its own GPU, or for images, for too long.

The same messages carry the requests to stop, and rank 0's answer to them (see horizon.py).
"""

import contextlib
import json
import os
import threading
import time
from datetime import timedelta
from typing import Any, NamedTuple, Protocol, Self

import torch.distributed as dist

from trainer.distributed.horizon import Horizon
from trainer.distributed.parent import CONTINUES, end_now
from trainer.distributed.process_group import World, all_end
from trainer.distributed.run_ahead import waits_since
from trainer.distributed.stop import StopSignal
from trainer.errors import Stopped, first_few
from trainer.process.units import rough_duration

COMPUTING, EXCHANGING = "computing", "exchanging gradients"
_MAX_INTERVAL = 2.0  # s between two checks
_STORE_TIMEOUT = timedelta(seconds=60)
_VERDICT, _HORIZON = "verdict", "horizon"
_EXCHANGES_PER_SECOND = 500  # of all ranks together, with the store


class ImageQueue(Protocol):
    """What the watchdog needs to know of a Loader."""

    waits_since: float | None  # when the main thread began to wait for images, by time.monotonic()


class Report(NamedTuple):
    """What a rank publishes about itself."""

    heartbeat: int  # counts the reports; when it stops, the process is stopped or gone
    progress: int  # counts the phases that the main thread has entered
    step: int
    phase: str
    left: bool = False  # the loop is over: no longer watched
    stop: bool = False  # it has received a signal to stop


class PeerStatus(NamedTuple):
    """A rank's latest report, and when its heartbeat and progress last changed, in seconds of a monotonic clock."""

    report: Report
    heartbeat_at: float
    progress_at: float


def find_stalled_ranks(peers: dict[int, PeerStatus], now: float, heartbeat_timeout: float, behind: float) -> str | None:
    """One line that names the ranks which hold up the run; None if there are none.

    `heartbeat_timeout`: seconds without a heartbeat after which a rank counts as lost. `behind`: the same for a rank
    that has a heartbeat but makes no progress while others wait for it.
    """
    watched = {rank: peer for rank, peer in peers.items() if not peer.report.left}
    if lost := [rank for rank, peer in watched.items() if now - peer.heartbeat_at > heartbeat_timeout]:
        waited = now - min(watched[rank].heartbeat_at for rank in lost)
        return f"{_ranks(lost)} not answered for {rough_duration(waited)}: stopped, or its machine is gone; {CONTINUES}"
    if not watched or now - max(peer.progress_at for peer in watched.values()) <= behind:
        return None
    progress = {rank: peer.report.progress for rank, peer in watched.items()}
    last = [rank for rank, phases in progress.items() if phases == min(progress.values())]
    report, waited = watched[last[0]].report, now - watched[last[0]].progress_at
    if len(last) < len(watched):  # else all evaluate, save, or are in a collective, which has a timeout of its own
        where = f"in step {report.step + 1} for {rough_duration(waited)}"
        return f"{_ranks(last)} hung {where}, the others wait for it; {CONTINUES}"
    return None


class Watchdog:
    """Watches all ranks while its block runs. A context manager; all ranks enter and leave it together."""

    def __init__(
        self, world: World, stop_signal: StopSignal, heartbeat_timeout_minutes: float, timeout_minutes: float
    ) -> None:
        self._world, self._stop_signal = world, stop_signal
        self._heartbeat_timeout = 60 * heartbeat_timeout_minutes
        self._timeout = 60 * timeout_minutes  # of the collectives, except those that a CUDA graph replays
        self._behind = 60 * timeout_minutes * 0.9  # before the collectives time out, which name no rank
        self._storage = 60 * timeout_minutes * 0.8  # before the waiting rank is itself reported as behind
        self._loaders: tuple[ImageQueue, ...] = ()
        self._interval = min(_MAX_INTERVAL, self._heartbeat_timeout / 10)
        self._exchange_interval = min(self._interval, max(0.2, world.size / _EXCHANGES_PER_SECOND))
        self._heartbeat = 0
        self._progress = (0, 0, EXCHANGING)
        self._store_answered_at = time.monotonic()
        self._peers: dict[int, PeerStatus] = {}
        self._ends_alone = False
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def at(self, step: int, phase: str) -> None:
        """Records that the main thread enters this phase, after `step` complete steps."""
        self._progress = (self._progress[0] + 1, step, phase)

    def follow(self, *loaders: ImageQueue) -> None:
        """From now on, ends the run also when no images arrive from these loaders."""
        self._loaders = loaders

    def __enter__(self) -> Self:
        work = [self._check]
        if self._world.size > 1:
            self._store = _store()
            self._publish()
            if self._world.is_main:
                self._store.set(_VERDICT, "")
                self._store.set(_HORIZON, json.dumps(Horizon()))
            dist.barrier(group=self._world.gloo)
            work.append(self._exchange)
        self._store_answered_at = time.monotonic()
        self._threads = [threading.Thread(target=part, name="watch", daemon=True) for part in work]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if kind in (None, Stopped) and self._world.size > 1:
            dist.barrier(group=self._world.gloo)  # rank 0 may host the store: it must leave last
        self._ends_alone = not all_end(self._world.size, error)
        self._stop.set()
        self._stop_signal.waiting.set()  # wakes _exchange()
        for thread in self._threads:
            thread.join(timeout=2 * _MAX_INTERVAL)  # one may still wait for a store that is gone; it is a daemon

    def _check(self) -> None:
        """Decides by the clock alone, and never waits for a peer or the store."""
        checked = started = time.monotonic()
        while not self._stop.wait(self._interval):
            now = time.monotonic()
            if (gap := now - checked) > 5 * self._interval:  # this process itself was stopped: no fault of the others
                self._peers = {
                    rank: PeerStatus(report, heartbeat_at + gap, progress_at + gap)
                    for rank, (report, heartbeat_at, progress_at) in self._peers.items()
                }
                self._store_answered_at += gap
                started = now
            checked = now
            for since in [loader.waits_since for loader in self._loaders]:
                if since is not None and (waited := now - max(since, started)) > self._storage:
                    what = f"rank {self._world.rank} has waited for images for {rough_duration(waited)}"
                    end_now(f"{what}: is the storage of --data reachable there? {CONTINUES}")
            if (since := waits_since()) is not None and (waited := now - max(since, started)) > self._timeout:
                what = f"rank {self._world.rank} has waited for its GPU for {rough_duration(waited)}"
                end_now(f"{what}: the GPU, or an exchange with other GPUs, hangs; {CONTINUES}")
            if self._world.size == 1:
                self._heartbeat += 1
                self._update_peers({0: self._report()}, now)
            elif now - self._store_answered_at > self._heartbeat_timeout:
                keeper = "torchrun" if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" else "rank 0"
                limit = rough_duration(self._heartbeat_timeout)
                end_now(f"{keeper} has not answered rank {self._world.rank} for {limit}; {CONTINUES}")
            if verdict := find_stalled_ranks(self._peers, now, self._heartbeat_timeout, self._behind):
                if self._world.is_main and self._world.size > 1:  # in a thread: the store itself may be what hangs
                    publishing = threading.Thread(target=self._store.set, args=(_VERDICT, verdict), daemon=True)
                    publishing.start()
                    publishing.join(timeout=2 * _MAX_INTERVAL)
                end_now(verdict if self._world.rank <= 1 else None)  # rank 1 prints it when rank 0 is the one stalled

    def _exchange(self) -> None:
        """Publishes this rank's reports and reads those of others. The store may block this thread for long."""
        others = range(self._world.size) if self._world.is_main else range(1)
        names = [*(f"rank {rank}" for rank in others), _VERDICT, _HORIZON]
        while not self._stop.is_set():
            if self._stop_signal.waiting.wait(self._exchange_interval):  # soon, but not at once
                self._stop.wait(self._exchange_interval / 20)
            self._heartbeat += 1
            try:
                self._publish()
                *published, verdict, horizon = self._store.multi_get(names)
                reports = {rank: Report(*json.loads(text)) for rank, text in zip(others, published, strict=True)}
                self._stop_signal.follow(self._next_horizon(reports, Horizon(*json.loads(horizon))))
            except RuntimeError:  # the store is gone: _check() notices that it does not answer
                continue
            self._store_answered_at = time.monotonic()
            if verdict and not self._world.is_main:
                end_now(None)  # rank 0 prints it
            self._update_peers(reports, self._store_answered_at)
        if not self._ends_alone:  # else the others have to miss it: in NCCL they may wait for it
            with contextlib.suppress(RuntimeError):
                self._publish(left=True)

    def _next_horizon(self, reports: dict[int, Report], published: Horizon) -> Horizon:
        """What rank 0 has published; on rank 0, what it publishes now."""
        if not self._world.is_main:
            return published
        following = self._stop_signal.next_horizon(
            self._exchange_interval, stop=any(report.stop for report in reports.values())
        )
        if following != published:
            self._store.set(_HORIZON, json.dumps(following))
        return following

    def _report(self, left: bool = False) -> Report:
        return Report(self._heartbeat, *self._progress, left, self._stop_signal.requested)

    def _publish(self, left: bool = False) -> None:
        self._store.set(f"rank {self._world.rank}", json.dumps(self._report(left)))

    def _update_peers(self, reports: dict[int, Report], now: float) -> None:
        old = self._peers
        self._peers = {
            rank: PeerStatus(
                report,
                old[rank].heartbeat_at if rank in old and old[rank].report.heartbeat == report.heartbeat else now,
                old[rank].progress_at if rank in old and old[rank].report.progress == report.progress else now,
            )
            for rank, report in reports.items()
        }


def _store() -> Any:
    """A separate connection to the ranks' store: the main thread may block that of the process groups."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(host, port, is_master=False, timeout=_STORE_TIMEOUT)  # type: ignore[attr-defined]
    return dist.PrefixStore(f"watch {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)  # type: ignore[attr-defined]


def _ranks(ranks: list[int]) -> str:
    if len(ranks) == 1:
        return f"rank {ranks[0]} has"
    return f"ranks {first_few([*map(str, ranks)], 8)} have"
