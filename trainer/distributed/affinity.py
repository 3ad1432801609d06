"""Which CPUs each rank runs on: those near its GPU, where that leaves none idle, and how many are its own."""

import math
import os
import socket
from pathlib import Path
from typing import Any, NamedTuple

import torch

from trainer.distributed.cpus import Quota, cgroup_quota


class Place(NamedTuple):
    """Where a rank may run, and where it should."""

    host: str
    cpus: list[int]
    """of its affinity"""
    near: list[int]
    """those of them that are in the NUMA node of its GPU; all of them without one"""
    quota: Quota | None
    """of its control group"""


def place_of(device: torch.device) -> Place:
    """The CPUs that this process may use, and those near its device."""
    cpus = sorted(os.sched_getaffinity(0))
    near = cpus if device.type == "cpu" else sorted(cpus_of_gpu(device) & {*cpus})
    return Place(socket.gethostname(), cpus, near or cpus, cgroup_quota())


def cpus_of_gpu(device: torch.device, devices: Path = Path("/sys/bus/pci/devices")) -> set[int]:
    """The CPUs of the GPU's NUMA node; none if the system does not say."""
    found: Any = torch.cuda.get_device_properties(device)
    try:
        name = f"{found.pci_domain_id:04x}:{found.pci_bus_id:02x}:{found.pci_device_id:02x}.0"
        ranges = (devices / name / "local_cpulist").read_text(encoding="utf-8").strip().split(",")
        ends = [[int(end) for end in each.split("-")] for each in ranges]
    except (OSError, ValueError, AttributeError, TypeError):
        return set()
    return {cpu for first, *last in ends for cpu in range(first, (last or [first])[0] + 1)}


def bindings(places: list[Place]) -> list[Place]:
    """Chooses the CPUs of each rank: those near its GPU, unless that leaves CPUs of the host idle."""

    def binding(own: Place) -> Place:
        on_host = [other for other in places if other.host == own.host]
        used = {cpu for other in on_host for cpu in other.near}
        return own._replace(cpus=own.near) if used >= {cpu for other in on_host for cpu in other.cpus} else own

    return [binding(own) for own in places]


def bind(own: Place) -> None:
    """Binds this thread, and those that it starts from now on, to these CPUs."""
    if {*own.cpus} != os.sched_getaffinity(0):
        os.sched_setaffinity(0, own.cpus)


def cpus_per_rank(own: Place, places: list[Place]) -> int:
    """CPUs for one rank's threads: its CPUs and its quota, each divided by the ranks of the host that share it.

    A launcher may bind each process to CPUs of its own, and then all of them may still have one quota.
    """
    on_host = [other for other in places if other.host == own.host]
    cpus = len(own.cpus) // sum(other.cpus == own.cpus for other in on_host)
    if own.quota is not None:
        cpus = min(cpus, math.ceil(own.quota.cpus) // sum(other.quota == own.quota for other in on_host))
    return max(1, cpus)
