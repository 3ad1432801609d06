"""The network interface that gloo uses: by default it binds the address of the host's name.

Debian and Ubuntu give the host's own name the address 127.0.1.1 in /etc/hosts, which no other machine can reach.
"""

import contextlib
import fcntl
import ipaddress
import os
import socket
import struct
from pathlib import Path

_SIOCGIFADDR = 0x8915  # linux/sockios.h
_ELSEWHERE = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}  # for documents (RFC 5737, 3849): nowhere
_IPV6_ADDRESSES = Path("/proc/net/if_inet6")
_NAME = "GLOO_SOCKET_IFNAME"


def bind_gloo() -> None:
    """Sets GLOO_SOCKET_IFNAME to the interface that reaches MASTER_ADDR, unless the user has chosen one."""
    if _NAME not in os.environ and (name := interface_to(os.environ.get("MASTER_ADDR", ""))):
        os.environ[_NAME] = name


def interface_to(host: str) -> str | None:
    """The name of the interface whose address packets to `host` leave from; None if that is not known.

    If `host` is this machine, which its loopback interface reaches, it is the interface of the default route.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
    except OSError:
        return None
    for destination in (address, (_ELSEWHERE[family], 9)):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect(destination)  # chooses a route and sends nothing
                own = ipaddress.ip_address(probe.getsockname()[0].partition("%")[0])
        except OSError:
            return None
        if not own.is_loopback:
            return next((name for _, name in socket.if_nameindex() if own in _addresses(name)), None)
    return None


def _addresses(interface: str) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """The addresses of an interface: the first one of IPv4, and all of IPv6."""
    found: list[ipaddress.IPv4Address | ipaddress.IPv6Address] = []
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # it may have none
        answer = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", interface.encode()))
        found.append(ipaddress.IPv4Address(answer[20:24]))
    with contextlib.suppress(OSError):  # of a kernel without IPv6
        for line in _IPV6_ADDRESSES.read_text(encoding="utf-8").splitlines():
            digits, *_, name = line.split()
            if name == interface:
                found.append(ipaddress.IPv6Address(bytes.fromhex(digits)))
    return found
