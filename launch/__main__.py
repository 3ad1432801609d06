"""The entry point: python -m launch COMMAND, and how each command reports mistakes."""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import NoReturn

import trainer.process.streams  # noqa: F401  # first: for its effect
from launch import command_line, jobs, settings
from launch.cluster import CLUSTERS
from trainer import __version__
from trainer.cli.suggestions import unknown_command
from trainer.errors import UserError, one_line
from trainer.process.unforeseen import after_broken_pipe

USAGE = """usage: python -m launch COMMAND ...

{launchers}
  status [RUN ...]                     state, step, speed, accuracy, time left, starts and reasons
  logs RUN [-f] [--rank N]             the output of one rank
  cancel RUN ...                       save and stop; launch again to resume
  preflight [OPTIONS]                  check machines, data, network, disk and clocks before a long job

Options before RECIPE configure the launcher; those after it go to python -m trainer train:
  python -m launch slurm --nodes 4 --gpus-per-node 8 --partition gpu --time 12:00:00 \\
      resnet50_goyal2017_8k --data DIR --run-dir RUN
Several recipes, --seeds 0 1 2 or --vary optimizer.lr=0.05,0.1 get a run directory each. --plan only shows the job.
python -m launch COMMAND --help shows the options of one command."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code.

    0; 1 where a local run was given up, or preflight found faults; 2 for input that cannot be used; 128 + n after
    signal n.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage())
        return 0 if argv else 2
    if argv == ["--version"]:
        print(f"shortcut-trainer {__version__}")
        return 0
    commands: dict[str, Callable[[list[str]], int]] = {
        **{name: partial(jobs.launch, name) for name in CLUSTERS},
        "status": _status,
        "logs": _logs,
        "cancel": _cancel,
        "preflight": _preflight,
    }
    try:
        if argv[0] not in commands:
            raise UserError(unknown_command(argv[0], list(commands)))
        return commands[argv[0]](argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    except BrokenPipeError:
        return after_broken_pipe()
    except OSError as error:
        if error.filename is None:
            raise
        print(f"error: {one_line(f'{error.filename}: {error.strerror}')}", file=sys.stderr, flush=True)
        return 2
    except KeyboardInterrupt:
        return 130


def _usage() -> str:
    lines = []
    for name, cluster in sorted(CLUSTERS.items()):
        does = (cluster.settings.__doc__ or "").splitlines()[0].rstrip(".")
        lines.append(f"  {f'{name} [OPTIONS] RECIPE ...':<36} {does[:1].lower()}{does[1:]}")
    return USAGE.format(launchers="\n".join(lines))


def _status(argv: list[str]) -> int:
    options = command_line.parse(settings.StatusSettings, argv, "status")
    from launch.status import status

    status(options)
    return 0


def _logs(argv: list[str]) -> int:
    options = command_line.parse(settings.LogsSettings, argv, "logs")
    from launch.logs import logs

    logs(options)
    return 0


def _cancel(argv: list[str]) -> int:
    options = command_line.parse(settings.CancelSettings, argv, "cancel")
    if not options.runs:
        raise UserError("which runs? python -m launch cancel RUN ...")
    for run_dir in options.runs:
        print(jobs.cancel(run_dir))
    return 0


def _preflight(argv: list[str]) -> int:
    options = command_line.parse(settings.PreflightSettings, argv, "preflight")
    from launch.preflight import preflight

    return preflight(options)


def run() -> NoReturn:
    """Ends the process with the command's exit code: what `python -m launch` and the script `shortcut-launch` call."""
    sys.exit(main())


if __name__ == "__main__":
    run()
