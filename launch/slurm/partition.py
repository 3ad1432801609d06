"""What the nodes of a partition have, as sinfo says, and what follows from it for options that are not given."""

import functools
import re
from dataclasses import dataclass, replace
from typing import TypeVar

from launch.layout import layout_of
from launch.settings import ProcessSettings
from launch.slurm.scontrol import run_slurm
from launch.slurm.time import minutes_of
from trainer.errors import UserError

Settings = TypeVar("Settings", bound=ProcessSettings)
_GPUS = re.compile(r"\bgpu(?::[^:,()]+)?:(\d+)")
_GRES = re.compile(r"gpu(?::(?P<kind>[^:,=]+))?(?::(?P<count>\d+))?")


@dataclass(frozen=True, kw_only=True)
class Partition:
    """The nodes that a job may get."""

    name: str
    gpus: frozenset[int]
    """numbers of GPUs that its nodes have; 0: nodes without"""
    cpus: int
    """of the node with the fewest"""
    limit: str
    """the longest time of a job, in Slurm's notation, or infinite"""

    @property
    def minutes(self) -> int | None:
        """The same in minutes; None: any."""
        try:
            return minutes_of(self.limit)
        except ValueError:
            return None


def partition_of(name: str | None) -> Partition | None:
    """The partition, or the cluster's default one; None where no Slurm answers or it does not know the name."""
    asked = ("-p", name) if name else ()
    shown = run_slurm("sinfo", "-h", "-N", "-o", "%P|%G|%c|%l", *asked)
    lines = [line.split("|") for line in shown.stdout.splitlines() if line.count("|") == 3]
    if not name:
        lines = [line for line in lines if line[0].endswith("*")]
    if not lines:
        return None
    return Partition(
        name=lines[0][0].rstrip("*"),
        gpus=frozenset(sum(map(int, _GPUS.findall(gres))) for _, gres, _, _ in lines),
        cpus=min(int(re.sub(r"\D.*", "", cpus)) for _, _, cpus, _ in lines),
        limit=lines[0][3],
    )


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

    Raises UserError where its nodes differ in their GPUs, and for a time limit that the partition does not allow.
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
    if asked and found.minutes is not None and minutes_of(asked) > found.minutes:
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
