"""The watchdog names a rank that is stopped, hangs or is gone within its timeout, and every process ends."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch

from tests.support.processes import ROOT, SUPPORT, TIMEOUT, is_alive, ranks_of, start_new, start_ranks, wait_for_step
from trainer.__main__ import main
from trainer.distributed import watchdog as module
from trainer.distributed.process_group import World
from trainer.distributed.watchdog import COMPUTING, EXCHANGING, PeerStatus, Report, Watchdog, find_stalled_ranks
from trainer.errors import LocalError, SharedError

RECIPE = str(SUPPORT / "small_recipe.py")
SILENT, BEHIND = 180.0, 1620.0  # s


def words(data: Path, run_dir: Path, *options: str) -> list[str]:
    long = ["--epochs", "500", "--log-every", "2", "--workers", "1"]
    return ["train", RECIPE, "--data", str(data), "--run-dir", str(run_dir), *long, *options]


def peers(*ranks: tuple[float, float, int, str]) -> dict[int, PeerStatus]:
    """For each rank: seconds since its last heartbeat and since its last progress, its progress, its phase."""
    return {
        rank: PeerStatus(Report(7, progress, 119, phase), -heartbeat_age, -progress_age)
        for rank, (heartbeat_age, progress_age, progress, phase) in enumerate(ranks)
    }


def test_ranks_that_continue_are_left_alone() -> None:
    busy = peers((1.0, 1.0, 30, COMPUTING), (2.0, 200.0, 29, EXCHANGING), (179.0, 1.0, 30, EXCHANGING))
    assert find_stalled_ranks(busy, 0.0, SILENT, BEHIND) is None


def test_rank_that_is_unresponsive_is_named_with_its_time() -> None:
    said = find_stalled_ranks(peers((1.0, 1.0, 30, EXCHANGING), (190.0, 1.0, 29, COMPUTING)), 0.0, SILENT, BEHIND)
    assert said is not None and said.startswith(
        "rank 1 has not answered for 3 minutes: stopped, or its machine is gone"
    )


def test_watchdog_many_unresponsive_ranks_are_one_line() -> None:
    said = find_stalled_ranks(peers(*[(190.0, 1.0, 30, EXCHANGING)] * 20), 0.0, SILENT, BEHIND)
    assert said is not None and said.startswith("ranks 0, 1, 2, 3, 4, 5, 6, 7 and 12 more have not answered")


def test_rank_that_is_behind_the_others_is_named() -> None:
    waiting = (1.0, 1700.0, 30, EXCHANGING)
    said = find_stalled_ranks(peers(waiting, (1.0, 1800.0, 29, COMPUTING), waiting), 0.0, SILENT, BEHIND)
    assert said is not None and said.startswith("rank 1 has hung in step 120 for 30 minutes, the others wait for it")


def test_long_evaluation_is_nobodys_fault() -> None:
    """All ranks have entered the last phase of their epoch; the watchdog cannot know who is late for a collective."""
    assert find_stalled_ranks(peers(*[(1.0, 9000.0, 30, EXCHANGING)] * 4), 0.0, SILENT, BEHIND) is None


def test_rank_that_has_left_is_not_missed() -> None:
    gone = {0: PeerStatus(Report(7, 30, 119, EXCHANGING, left=True), -9000.0, -9000.0)}
    assert (
        find_stalled_ranks({**gone, 1: PeerStatus(Report(9, 30, 119, EXCHANGING), -1.0, -9000.0)}, 0.0, SILENT, BEHIND)
        is None
    )


@pytest.mark.parametrize(("error", "left"), [(SharedError("all"), True), (LocalError("one"), False)])
def test_rank_that_ends_alone_is_missed(error: Exception, left: bool) -> None:
    """With NCCL its peers may wait for it, and see no end of it."""
    world = World(rank=1, size=2, local_rank=1, local_size=2, device=torch.device("cpu"), gloo=MagicMock())
    signal: Any = SimpleNamespace(requested=False, waiting=MagicMock())
    watchdog: Any = Watchdog(world, signal, heartbeat_timeout_minutes=3, timeout_minutes=30)
    watchdog._store = MagicMock()
    watchdog.__exit__(type(error), error, None)
    watchdog._exchange()
    assert watchdog._store.set.called is left


class EndedError(Exception):
    """What the watchdog would end this process with."""


def end_of_rank_0(
    times: Iterable[float], exchange: Callable[[Watchdog, float], None], monkeypatch: pytest.MonkeyPatch
) -> tuple[float, str] | None:
    """When and why rank 0 of two ends, if it looks at its peer at these times; None where it does not.

    `exchange`: called before each look, with its time, for what the thread that talks to the store does.
    """
    now = 0.0

    def wait(_seconds: float) -> bool:
        nonlocal now
        now = next(left, -1.0)
        if now < 0:
            return True
        exchange(watchdog, now)
        return False

    def end_now(message: str) -> None:
        raise EndedError(message)

    left = iter(times)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(module, "end_now", end_now)
    world = World(rank=0, size=2, local_rank=0, local_size=2, device=torch.device("cpu"), gloo=MagicMock())
    watchdog: Any = Watchdog(world, MagicMock(), heartbeat_timeout_minutes=3, timeout_minutes=30)
    watchdog._stop, watchdog._store = SimpleNamespace(wait=wait), MagicMock()
    try:
        watchdog._check()
    except EndedError as ended:
        watchdog._store.set.assert_called_once_with("verdict", str(ended))  # for the other ranks
        return now, str(ended)
    return None


def test_rank_that_hangs_is_named_before_the_collectives_time_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """They would after 30 minutes. Both have a heartbeat, but rank 1 never enters the phase that rank 0 is in.

    Rank 0's GPU waits for that of rank 1, and this process for it.
    """
    monkeypatch.setattr(module, "waits_since", lambda: 100.0)

    def exchange(watchdog: Watchdog, now: float) -> None:
        watchdog._store_answered_at = now
        progress = [30 if now > 100 else 29, 29]
        watchdog._update_peers({rank: Report(int(now), progress[rank], 119, EXCHANGING) for rank in (0, 1)}, now)

    ended = end_of_rank_0(range(2, 7200, 2), exchange, monkeypatch)
    assert ended and 1700 < ended[0] < 1800
    assert ended[1].startswith("rank 1 has hung in step 120 for 29 minutes, the others wait for it")


def test_rank_that_was_suspended_itself_blames_nobody_for_that_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for images and is ahead of its peer when it stands still for three hours; its store answers late.

    When rank 1 has no heartbeat afterwards, it is named in its usual time.
    """

    def exchange(watchdog: Watchdog, now: float) -> None:
        if now < 10 or now > 10_900:
            watchdog._store_answered_at = now
            heartbeats = [int(now), min(int(now), 8)]
            watchdog._update_peers({rank: Report(heartbeats[rank], 30 - rank, 119, COMPUTING) for rank in (0, 1)}, now)
        watchdog.follow(SimpleNamespace(waits_since=5.0))

    ended = end_of_rank_0([2, 4, 6, 8, *range(10_808, 12_000, 2)], exchange, monkeypatch)
    assert ended and 10_980 < ended[0] < 11_000
    assert ended[1].startswith("rank 1 has not answered for 3 minutes")


