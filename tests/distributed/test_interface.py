"""The interface that gloo binds to: the one that reaches the first node."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.processes import ROOT, TIMEOUT, kill_after_test
from trainer.distributed import interface
from trainer.distributed.interface import bind_gloo, interface_to


def names() -> set[str]:
    return {name for _, name in socket.if_nameindex()}


def test_interface_to_another_machine_has_the_address_that_packets_leave_from() -> None:
    name = interface_to("192.0.2.77")
    if name is None:
        pytest.skip("needs a default route")
    assert name in names() - {"lo"}


def test_interface_to_the_host_itself_is_not_the_loopback_one() -> None:
    """As on the first node, whose own name Debian gives the address 127.0.1.1."""
    name = interface_to("192.0.2.77")
    if name is None:
        pytest.skip("needs a default route")
    assert interface_to("127.0.1.1") == name


def test_interface_to_a_host_without_an_address_is_not_known() -> None:
    assert interface_to("no-such-host.invalid") is None
    assert interface_to("") in (None, interface_to("192.0.2.77"))


@pytest.mark.parametrize("chosen", [None, "ib0"])
def test_gloo_is_bound_unless_the_user_has_chosen(chosen: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interface, "interface_to", {"n1": "eth7"}.get)
    monkeypatch.setenv("MASTER_ADDR", "n1")
    if chosen:
        monkeypatch.setenv("GLOO_SOCKET_IFNAME", chosen)
    else:
        monkeypatch.setenv("GLOO_SOCKET_IFNAME", "restored after the test")
        monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    bind_gloo()
    assert os.environ["GLOO_SOCKET_IFNAME"] == (chosen or "eth7")


@pytest.fixture
def two_machines(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """Two network namespaces with a cable between them, and no address of this host.

    10.213.7.1 and 10.213.7.2, or fd00:213::1 and fd00:213::2.
    """
    names = [f"trainer{os.getpid()}{end}" for end in "ab"]
    if os.geteuid() or not shutil.which("ip") or subprocess.run(["ip", "netns", "add", names[0]]).returncode:
        pytest.skip("needs root and network namespaces")
    try:
        ip("netns", "add", names[1])
        ip("-n", names[0], "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", names[1])
        for number, name in enumerate(names, 1):
            is_ipv6 = ":" in request.param
            at_once = ["nodad"] if is_ipv6 else []  # it would first ask whether another has the address
            words = ["ip", "-n", name, "addr", "add", request.param.format(number), "dev", "cable", *at_once]
            if subprocess.run(words, check=not is_ipv6).returncode:
                pytest.skip("needs IPv6")
            for interface in ("lo", "cable"):
                ip("-n", name, "link", "set", interface, "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("two_machines", ["10.213.7.{}/24", "fd00:213::{}/64"], indirect=True)
def test_ranks_on_two_machines_meet_whatever_their_host_names_resolve_to(
    two_machines: list[str], request: pytest.FixtureRequest
) -> None:
    first = request.node.callspec.params["two_machines"].format(1).partition("/")[0]
    script = (
        "import os, torch, torch.distributed as dist\n"
        "from trainer.distributed import process_group\n"
        "with process_group.initialize('cpu', 15) as world:\n"
        "    total = torch.tensor(world.rank + 1)\n"
        "    dist.all_reduce(total)\n"
        "    print(int(total), os.environ.get('GLOO_SOCKET_IFNAME'), flush=True)\n"
    )
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_PORT": "29555"}
    ranks = []
    for rank, name in enumerate(two_machines):
        process = subprocess.Popen(
            ["ip", "netns", "exec", name, sys.executable, "-c", script],
            env={**os.environ, **shared, "RANK": str(rank), "MASTER_ADDR": first, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        ranks.append(kill_after_test(process))
    said = [rank.communicate(timeout=TIMEOUT) for rank in ranks]
    assert [out.strip() for out, _ in said] == ["3 cable"] * 2, said
