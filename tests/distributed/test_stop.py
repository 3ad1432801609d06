"""StopSignal: all ranks save or stop at the same place, in training and in evaluations."""

import os
import signal
import socket
import subprocess
import sys

import pytest

from tests.support.processes import ROOT, TIMEOUT
from trainer.distributed import process_group
from trainer.distributed.stop import Request, Stopped, StopSignal


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2])
def test_evaluation_ends_at_the_batch_after_a_signal(number: signal.Signals) -> None:
    seen = []
    expected = pytest.raises(Stopped, match="saved before it")
    with process_group.world("cpu", 1) as world, expected as stopped, StopSignal(world) as stop_signal:
        for batch in stop_signal.watch(iter(range(10)), rounds=10):
            seen.append(batch)
            if batch == 3:
                os.kill(os.getpid(), number)
    assert seen == [0, 1, 2, 3]
    assert stopped.value.signal is number


def test_evaluation_without_a_signal_sees_every_batch() -> None:
    with process_group.world("cpu", 1) as world, StopSignal(world) as stop_signal:
        assert list(stop_signal.watch(iter(range(3)), rounds=5)) == [0, 1, 2]
        assert stop_signal.all_reduce() is Request.NOTHING


def test_signals_are_given_back() -> None:
    before = signal.getsignal(signal.SIGUSR2)
    with process_group.world("cpu", 1) as world, StopSignal(world):
        assert signal.getsignal(signal.SIGUSR2) != before
    assert signal.getsignal(signal.SIGUSR2) == before


def test_stop_signal_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup has it
    try:
        with process_group.world("cpu", 1) as world, StopSignal(world) as stop_signal:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop_signal.all_reduce() is Request.NOTHING
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.slow
def test_ranks_with_different_numbers_of_batches_stop_together() -> None:
    """Rank 0 has 5 batches and rank 1 has 4; only rank 1 gets the signal, and neither waits forever for the other."""
    code = (
        "import os, signal, sys\n"
        "from trainer.distributed import process_group\n"
        "from trainer.distributed.stop import StopSignal, Stopped\n"
        "seen = 0\n"
        "with process_group.world('cpu', 15) as world:\n"
        "    try:\n"
        "        with StopSignal(world) as stop_signal:\n"
        "            for batch in stop_signal.watch(iter(range(5 - world.rank)), rounds=5):\n"
        "                seen += 1\n"
        "                if (world.rank, batch) == (1, 2):\n"
        "                    os.kill(os.getpid(), signal.SIGTERM)\n"
        "        print('not stopped')\n"
        "    except Stopped:\n"
        "        print(f'stopped after {seen}')\n"
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    variables = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, **variables, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    assert [rank.communicate(timeout=TIMEOUT)[0].strip() for rank in ranks] == ["stopped after 4", "stopped after 4"]
