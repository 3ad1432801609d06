"""What a user says of where a job runs, verb by verb. What is trained stands behind the recipe's name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from launch.layout import minutes_of

Repeated = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]


@dataclass(frozen=True, kw_only=True)
class ProcessSettings:
    """How many processes, on what."""

    nodes: int | None = None
    """number of nodes; None: 1, or as many as --gpus fill"""
    gpus_per_node: int = 0
    """GPUs of each node to use, one process for each; 0: train on CPUs"""
    gpus: int | None = None
    """GPUs in all, instead of --nodes: whole nodes of --gpus-per-node, or a part of one"""
    processes_per_node: int | None = None
    """without GPUs: processes on each node; None: 1"""
    cpus_per_task: int | None = None
    """CPUs of each process, for the threads that read images; None: what Slurm gives"""
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    """features that nodes must have, as sbatch takes them"""
    mem: str | None = None
    """memory of each node, e.g. 200G"""
    exclude: str | None = None
    """nodes not to use, e.g. n[3,7]"""
    nodelist: str | None = None
    """nodes to use"""
    reservation: str | None = None
    setup: Repeated = ()
    """a shell line for the first node before the processes start, e.g. 'export NCCL_SOCKET_IFNAME=ib0'; repeatable"""
    container: str | None = None
    """what stands before python in each process, e.g. 'apptainer exec --nv image.sif'"""
    python: str | None = None
    """the Python of the nodes, or of the container; None: the one that runs this command"""
    srun: Repeated = ()
    """a further argument of srun, e.g. --srun=--container-image=image.sqsh; repeatable"""
    cluster: Path | None = None
    """TOML file with these settings for a cluster; None: launch.toml of this folder, where there is one"""

    def __post_init__(self) -> None:
        check_positive(self, "nodes", "gpus", "processes_per_node", "cpus_per_task")
        if self.gpus_per_node < 0:
            raise ValueError(f"gpus_per_node={self.gpus_per_node} is negative")


@dataclass(frozen=True, kw_only=True)
class SlurmSettings(ProcessSettings):
    """Submit training to Slurm. Words before RECIPE are for the cluster, words after it for python -m trainer train."""

    time: str = "24:00:00"
    """time limit of one start, as Slurm has it: minutes, HH:MM:SS or DAYS-HH:MM:SS; the job goes on in another one"""
    seeds: tuple[int, ...] = ()
    """a run for each of these seeds, in a job array"""
    at_once: int | None = None
    """elements of an array that run at the same time; None: all"""
    name: str | None = None
    """name of the job; None: the recipe's"""
    signal_seconds: int = 120
    """how long before the time limit the processes save and the job is queued again"""
    max_restarts_without_checkpoint: int = 5
    """starts in a row without a new checkpoint, after which the job is given up"""
    timeout_minutes: float = 10.0
    """how long a process waits for the others before the job is started anew, unless the job's own words say it"""
    preflight: bool = True
    """check nodes, data and network for some seconds at each start on several nodes"""
    plan: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """print the sbatch script, the resolved recipe, processes, batches and threads; submit nothing"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "at_once", "signal_seconds", "max_restarts_without_checkpoint", "timeout_minutes")
        limit = 60 * minutes_of(self.time)
        needed = (
            self.signal_seconds + 60 + 60
        )  # Slurm signals up to a minute early; torch and the data take one to open
        if limit < needed:
            raise ValueError(
                f"time={self.time} is {limit} s: less than --signal-seconds {self.signal_seconds}, the minute by which "
                f"Slurm may be early and one to start, together {needed} s. Ask for more time"
            )
        check_seeds(self.seeds)


@dataclass(frozen=True, kw_only=True)
class LocalSettings:
    """Train on this machine: torchrun over its GPUs, or several processes on its CPUs, started again after a crash."""

    processes: int | None = None
    """number of processes; None: one for each GPU, or 1 where there is none"""
    seeds: tuple[int, ...] = ()
    """a run for each of these seeds, one after another"""
    max_restarts_without_checkpoint: int = 5
    """starts in a row without a new checkpoint, after which the run is given up"""
    background: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """return at once; python -m launch status, logs and cancel tell and decide how it goes on"""

    def __post_init__(self) -> None:
        check_positive(self, "processes", "max_restarts_without_checkpoint")
        check_seeds(self.seeds)


@dataclass(frozen=True, kw_only=True)
class StatusSettings:
    """Show where launched runs stand: state, step, speed, accuracy, time left, starts and why."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """folders of runs, or folders that hold them; none: this folder"""


@dataclass(frozen=True, kw_only=True)
class LogsSettings:
    """Print what a run's processes wrote, of all its starts."""

    run: Annotated[Path, tyro.conf.Positional]
    """folder of the run"""
    rank: int = 0
    """which process"""
    follow: Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(aliases=["-f"])] = False
    """go on printing until the job has ended"""


@dataclass(frozen=True, kw_only=True)
class CancelSettings:
    """Stop launched runs. They save first; launching them again goes on from there."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """folders of runs"""


@dataclass(frozen=True, kw_only=True)
class PreflightSettings(ProcessSettings):
    """Check machines before a long job: versions, devices, data, network, disk, clocks. One line for each fault."""

    data: str | None = None
    """folder of the data, which each node must see with the same content"""
    run_dir: Path | None = None
    """folder of the runs, which each node must share and have room in"""
    time: str = "00:10:00"
    """time limit of the check, in Slurm"""
    on: Literal["auto", "slurm", "local"] = "auto"
    """auto: in Slurm, where sinfo answers; else on this machine"""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """auto: cuda where there is a GPU"""


def check_positive(settings: object, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if value is not None and value <= 0:
            raise ValueError(f"{name}={value} is not a positive number")


def check_seeds(seeds: tuple[int, ...]) -> None:
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds={' '.join(map(str, seeds))} names one twice")
