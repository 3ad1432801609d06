"""Before a long job: does every process see its device, the same code, data and run directory, and the others?

`python -m launch preflight` runs `python -m launch.preflight FACTS` on every process and prints one line for each
fault, with the node's name; exit code 1 says that there are some. Jobs on several nodes run the quick form first.
"""

import json
import os
import shlex
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from launch.checks import Checks, run_checks
from launch.layout import Layout, layout_of, minutes_of
from launch.settings import PreflightSettings
from launch.torchrun import torchrun
from trainer.distributed.parent import EXIT_RETRY
from trainer.errors import UnreachableError, UserError


def preflight(options: PreflightSettings) -> int:
    """Runs the checks on Slurm's nodes, or on this machine, and returns 0, or 1 where there are faults."""
    from launch.submit import has_slurm

    layout = layout_of(options)
    checks = Checks(
        data=str(Path(options.data).absolute()) if options.data else None,
        run_dir=str(options.run_dir.absolute()) if options.run_dir else None,
        device="cuda" if options.device == "auto" and layout.gpus_per_node else options.device,
    )
    on_slurm = has_slurm() if options.on == "auto" else options.on == "slurm"
    if not on_slurm and layout.nodes > 1:
        raise UserError(f"--nodes {layout.nodes}, but no Slurm answers here (sinfo)")
    if not on_slurm:
        entry = ["-m", "launch.preflight", json.dumps(asdict(checks))]
        return 1 if torchrun(layout.processes, entry, run_id="preflight").code else 0
    command = _srun(options, layout, checks)
    try:
        return 1 if subprocess.run(command).returncode else 0
    except OSError as error:
        raise UserError(f"{command[0]} cannot be run: {error.strerror}") from error


def quick(words: list[str]) -> int:
    """The short form, at the start of a job that is about to train with these words.

    Returns the exit code: 0, 2 for faults, 75 where processes did not meet.

    In a job's process, with torchrun's variables set. The port after the job's own is free for it: see attempt.py.
    """
    checks = Checks(
        data=_value(words, "--data"),
        run_dir=_value(words, "--run-dir"),
        device=_value(words, "--device") or "auto",
        bandwidth=False,
        content=False,
    )
    port = os.environ["MASTER_PORT"]
    os.environ["MASTER_PORT"] = str(int(port) + 1)
    try:
        faults = run_checks(checks)
        if faults and os.environ["RANK"] == "0":
            print(f"error: preflight: {faults[0]}{f', and {len(faults) - 1} more' * (len(faults) > 1)}", flush=True)
        return 2 if faults else 0
    except UnreachableError as error:
        print(f"error: preflight: {error}", flush=True)
        return EXIT_RETRY
    finally:
        os.environ["MASTER_PORT"] = port


def _value(words: list[str], option: str) -> str | None:
    return words[words.index(option) + 1] if option in words else None


def _srun(options: PreflightSettings, layout: Layout, checks: Checks) -> list[str]:
    """One process for each GPU, in the foreground. The first node is found by each process for itself."""
    given = {
        "nodes": layout.nodes,
        "ntasks-per-node": layout.processes_per_node,
        "gpus-per-node": layout.gpus_per_node or None,
        "cpus-per-task": options.cpus_per_task,
        "time": minutes_of(options.time),
        "job-name": "preflight",
        **{name: getattr(options, name) for name in ("partition", "account", "qos", "constraint", "mem", "exclude")},
        **{name: getattr(options, name) for name in ("nodelist", "reservation")},
    }
    flags = [f"--{name}={value}" for name, value in given.items() if value is not None]
    python = " ".join(filter(None, [options.container, shlex.quote(options.python or sys.executable)]))
    here = Path(__file__).parent.parent
    lines = [
        *options.setup,
        f"export PYTHONPATH={shlex.quote(str(here))}${{PYTHONPATH:+:$PYTHONPATH}} PYTHONSAFEPATH=1",
        'first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
        "export MASTER_ADDR=$(scontrol show node \"$first\" | sed -n 's/.*NodeAddr=\\([^ ]*\\).*/\\1/p')",
        f"exec {python} -m launch.preflight {shlex.quote(json.dumps(asdict(checks)))}",
    ]
    # All of them find the faults and exit with 1: the first to do so must not have the others killed at once.
    ends = ["--kill-on-bad-exit=0", "--wait=15"]
    return ["srun", *ends, *flags, *options.srun, "bash", "-c", "\n".join(lines)]


def _main(facts: str) -> int:
    if "RANK" not in os.environ:  # under srun; torchrun may itself run within a job of Slurm
        from launch.rank import of_slurm

        os.environ.update(of_slurm(dict(os.environ))[0])
        os.environ["MASTER_PORT"] = str(10_000 + int(os.environ["SLURM_JOB_ID"]) * 7919 % 22_000)
    try:
        return 1 if run_checks(Checks(**json.loads(facts))) else 0
    except UserError as error:
        print(f"fault: {error}", file=sys.stderr, flush=True)
        return 1


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1]))