@pytest.mark.slow
def test_training_tells_the_watchdog_of_each_phase_of_each_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a rank that hangs would look like one that works. Two steps of two micro-batches."""
    told: list[tuple[int, str]] = []
    monkeypatch.setattr(Watchdog, "at", lambda _, step, phase: told.append((step, phase)))
    options = ["--epochs", "1", "--micro-batch-size", "48", "--no-pictures"]
    assert main(["train", RECIPE, "--data", "synthetic:192", "--run-dir", str(tmp_path), *options]) == 0
    assert told == [(step, phase) for step in (0, 1) for _ in range(2) for phase in (COMPUTING, EXCHANGING)]


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [1, 0])
def test_rank_that_is_stopped_is_named_and_no_rank_stays(stopped: int, digits: Path, tmp_path: Path) -> None:
    """Without torchrun, whose agent would end the others: each rank has to notice by itself."""
    command = ["-m", "trainer", *words(digits, tmp_path, "--heartbeat-timeout-minutes", "0.2")]
    ranks = start_ranks(command, 2)
    try:
        wait_for_step(ranks[0], tmp_path, 4)
        ranks[stopped].send_signal(signal.SIGSTOP)
        other = ranks[1 - stopped]
        _, said = other.communicate(timeout=TIMEOUT)
        assert other.returncode == 75, said
        assert f"error: rank {stopped} has not answered" in said
        assert "Traceback" not in said
        ranks[stopped].send_signal(signal.SIGCONT)  # too late: the others have ended
        _, said = ranks[stopped].communicate(timeout=TIMEOUT)
        assert ranks[stopped].returncode == 75, said
        assert "Traceback" not in said
    finally:
        for process in ranks:
            process.kill()


@pytest.mark.slow
def test_ranks_end_with_their_launcher_also_before_they_have_joined(digits: Path, tmp_path: Path) -> None:
    """kill -9 of torchrun leaves its ranks running: here one waits for a peer that never joins."""
    launcher, ranks = start_new(words(digits, tmp_path), 2), list[int]()
    try:
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline and len(ranks := ranks_of(launcher)) < 2:
            time.sleep(0.01)
        while time.monotonic() < deadline and not all(threads(rank) > 1 for rank in ranks):  # they watch the launcher
            time.sleep(0.01)
        os.kill(ranks[1], signal.SIGSTOP)
        os.kill(launcher.pid, signal.SIGKILL)
        while time.monotonic() < deadline and is_alive(ranks[0]):
            time.sleep(0.1)
        assert not is_alive(ranks[0])
        os.kill(ranks[1], signal.SIGCONT)
        _, said = launcher.communicate(timeout=TIMEOUT)  # until both have closed it
        assert "error: the launcher of rank 0 has ended" in said
        assert "error: the launcher of rank 1 has ended" in said
    finally:
        for pid in (launcher.pid, *ranks):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


# A GPU that never ends what it has been given, such as an exchange in a CUDA graph, which has no timeout.
HUNG_GPU = """
import threading
import torch
from trainer.distributed import process_group
from trainer.distributed.run_ahead import AHEAD, RunAhead
from trainer.distributed.stop import StopSignal
from trainer.distributed.watchdog import Watchdog

