"""What the nodes of a partition have, as sinfo says, and what follows from it for options that are not given."""

import functools
import math
import re
from dataclasses import dataclass, replace
from typing import TypeVar

from launch.layout import layout_of
from launch.settings import ProcessSettings
from launch.slurm.scontrol import NOT_FOUND, run_slurm
from launch.slurm.time import minutes_of
from trainer.errors import UserError

Settings = TypeVar("Settings", bound=ProcessSettings)
_GPUS = re.compile(r"\bgpu(?::[^:,()]+)?:(\d+)")
_NO_CLUSTER = "Could not establish a configuration source"  # of commands that are installed where no slurm.conf is
_GRES = re.compile(r"gpu(?::(?P<kind>[^:,=]+))?(?::(?P<count>\d+))?")


@dataclass(frozen=True, kw_only=True)
class Partition:
    """The nodes that a job may get."""

    name: str
    """of the partition, or of all that were asked for: debug,long"""
    gpus: frozenset[int]
    """numbers of GPUs that its nodes have; 0: nodes without"""
    cpus: int
    """of the node with the fewest"""
    limit: str
    """the longest time of a job, in Slurm's notation, or infinite; of several partitions, what the longest allows"""

    @property
    def minutes(self) -> float:
        """The same in minutes."""
        return _minutes(self.limit)


def partition_of(name: str | None) -> Partition | None:
    """The partition, the partitions of a list, or the cluster's default one; None without Slurm and for unknown names.

    Raises UserError if Slurm is here and does not answer: the job would not get what its nodes have.
    """
    asked = ("-p", name) if name else ()
    shown = run_slurm("sinfo", "-h", "-N", "-o", "%P|%G|%c|%l", *asked)
    if shown.returncode not in (0, NOT_FOUND) and _NO_CLUSTER not in shown.stderr:
        said = (shown.stderr.strip() or f"exit code {shown.returncode}").splitlines()[-1]
        raise UserError(f"sinfo cannot list the nodes, so nothing was started: {said}. Try again later")
    lines = [line.split("|") for line in shown.stdout.splitlines() if line.count("|") == 3]
    if not name:
        lines = [line for line in lines if line[0].endswith("*")]
    if not lines:
        return None
    return Partition(
        name=",".join(dict.fromkeys(line[0].rstrip("*") for line in lines)),
        gpus=frozenset(sum(map(int, _GPUS.findall(gres))) for _, gres, _, _ in lines),
        cpus=min(int(re.sub(r"\D.*", "", cpus)) for _, _, cpus, _ in lines),
        limit=max((limit for *_, limit in lines), key=_minutes),
    )


def _minutes(limit: str) -> float:
    try:
        return minutes_of(limit)
    except ValueError:  # infinite
        return math.inf


def gpus_of(gres: str) -> int:
    """The GPUs of each node that --gres asks for. Raises ValueError for anything but gpu, gpu:N or gpu:KIND:N."""
    if not (match := _GRES.fullmatch(gres)):
        raise ValueError(f"gres={gres} is not gpu, gpu:COUNT or gpu:KIND:COUNT: use --sbatch gres={gres} besides")
    kind, count = match["kind"], match["count"]
    if kind and kind.isdecimal() and count is None:
        return int(kind)
    return int(count or 1)


@functools.cache
def resolved(options: Settings) -> Settings:
    """The options with GPUs and CPUs that are not given taken from the partition's nodes; asks Slurm once.

    Raises UserError if its nodes differ in their GPUs, and for a time limit that the partition does not allow.
    """
    gres = getattr(options, "gres", None)
    if gres:
        options = replace(options, gpus_per_node=gpus_of(gres))
    found = partition_of(options.partition)
    if found is None:
        return options
    if options.gpus_per_node is None and options.processes_per_node is None:
        options = replace(options, gpus_per_node=_gpus(found))
    asked = getattr(options, "time", None)
    if asked and minutes_of(asked) > found.minutes:
        raise UserError(
            f"--time {asked} is more than partition {found.name} allows: use --time {found.limit}. The run continues "
            f"in the next start"
        )
    if options.cpus_per_task is None:
        sharing = max(*found.gpus, layout_of(options).processes_per_node) if options.gpus_per_node else 0
        sharing = sharing or layout_of(options).processes_per_node
        options = replace(options, cpus_per_task=max(1, found.cpus // sharing))
    return options


def _gpus(found: Partition) -> int:
    if len(found.gpus) > 1:
        counts = " or ".join(str(count) for count in sorted(found.gpus))
        raise UserError(
            f"the nodes of partition {found.name} have {counts} GPUs: say --gpus-per-node N, or 0 to train on CPUs"
        )
    (count,) = found.gpus
    return count
