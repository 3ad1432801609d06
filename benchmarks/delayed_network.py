"""Machines of one machine: network namespaces, and a switch that holds each frame as long as a cable would.

`tc netem` does this within Linux where the kernel has it. This needs TAP devices, `ip` and root.
"""

import ctypes
import fcntl
import os
import select
import shutil
import struct
import subprocess
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 0x0002, 0x1000  # linux/if_tun.h
_CLONE_NEWNET = 0x40000000  # linux/sched.h
_DEVICE = "cable"


def is_possible() -> bool:
    """Whether this process may make namespaces and devices."""
    return os.geteuid() == 0 and shutil.which("ip") is not None and Path("/dev/net/tun").exists()


def address(machine: int) -> str:
    """Its IPv4 address; machines are counted from 0."""
    return f"10.213.8.{machine + 1}"


@contextmanager
def delayed_network(machines: int, delay: float) -> Iterator[list[str]]:
    """Yields the names of as many namespaces, up to 250. A frame from one to another takes `delay` seconds or longer.

    Raises CalledProcessError or OSError where this process may not make them.
    """
    names = [f"delayed{os.getpid()}-{number}" for number in range(machines)]
    with ExitStack() as stack:
        for name in names:
            _ip("netns", "add", name)
            stack.callback(_ip, "netns", "del", name)
        context = get_context("fork")
        here, there = context.Pipe()
        switch = context.Process(target=_switch, args=(names, delay, there), daemon=True)
        switch.start()
        there.close()
        stack.callback(switch.join)
        stack.callback(switch.kill)
        if error := here.recv():
            raise error
        for number, name in enumerate(names):
            _ip("-n", name, "addr", "add", f"{address(number)}/24", "dev", _DEVICE)
            _ip("-n", name, "link", "set", _DEVICE, "address", _mac(number).hex(":"), "up")
            _ip("-n", name, "link", "set", "lo", "up")
        yield names


def enter(namespace: str) -> None:
    """Moves this thread, and those that it starts, into a namespace (setns(2)). Raises OSError."""
    path = Path("/run/netns", namespace)
    with path.open() as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))


def _switch(names: list[str], delay: float, ready: Connection) -> None:
    """Passes on each frame, `delay` seconds after it came."""
    try:
        taps = [_tap(name) for name in names]
    except OSError as error:
        ready.send(error)
        return
    ready.send(None)
    of = {_mac(number): tap for number, tap in enumerate(taps)}
    frames: deque[tuple[float, list[int], bytes]] = deque()  # when, to where, what
    while True:
        wait = max(0.0, frames[0][0] - time.monotonic()) if frames else None
        for tap in select.select(taps, [], [], wait)[0]:
            frame = os.read(tap, 65536)
            to = of.get(frame[:6])  # None: to all, as a question for an address is
            frames.append((time.monotonic() + delay, [to] if to else [one for one in taps if one != tap], frame))
        while frames and frames[0][0] <= time.monotonic():
            _, to_all, frame = frames.popleft()
            for tap in to_all:
                with suppress(OSError):  # lost: that machine is not up yet
                    os.write(tap, frame)


def _tap(namespace: str) -> int:
    """A new device in this namespace, as a file descriptor: one frame for each read and write."""
    enter(namespace)
    tap = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tap, _TUNSETIFF, struct.pack("16sH22x", _DEVICE.encode(), _IFF_TAP | _IFF_NO_PI))
    return tap


def _mac(machine: int) -> bytes:
    return bytes([2, 0, 0, 0, 0, machine + 1])  # 2: not a manufacturer's


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)
