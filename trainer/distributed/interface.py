"""The network interface that gloo uses: by default it binds the address of the host's name.

Debian and Ubuntu give the host's own name the address 127.0.1.1 in /etc/hosts, which no other machine can reach.
"""

import fcntl
import os
import socket
import struct

_SIOCGIFADDR = 0x8915  # linux/sockios.h
_ELSEWHERE = "192.0.2.1"  # TEST-NET-1 of RFC 5737: on no machine
_NAME = "GLOO_SOCKET_IFNAME"


def bind_gloo() -> None:
    """Sets GLOO_SOCKET_IFNAME to the interface that reaches MASTER_ADDR, unless the user has chosen one."""
    if _NAME not in os.environ and (name := interface_to(os.environ.get("MASTER_ADDR", ""))):
        os.environ[_NAME] = name


def interface_to(host: str) -> str | None:
    """The name of the interface whose IPv4 address packets to `host` leave from; None where that is not known.

    On the host itself, where only the loopback interface reaches it: that of the default route.
    """
    for destination in (host, _ELSEWHERE):
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.connect((destination, 9))  # chooses a route and sends nothing
                own = probe.getsockname()[0]
                if not own.startswith("127."):
                    return next((name for _, name in socket.if_nameindex() if _address(probe, name) == own), None)
        except OSError:
            return None
    return None


def _address(probe: socket.socket, interface: str) -> str | None:
    """The IPv4 address of an interface."""
    try:
        found = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", interface.encode()))
    except OSError:  # it has none
        return None
    return socket.inet_ntoa(found[20:24])
