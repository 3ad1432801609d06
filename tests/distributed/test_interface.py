"""The interface that gloo binds to: the one that reaches the first node."""

import os
import socket

import pytest

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
    assert interface_to("127.0.1.1") == interface_to("192.0.2.77")


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
