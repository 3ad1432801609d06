"""Free ports of this machine, for servers that a test starts."""

import contextlib
import os
import secrets
import socket

# Below those that the kernel gives to outgoing connections (ip_local_port_range): one of them could take the port
# between the look and the server's start.
# Each of pytest-xdist's processes has ports of its own: what one has found free no other may take meanwhile.
_PORTS = range(26_000 + int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 8, 32_000, 8)


def free_ports(count: int) -> list[int]:
    """`count` different ports, drawn at random: tests that run at once look at the same time."""
    with contextlib.ExitStack() as stack:
        ports: list[int] = []
        while len(ports) < count:
            probe, port = stack.enter_context(socket.socket()), secrets.choice(_PORTS)
            with contextlib.suppress(OSError):  # somebody has it
                probe.bind(("", port))
                ports.append(port)
    return ports
