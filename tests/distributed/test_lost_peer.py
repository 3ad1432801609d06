"""A rank that is killed or fails among several over gloo, or starts late or never, as under srun: one line, all end."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from tests.support.ports import free_ports
from tests.support.processes import ROOT, TIMEOUT, kill_after_test
from trainer.distributed import lost_peer

pytestmark = pytest.mark.slow

# The command's own handling of errors and its exit, around work that needs no data. Rank 0 is writing a checkpoint when
# it hears of the loss.
RANK = """
from trainer import __main__ as entry
import contextlib, time, torch, torch.distributed as dist
from trainer.distributed import lost_peer, process_group
from trainer.distributed.stop import StopSignal
from trainer.run.background import BackgroundWriter

def write():
    lost_peer._has_heard.wait()
    time.sleep(0.5)
    print("saved", flush=True)

def train(words):
    writer = BackgroundWriter()
    with (
        process_group.initialize("cpu", timeout_minutes=float(words[0])) as world,
        StopSignal(world),
        contextlib.ExitStack() as stack,
    ):
        stack.callback(writer.wait)
        if world.is_main:
            writer.start(write)
        dist.all_reduce(torch.zeros(1))
        print("joined", flush=True)
        while True:
            dist.all_reduce(torch.zeros(1))
            dist.all_reduce(torch.zeros(1), group=world.gloo)

entry._train = train
entry.run()
"""

# Rank 1 or 0 fails. The main thread of the other waits for ever, as for an exchange of NCCL.
FAILS = """
from trainer import __main__ as entry
import threading, time
from trainer.distributed import lost_peer, process_group
from trainer.errors import LocalError
lost_peer._SAVE = 1.0

def train(words):
    with process_group.initialize("cpu", timeout_minutes=float(words[0])) as world:
        print("joined", flush=True)
        if str(world.rank) == words[1]:
            time.sleep(1)  # what the other's thread waits for has reached the store, which rank 0 hosts
            raise LocalError(f"an image of rank {world.rank} cannot be decoded")
        threading.Event().wait()

entry._train = train
entry.run()
"""

# Imports torch once and forks `count` ranks, which is far quicker than to start them; then kills one.
RANKS = """
import os, signal, sys
import trainer.__main__, torch.distributed
from trainer.distributed import lost_peer, process_group
count, lost = map(int, sys.argv[1:3])
sys.argv = ["trainer", "train", "15"]
output, joined = os.pipe()
ranks = []
for rank in range(count):
    ranks.append(os.fork())
    if ranks[-1] == 0:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        os.dup2(joined, 1)
        exec(RANK)
heard = b""
while heard.count(b"joined") < count:
    heard += os.read(output, 100)
