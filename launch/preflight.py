"""Before a long job: does every process see its device, the same code, data and run directory, and the others?

`python -m launch preflight` runs `python -m launch.preflight LAUNCHER CHECKS` on every process and prints one line for
each fault, with the node's name; exit code 1 says that there are some. Jobs on several nodes run the quick form first.
"""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from launch.checks import run_checks
from launch.cluster import CLUSTERS
from launch.comparison import Checks
from launch.settings import PreflightSettings
from trainer.errors import UserError


def preflight(options: PreflightSettings) -> int:
    """Runs the checks on a launcher's machines and returns 0, or 1 where there are faults."""
    if options.on not in ("auto", *CLUSTERS):
        raise UserError(f"--on {options.on}: use auto, {', '.join(CLUSTERS)}")
    on = next(name for name, it in CLUSTERS.items() if it.answers()) if options.on == "auto" else options.on
    gpus = CLUSTERS[on].resolved(options).gpus_per_node
    checks = Checks(
        data=str(Path(options.data).absolute()) if options.data else None,
        run_dir=str(options.run_dir.absolute()) if options.run_dir else None,
        device="cuda" if options.device == "auto" and gpus else options.device,
    )
    return 1 if CLUSTERS[on].run(options, "launch.preflight", [on, json.dumps(asdict(checks))]) else 0


def _main(on: str, checks: str) -> int:
    if "RANK" not in os.environ:  # torchrun sets it, also within a job of Slurm
        os.environ.update(CLUSTERS[on].environment(os.environ))
    try:
        return 1 if run_checks(Checks(**json.loads(checks))) else 0
    except UserError as error:
        print(f"fault: {error}", file=sys.stderr, flush=True)
        return 1


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
