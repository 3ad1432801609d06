"""A rank ends with its own exit code, even if torch's store answers one of its threads while the interpreter ends."""

import os
import subprocess
import sys

import pytest

from tests.support.processes import ROOT, TIMEOUT

# Imports torch once and forks a rank for each ending. The thread waits for a key that the interpreter's end sets.
RANKS = """
import os, threading, time
from datetime import timedelta
import torch.distributed as dist
from trainer import __main__ as entry
from trainer.errors import Stopped, UserError

class EndsLast:
    def __init__(self, store):
        self._set, self._sleep = store.set, time.sleep
    def __del__(self):
        self._set("key", "")
        self._sleep(0.5)

def rank(ending):
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    client = dist.TCPStore("localhost", store.port, is_master=False)
    threading.Thread(target=client.wait, args=(["key"], timedelta(days=7)), daemon=True).start()
    time.sleep(0.1)
    global last
    last = EndsLast(store)
    if ending is not None:
        raise ending

ENDINGS = [None, UserError("no such folder"), Stopped("saved", 15), KeyboardInterrupt(), ValueError("a bug")]
for ending in ENDINGS:
    child = os.fork()
    if child == 0:
        break
    print(type(ending).__name__, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    os._exit(0)

def train(words):
    try:
        rank(ending)
    except Stopped as stopped:
        return 128 + stopped.signal
    return 0

os.environ["RANK"] = "0"
entry._train = train
entry.sys.argv = ["trainer", "train"]
entry.run()
"""


@pytest.mark.slow
def test_rank_ends_with_its_own_exit_code_while_a_thread_waits_for_the_store() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", RANKS]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=TIMEOUT)
    codes = {"NoneType": 0, "UserError": 2, "Stopped": 143, "KeyboardInterrupt": 130, "ValueError": 1}
    assert ended.stdout.splitlines() == [f"{name} {code}" for name, code in codes.items()], ended.stderr
    assert "ValueError: a bug" in ended.stderr  # with its traceback
    assert "terminate" not in ended.stderr
