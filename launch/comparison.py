"""What all nodes of a job must have alike, and the node to blame where one differs from most others."""

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from statistics import median_low
from typing import Any, TypeVar

_SKEW = 2.0  # s between clocks: more, and file times and logs of nodes cannot be compared
_FREE = 2 * 2**30  # bytes in the run directory: four checkpoints of the largest model, ResNet-152

UNREAD = "not read yet"
"""in place of a checksum, where it takes reading all files"""

T = TypeVar("T", bound=Hashable)


@dataclass(frozen=True, kw_only=True)
class Checks:
    """What is looked at."""

    data: str | None
    run_dir: str | None
    device: str = "auto"
    bandwidth: bool = True
    """between each two nodes, and between each two GPUs of a node"""
    content: bool = True
    """read the data once on each node to compare it with its checksum, where that was not done before"""
    room: bool = True
    """in the run directory; not at a start, which has waited for room for a checkpoint: launch.attempt.begin()"""


class MachineFault(str):
    """A fault that the user did not cause and need not cure: another start may go well."""


class NodeFault(MachineFault):
    """A fault of one node, while others are sound: the job may start without it."""

    node: str

    def __new__(cls, node: str, text: str) -> "NodeFault":
        made = super().__new__(cls, f"{node}: {text}")
        made.node = node
        return made


def fault_of(host: str, text: str, *, of_this_node: bool) -> str:
    return NodeFault(host, text) if of_this_node else f"{host}: {text}"


def may_start_again(faults: list[str]) -> bool:
    """Whether another start may have no fault: without some of the nodes, or on others."""
    return bool(faults) and all(isinstance(fault, MachineFault) for fault in faults)


def compare(nodes: list[dict[str, Any]], checks: Checks) -> list[str]:
    """What is not the same on all processes, or not enough: one line each, naming the node."""
    faults = []
    most = max(nodes, key=lambda node: int(node["devices"]))
    models = {f"rank {node['rank']}": node["device"] for node in nodes if node["devices"]}
    model, whose, is_most = _expected(models) if models else ("", "", False)
    for node in nodes:
        host, rank = node["host"], node["rank"]
        if checks.device == "cuda" and not node["devices"]:
            no_gpu = f"rank {rank} sees no GPU"
            faults.append(fault_of(host, no_gpu, of_this_node=bool(most["devices"])))
        elif node["devices"] < most["devices"]:
            other = f"rank {most['rank']} {most['devices']} x {most['device']}"
            fewer = f"rank {rank} sees {node['devices']} x {node['device']}, {other}"
            faults.append(NodeFault(host, fewer))
        elif node["devices"] and node["device"] != model:
            have = "have" if is_most else "has"
            other_model = f"rank {rank} sees {node['device']}, but {whose} {have} {model}"
            faults.append(fault_of(host, other_model, of_this_node=is_most))
    machines = [node for node in nodes if node["local_rank"] == 0]
    return [*faults, *_versions(machines), *_data(machines, checks), *_room(machines, checks), *_clocks(machines)]


def _versions(machines: list[dict[str, Any]]) -> list[str]:
    faults = []
    for name in machines[0]["versions"]:
        versions = {node["host"]: node["versions"][name] for node in machines}
        expected, whose, is_most = _expected(versions)
        have = "have" if is_most else "has"
        faults += [
            fault_of(host, f"{name} {version}, but {whose} {have} {expected}", of_this_node=is_most)
            for host, version in versions.items()
            if version != expected
        ]
    return faults


def _data(machines: list[dict[str, Any]], checks: Checks) -> list[str]:
    faults = []
    for split in machines[0]["data"] or {}:
        found = {node["host"]: node["data"][split] for node in machines}
        sound = {host: checksum for host, checksum in found.items() if not checksum.startswith("error: ")}
        for host, error in found.items():
            if host not in sound:
                fault = fault_of(host, error.removeprefix("error: "), of_this_node=bool(sound))
                faults.append(MachineFault(fault) if isinstance(error, MachineFault) and not sound else fault)
        read = {host: checksum for host, checksum in sound.items() if checksum != UNREAD}
        if read:
            expected, whose, is_most = _expected(read)
            faults += [
                fault_of(
                    host, f"{split} of {checks.data} is {checksum}, but {expected} on {whose}", of_this_node=is_most
                )
                for host, checksum in read.items()
                if checksum != expected
            ]
    return faults


def _room(machines: list[dict[str, Any]], checks: Checks) -> list[str]:
    faults: list[str] = []
    for node in machines:
        free = node.get("free", _FREE)
        if isinstance(free, str):
            is_written = any(not isinstance(other.get("free"), str) for other in machines)
            # where nobody can write: begin() could a minute ago, and waits for that in the next start
            faults.append(NodeFault(node["host"], free) if is_written else MachineFault(f"{node['host']}: {free}"))
        elif checks.room and free < _FREE:
            room = f"{free / 2**30:.1f} GiB are free for {checks.run_dir}, less than {_FREE >> 30}"
            faults.append(f"{node['host']}: {room}")
    return faults


def _clocks(machines: list[dict[str, Any]]) -> list[str]:
    """Compared with the median, if most clocks agree with it; else with the first node's."""
    clock = median_low(node["clock"] for node in machines)
    is_most = 2 * sum(abs(node["clock"] - clock) <= _SKEW for node in machines) > len(machines)
    expected, whose = (clock, "most nodes") if is_most else (machines[0]["clock"], machines[0]["host"])
    return [
        fault_of(node["host"], f"its clock is {skew:+.1f} s from that of {whose}", of_this_node=is_most)
        for node in machines
        if abs(skew := node["clock"] - expected) > _SKEW
    ]


def _expected(values: dict[str, T]) -> tuple[T, str, bool]:
    """The value of most nodes, else of the first one; whose it is; and whether it is that of most."""
    value, count = Counter(values.values()).most_common(1)[0]
    if 2 * count > len(values):
        return value, "most nodes", True
    first = next(iter(values))
    return values[first], first, False
