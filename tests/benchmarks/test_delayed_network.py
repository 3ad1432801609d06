"""benchmarks/delayed_network.py: what is sent arrives, and no sooner than said."""

import os
import socket
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from benchmarks.delayed_network import address, delayed_network, enter, is_possible
from tests.support.processes import TIMEOUT

DELAY = 0.02  # s


def answer(machine: str, ready: Connection) -> None:
    """Sends back what comes to the second machine."""
    enter(machine)
    with socket.create_server((address(1), 0)) as server:
        ready.send(server.getsockname()[1])
        connection, _ = server.accept()
        with connection:
            while some := connection.recv(65536):
                connection.sendall(some)


def ask(machine: str, port: int, result: Connection) -> None:
    """The shortest of three ways there and back, and whether a long message came back as it was sent."""
    enter(machine)
    sent = os.urandom(200_000)
    with socket.create_connection((address(1), port), timeout=TIMEOUT) as connection:
        times = []
        for _ in range(3):
            began = time.monotonic()
            connection.sendall(b"x")
            assert connection.recv(1) == b"x"
            times.append(time.monotonic() - began)
        connection.sendall(sent)
        came = b""
        while len(came) < len(sent):
            came += connection.recv(65536)
    result.send((min(times), came == sent))


@pytest.mark.slow
def test_messages_between_machines_take_the_delay_each_way_and_arrive_as_they_were() -> None:
    if not is_possible():
        pytest.skip("needs root and TAP devices")
    context = get_context("fork")
    ports, port = context.Pipe(duplex=False)
    results, result = context.Pipe(duplex=False)
    with delayed_network(3, DELAY) as machines:
        context.Process(target=answer, args=(machines[1], port), daemon=True).start()
        assert ports.poll(TIMEOUT)
        context.Process(target=ask, args=(machines[2], ports.recv(), result), daemon=True).start()
        assert results.poll(TIMEOUT)
        there_and_back, is_same = results.recv()
    assert there_and_back >= 2 * DELAY
    assert is_same
    assert not [name for name in machines if Path("/run/netns", name).exists()]