os.kill(ranks[lost], signal.SIGKILL)
print([os.waitstatus_to_exitcode(os.waitpid(rank, 0)[1]) for rank in ranks])
"""


def start_rank(
    rank: int, count: int, port: int, errors: Path, minutes: float = 15, code: str = RANK, words: tuple[str, ...] = ()
) -> subprocess.Popen[str]:
    """One of `count` ranks of a machine, without torchrun: rank 0 hosts the store. They share a file for their errors.

    `minutes`: how long it waits for the others. Always a new interpreter: these tests are about its end.
    """
    variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    variables |= {"MASTER_PORT": port, "TORCHELASTIC_RESTART_COUNT": 0}
    environment = {**os.environ, **{name: str(value) for name, value in variables.items()}}
    environment |= {"MASTER_ADDR": "localhost", "TORCHELASTIC_RUN_ID": "test", "PYTHONPATH": str(ROOT)}
    environment.pop("TORCHELASTIC_USE_AGENT_STORE", None)
    command = [sys.executable, "-c", code, "train", str(minutes), *words]
    with errors.open("a") as file:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=file, text=True)
    return kill_after_test(process)


def has_joined(process: subprocess.Popen[str]) -> bool:
    assert process.stdout is not None
    return process.stdout.readline() == "joined\n"


@pytest.mark.parametrize("lost", [0, 2])
def test_lost_rank_is_one_line_of_one_rank_and_all_others_end(lost: int, tmp_path: Path) -> None:
    errors = tmp_path / "errors"
    port = free_ports(1)[0]
    ranks = [start_rank(rank, 4, port, errors) for rank in range(4)]
    try:
        for process in ranks:
            assert has_joined(process), errors.read_text()
        ranks[lost].send_signal(signal.SIGKILL)
        codes = [process.wait(TIMEOUT) for process in ranks]
    finally:
        for process in ranks:
            process.kill()
        outputs = [process.communicate()[0] for process in ranks]
    assert outputs == ["" if rank or rank == lost else "saved\n" for rank in range(4)]
    assert codes == [-signal.SIGKILL if rank == lost else 75 for rank in range(4)]
    said = errors.read_text()
    assert said.startswith("error: another process of this run has exited or cannot be reached: "), said
    assert said.count("\n") == 1 and len(said) < 200, said


@pytest.mark.parametrize("fails", [0, 1])
def test_rank_that_fails_alone_is_not_waited_for(fails: int, tmp_path: Path) -> None:
    errors, port = tmp_path / "errors", free_ports(1)[0]
    ranks = [start_rank(rank, 2, port, errors, code=FAILS, words=(str(fails),)) for rank in range(2)]
    for process in ranks:
        process.communicate(timeout=TIMEOUT)
    assert [process.returncode for process in ranks] == [2 if rank == fails else 75 for rank in range(2)]
    assert errors.read_text() == f"error: an image of rank {fails} cannot be decoded\n"


@pytest.mark.parametrize("lost", [0, 4, 7])
def test_lost_rank_of_eight_is_one_line_of_one_rank_and_all_others_end(lost: int) -> None:
    variables = {"WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "8", "TORCHELASTIC_RESTART_COUNT": "0", "PYTHONPATH": str(ROOT)}
    variables |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free_ports(1)[0]), "TORCHELASTIC_RUN_ID": "test"}
    environment = {**os.environ, **variables}
    environment.pop("TORCHELASTIC_USE_AGENT_STORE", None)
    command = [sys.executable, "-c", f"RANK = {RANK!r}\n{RANKS}", "8", str(lost)]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=TIMEOUT)
    assert ended.stdout == f"{[-signal.SIGKILL.value if rank == lost else 75 for rank in range(8)]}\n", ended.stderr
    assert ended.stderr.startswith("error: another process of this run has exited or cannot be reached: ")
    assert ended.stderr.count("\n") == 1 and len(ended.stderr) < 200, ended.stderr


@pytest.mark.parametrize(("rank", "local_size", "lines"), [(1, 4, 1), (2, 4, 0), (1, 2, 0), (2, 2, 1), (3, 2, 0)])
def test_lost_store_is_reported_by_one_rank_of_a_machine_that_is_left(
    rank: int, local_size: int, lines: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of four ranks on one machine, or on two machines of which the first may be gone."""
    for name, value in {"RANK": rank, "WORLD_SIZE": 4, "LOCAL_WORLD_SIZE": local_size}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(lost_peer, "_counter", MagicMock(add=MagicMock(side_effect=RuntimeError("Broken pipe"))))
    lost_peer.report("a peer is lost")
    assert capfd.readouterr().err == "error: a peer is lost\n" * lines


def test_rank_that_starts_late_is_waited_for(tmp_path: Path) -> None:
    errors, port = tmp_path / "errors", free_ports(1)[0]
    ranks = [start_rank(0, 2, port, errors)]
    try:
        while not listens(port):
            assert ranks[0].poll() is None, errors.read_text()
            time.sleep(0.05)
        ranks.append(start_rank(1, 2, port, errors))
        assert all(has_joined(process) for process in ranks), errors.read_text()
    finally:
        for process in ranks:
            process.kill()
            process.communicate()


def test_rank_that_never_starts_is_one_line_and_exit_code_75(tmp_path: Path) -> None:
    errors = tmp_path / "errors"
    alone = start_rank(0, 2, free_ports(1)[0], errors, minutes=1 / 60)
    alone.communicate(timeout=TIMEOUT)
    assert alone.returncode == 75
    (line,) = errors.read_text().splitlines()
    assert line.startswith("error: rank 0 cannot join the other processes, check MASTER_ADDR and MASTER_PORT: ")


def test_rank_that_outlives_the_store_ends_with_its_own_exit_code(tmp_path: Path) -> None:
    """Rank 1's interpreter is still ending when rank 0 has gone, and the store with it."""
    code = (
        "import os, socket, time\n"
        "from trainer.distributed import process_group\n"
        "class EndsLast:\n"
        "    def __del__(self, probe=socket.socket, sleep=time.sleep, port=int(os.environ['MASTER_PORT'])):\n"
        "        while probe().connect_ex(('localhost', port)) == 0:\n"
        "            sleep(0.05)\n"
        "        sleep(0.5)\n"
        "with process_group.initialize('cpu', 15) as world:\n"
        "    last = EndsLast() if world.rank else None\n"
    )
    errors, port = tmp_path / "errors", free_ports(1)[0]
    ranks = [start_rank(rank, 2, port, errors, code=code) for rank in range(2)]
    for rank in ranks:
        rank.communicate(timeout=TIMEOUT)
    assert [rank.returncode for rank in ranks] == [0, 0], errors.read_text()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("localhost", port)) == 0
