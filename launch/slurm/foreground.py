"""Processes of Slurm in the foreground: one for each GPU, through srun."""

import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from launch.layout import layout_of
from launch.settings import ProcessSettings
from launch.slurm.time import minutes_of
from trainer.errors import UserError

_OPTIONS = ("partition", "account", "qos", "constraint", "mem", "exclude", "nodelist", "reservation")


def run(options: ProcessSettings, module: str, argv: list[str]) -> int:
    """Runs `python -m MODULE ARGV` on every process and returns srun's exit code. Raises UserError without srun."""
    command = _command(options, module, argv)
    try:
        return subprocess.run(command).returncode
    except OSError as error:
        raise UserError(f"{command[0]} cannot be run: {error.strerror}") from error


def _command(options: ProcessSettings, module: str, argv: list[str]) -> list[str]:
    """srun; with setup lines, an allocation whose first node runs them once and then srun, as a job's script does."""
    layout = layout_of(options)
    processes = _flags(
        {
            "nodes": layout.nodes,
            "ntasks": layout.processes,
            "ntasks-per-node": layout.processes_per_node,
            "gpus-per-node": layout.gpus_per_node or None,
            "cpus-per-task": options.cpus_per_task,
        }
    )
    job = _flags(
        {
            "time": minutes_of(getattr(options, "time", "00:10:00")),
            "job-name": module.rpartition(".")[2],
            **{name: getattr(options, name) for name in _OPTIONS},
        }
    )
    # All of them find the faults and exit with 1: the first to do so must not have the others killed at once.
    ends = ["--kill-on-bad-exit=0", "--wait=15"]
    each = [*options.srun, "bash", "-c", _script(options, module, argv)]
    if not options.setup:
        return ["srun", *ends, *processes, *job, *each]
    script = "\n".join([*options.setup, shlex.join(["srun", *ends, *processes, *each])])
    # Slurm's own way to a shell on the first node, which leaves CPUs and GPUs to further steps (LaunchParameters of
    # slurm.conf(5), use_interactive_step). The variables of the job stay those that a job's script sees.
    first = ["srun", "--interactive", "--preserve-env", "--nodes=1", "--ntasks=1", "--ntasks-per-node=1"]
    return ["salloc", "--quiet", *processes, *job, *first, "bash", "-c", script]


def _flags(given: Mapping[str, object]) -> list[str]:
    return [f"--{name}={value}" for name, value in given.items() if value is not None]


def _script(options: ProcessSettings, module: str, argv: list[str]) -> str:
    """For each process, which finds the first node's address for itself."""
    python = " ".join(filter(None, [options.container, shlex.quote(options.python or sys.executable)]))
    here = Path(__file__).parent.parent.parent
    lines = [
        f"export PYTHONPATH={shlex.quote(str(here))}${{PYTHONPATH:+:$PYTHONPATH}} PYTHONSAFEPATH=1",
        'first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
        "export MASTER_ADDR=$(scontrol show node \"$first\" | sed -n 's/.*NodeAddr=\\([^ ]*\\).*/\\1/p')",
        "export MASTER_PORT=$((10000 + SLURM_JOB_ID * 7919 % 22000))",
        f"exec {python} -m {module} {shlex.join(argv)}",
    ]
    return "\n".join(lines)
