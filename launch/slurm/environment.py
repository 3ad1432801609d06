"""What Slurm's environment says: who a process is, whether Slurm is here, and what a new job must not inherit."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping


def has_slurm() -> bool:
    """Whether a Slurm answers here."""
    if not shutil.which("sinfo") or not shutil.which("sbatch"):
        return False
    try:
        return subprocess.run(["sinfo", "-h", "-o", "%P"], capture_output=True, timeout=60).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def of_slurm(environment: Mapping[str, str]) -> tuple[dict[str, str], int]:
    """torchrun's variables for the process that Slurm started with this environment, and its number of CPUs.

    The job's script sets MASTER_ADDR and MASTER_PORT. The run id is the job's, the restart count its start's.
    """
    processes, nodes = int(environment["SLURM_NTASKS"]), int(environment["SLURM_JOB_NUM_NODES"])
    local = processes // nodes
    given = environment.get("SLURM_CPUS_PER_TASK")
    cpus = int(given) if given else max(1, int(environment.get("SLURM_CPUS_ON_NODE", 1)) // local)
    cpus = min(cpus, len(os.sched_getaffinity(0)))  # where Slurm binds a process to fewer
    variables = {
        "RANK": environment["SLURM_PROCID"],
        "WORLD_SIZE": str(processes),
        "LOCAL_RANK": environment["SLURM_LOCALID"],
        "LOCAL_WORLD_SIZE": str(local),
        "TORCHELASTIC_RUN_ID": environment["SLURM_JOB_ID"],
        "TORCHELASTIC_RESTART_COUNT": environment.get("SLURM_RESTART_COUNT", "0"),
        "OMP_NUM_THREADS": environment.get("OMP_NUM_THREADS", str(cpus)),
    }
    if name := environment.get("SLURMD_NODENAME"):
        variables["NODE_NAME"] = name
    return variables, cpus


@contextlib.contextmanager
def clean_environment() -> Iterator[None]:
    """Without the variables of other jobs and launchers: a job inherits the environment it is submitted from."""
    foreign = ("SLURM_", "SBATCH_", "SRUN_", "MASTER_", "TORCHELASTIC_", "SUBMITIT_")
    own = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_NAME")
    saved = dict(os.environ)
    for name in saved:
        if name != "SLURM_CONF" and (name.startswith(foreign) or name in own):
            del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(saved)