class Event:
    def __init__(self, **_): pass
    def record(self): pass
    def synchronize(self): threading.Event().wait()

torch.cuda.Event = Event
with process_group.initialize("cpu", 1) as world, StopSignal(world) as signal, Watchdog(world, signal, 3, 0.02):
    run_ahead = RunAhead(torch.device("cuda", 0))
    for _ in range(AHEAD + 1):
        run_ahead.after_batch()
"""


@pytest.mark.slow
def test_gpu_that_hangs_is_named_and_ends_the_run() -> None:
    (rank,) = start_ranks(["-c", HUNG_GPU], 1)
    _, said = rank.communicate(timeout=TIMEOUT)
    assert rank.returncode == 75, said
    answer = r"error: rank 0 has waited for its GPU for \d+ s: the GPU, or an exchange with other GPUs, hangs; [^\n]+\n"
    assert re.fullmatch(answer, said)


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "val"])
def test_storage_that_does_not_answer_is_named_and_ends_the_run(split: str, digits: Path, tmp_path: Path) -> None:
    """A read that never returns, in training and in an evaluation, like one from a dead NFS server."""
    script = (
        "import sys, threading\n"
        "from trainer.__main__ import main\n"
        "from trainer.data.beton.source import BetonSource\n"
        "def read(self, *given):\n"
        "    if self.path.stem == sys.argv[1]:\n"
        "        threading.Event().wait()\n"
        "    read_really(self, *given)\n"
        "read_really, BetonSource.read = BetonSource.read, read\n"
        "sys.exit(main(sys.argv[2:]))\n"
    )
    given = words(digits, tmp_path, "--timeout-minutes", "0.05", "--no-pictures")
    command = [sys.executable, "-c", script, split, *given]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, cwd=ROOT)
    assert ended.returncode == 75, ended.stderr
    answer = r"error: rank 0 has waited for images for \d+ s: is the storage of --data reachable there\? [^\n]+\n"
    assert re.fullmatch(answer, ended.stderr)
