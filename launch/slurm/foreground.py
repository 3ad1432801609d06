"""Processes of Slurm in the foreground: one for each GPU, through srun."""

import shlex
import subprocess
import sys
from pathlib import Path

from launch.layout import layout_of
from launch.settings import ProcessSettings
from launch.slurm.time import minutes_of
from trainer.errors import UserError

_OPTIONS = ("partition", "account", "qos", "constraint", "mem", "exclude", "nodelist", "reservation")


def run(options: ProcessSettings, module: str, words: list[str]) -> int:
    """Runs `python -m MODULE WORDS` on every process and returns srun's exit code. Raises UserError without srun."""
    command = _srun(options, module, words)
    try:
        return subprocess.run(command).returncode
    except OSError as error:
        raise UserError(f"{command[0]} cannot be run: {error.strerror}") from error


def _srun(options: ProcessSettings, module: str, words: list[str]) -> list[str]:
    """Each process finds the first node's address for itself."""
    layout = layout_of(options)
    given = {
        "nodes": layout.nodes,
        "ntasks-per-node": layout.processes_per_node,
        "gpus-per-node": layout.gpus_per_node or None,
        "cpus-per-task": options.cpus_per_task,
        "time": minutes_of(getattr(options, "time", "00:10:00")),
        "job-name": module.rpartition(".")[2],
        **{name: getattr(options, name) for name in _OPTIONS},
    }
    flags = [f"--{name}={value}" for name, value in given.items() if value is not None]
    python = " ".join(filter(None, [options.container, shlex.quote(options.python or sys.executable)]))
    here = Path(__file__).parent.parent.parent
    lines = [
        *options.setup,
        f"export PYTHONPATH={shlex.quote(str(here))}${{PYTHONPATH:+:$PYTHONPATH}} PYTHONSAFEPATH=1",
        'first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
        "export MASTER_ADDR=$(scontrol show node \"$first\" | sed -n 's/.*NodeAddr=\\([^ ]*\\).*/\\1/p')",
        "export MASTER_PORT=$((10000 + SLURM_JOB_ID * 7919 % 22000))",
        f"exec {python} -m {module} {shlex.join(words)}",
    ]
    # All of them find the faults and exit with 1: the first to do so must not have the others killed at once.
    ends = ["--kill-on-bad-exit=0", "--wait=15"]
    return ["srun", *ends, *flags, *options.srun, "bash", "-c", "\n".join(lines)]
