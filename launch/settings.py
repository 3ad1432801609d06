"""The options of the launcher's commands; a launcher's own are in its package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from trainer.settings import NONE_BY_DEFAULT, check_positive, one_or_more

Repeated = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]


@dataclass(frozen=True, kw_only=True)
class ProcessSettings:
    """How many processes, on what."""

    nodes: int | None = None
    """number of nodes; None: 1, or as many as --gpus fill"""
    gpus_per_node: int | None = None
    """GPUs of each node to use, one process for each; 0: train on CPUs; None: all that a node has,
    unless --processes-per-node is given"""
    gpus: int | None = None
    """total GPUs, instead of --nodes: whole nodes of --gpus-per-node, or a part of one"""
    processes_per_node: int | None = None
    """without GPUs: processes on each node; None: 1"""
    cpus_per_task: int | None = None
    """CPUs of each process, for its loader threads; None: the node's CPUs over its GPUs or processes"""
    partition: str | None = None
    """Slurm's partition; None: its default"""
    account: str | None = None
    """Slurm's account to charge; None: its default"""
    qos: str | None = None
    """Slurm's quality of service; None: its default"""
    constraint: str | None = None
    """features that nodes must have"""
    mem: str | None = None
    """memory of each node, e.g. 200G"""
    exclude: str | None = None
    """nodes not to use, e.g. n[3,7]"""
    nodelist: str | None = None
    """nodes to use"""
    reservation: str | None = None
    """Slurm's reservation to run in"""
    setup: Repeated = ()
    """shell line to run on the first node before training, e.g. 'export NCCL_SOCKET_IFNAME=ib0'"""
    container: str | None = None
    """command prefix of python in each process, e.g. 'apptainer exec --nv image.sif'"""
    python: str | None = None
    """the Python of the nodes, or of the container; None: the one that runs this command"""
    srun: Repeated = ()
    """extra argument of srun, e.g. --srun=--container-image=image.sqsh"""
    cluster: Path | None = None
    """TOML file with these options, except nodes, gpus, name, seeds, vary and plan; None: ./launch.toml, if
    it exists"""

    def __post_init__(self) -> None:
        check_positive(self, "nodes", "gpus", "processes_per_node", "cpus_per_task")
        if self.gpus_per_node is not None and self.gpus_per_node < 0:
            raise ValueError(f"gpus_per_node={self.gpus_per_node} is negative")


@dataclass(frozen=True, kw_only=True)
class LaunchSettings:
    """The options that every launcher has."""

    seeds: Annotated[tuple[int, ...], NONE_BY_DEFAULT] = ()
    """one run for each of these seeds"""
    vary: Repeated = ()
    """one run for each value of a setting: optimizer.lr=0.05,0.1,0.2; given twice: one run for each combination"""
    max_restarts_without_checkpoint: int = 5
    """give up a run after this many starts in a row without a new checkpoint"""
    plan: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """print the job, what each process runs, and the recipe's plan; start nothing"""

    def __post_init__(self) -> None:
        check_positive(self, "max_restarts_without_checkpoint")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds={' '.join(map(str, self.seeds))} names one twice")


@dataclass(frozen=True, kw_only=True)
class StatusSettings:
    """Show state, step, speed, accuracy, time left and starts of launched runs, with reasons."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[RUN ...]")] = ()
    """folders of runs, or folders that hold them; none: this folder"""


@dataclass(frozen=True, kw_only=True)
class LogsSettings:
    """Print what a run's processes wrote, of all its starts."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """folder of the run"""
    rank: int = 0
    """which process"""
    follow: Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(aliases=["-f"])] = False
    """keep printing until the job has ended"""


@dataclass(frozen=True, kw_only=True)
class CancelSettings:
    """Stop launched runs. They save first; launching them again continues from there."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, one_or_more("RUN")]
    """folders of runs"""


@dataclass(frozen=True, kw_only=True)
class PreflightSettings(ProcessSettings):
    """Check machines before a long job: versions, devices, data, network, disk, clocks. One line for each fault."""

    data: str | None = None
    """folder of the data, which each node must see with the same content"""
    run_dir: Path | None = None
    """folder of the runs, which each node must share and have room in"""
    time: str = "00:10:00"
    """time limit of the check, in Slurm; the first reading of large --data may take longer"""
    on: str = "auto"
    """which launcher's machines: slurm, local, or auto for Slurm where it answers"""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """auto: cuda where there is a GPU"""
