"""A rank killed among several over gloo, each with its parent's pipe as under srun: one line, and all ranks end."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import ROOT, TIMEOUT
from trainer.distributed import lost_peer

pytestmark = pytest.mark.slow

# The command's own handling of errors and its exit, around work that needs no data.
RANK = """
from trainer import __main__ as entry
import torch, torch.distributed as dist
from trainer.distributed import process_group
from trainer.distributed.stop import StopSignal

def train(words):
    with process_group.world("cpu", timeout_minutes=15) as world, StopSignal(world) as stop_signal:
        dist.all_reduce(torch.zeros(1))
        print("joined", flush=True)
        while True:
            dist.all_reduce(torch.zeros(1))
            stop_signal.all_reduce()

entry._train = train
entry.run()
"""


def start_ranks(count: int, errors: Path) -> list[subprocess.Popen[str]]:
    """Ranks of one machine without torchrun: rank 0 hosts the store. They share one file for their errors."""
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    ranks = []
    for rank in range(count):
        variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
        variables |= {"MASTER_PORT": port, "TORCHELASTIC_RESTART_COUNT": 0}
        environment = {**os.environ, **{name: str(value) for name, value in variables.items()}}
        environment |= {"MASTER_ADDR": "localhost", "TORCHELASTIC_RUN_ID": "test", "PYTHONPATH": str(ROOT)}
        environment.pop("TORCHELASTIC_USE_AGENT_STORE", None)
        command = [sys.executable, "-c", RANK, "train"]
        with errors.open("a") as file:
            ranks.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=file, text=True))
    return ranks


@pytest.mark.parametrize("lost", [0, 2])
def test_lost_rank_is_one_line_of_one_rank_and_all_others_end(lost: int, tmp_path: Path) -> None:
    errors = tmp_path / "errors"
    ranks = start_ranks(4, errors)
    try:
        for process in ranks:
            assert process.stdout is not None
            assert process.stdout.readline() == "joined\n", errors.read_text()
        ranks[lost].send_signal(signal.SIGKILL)
        codes = [process.wait(TIMEOUT) for process in ranks]
    finally:
        for process in ranks:
            process.kill()
            process.communicate()
    assert codes == [-signal.SIGKILL if rank == lost else 75 for rank in range(4)]
    (line,) = errors.read_text().splitlines()
    assert line.startswith("error: another process of this run has exited or cannot be reached: ")
    assert len(line) < 200


@pytest.mark.parametrize(("rank", "local_size", "lines"), [(1, 4, 1), (2, 4, 0), (1, 2, 0), (2, 2, 1), (3, 2, 0)])
def test_lost_store_is_reported_by_one_rank_of_a_machine_that_is_left(
    rank: int, local_size: int, lines: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of four ranks on one machine, or on two machines of which the first may be gone."""
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    variables = {"RANK": rank, "WORLD_SIZE": 4, "LOCAL_WORLD_SIZE": local_size, "MASTER_PORT": port}
    for name, value in {**variables, "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(name, str(value))
    lost_peer.report("a peer is lost")
    assert capfd.readouterr().err == "error: a peer is lost\n" * lines
