"""The door: python -m launch VERB, and what each verb answers to mistakes."""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from launch import command_line, settings
from trainer import __version__
from trainer.errors import UserError

USAGE = """usage: python -m launch VERB ...

  local [OPTIONS] RECIPE ...           train on this machine: torchrun over its GPUs, started again after a crash
  slurm [OPTIONS] RECIPE ...           submit training to a Slurm cluster; --plan only shows the job
  status [RUN ...]                     state, step, speed, accuracy, time left, starts and why
  logs RUN [-f] [--rank N]             what the processes wrote
  cancel RUN ...                       save and stop; launching again goes on from there
  preflight [OPTIONS]                  check machines, data, network, disk and clocks before a long job

What stands before RECIPE is the launcher's, what stands after it the job's, as python -m trainer train takes it:
  python -m launch slurm --nodes 4 --gpus-per-node 8 --partition gpu --time 12:00:00 \\
      resnet50_goyal2017_8k --data DIR --run-dir RUN
Several recipes, or --seeds 0 1 2, become a job array with a run directory each.
python -m launch VERB --help shows the options of one verb."""


def main(words: Sequence[str] | None = None) -> int:
    """Runs one verb and returns the exit code: 0, 2 for input that cannot be used, 128 + n after signal n."""
    words = list(sys.argv[1:] if words is None else words)
    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if words else 2
    if words == ["--version"]:
        print(f"shortcut-trainer {__version__}")
        return 0
    verbs: dict[str, Callable[[list[str]], int]] = {
        "local": _local,
        "slurm": _slurm,
        "status": _status,
        "logs": _logs,
        "cancel": _cancel,
        "preflight": _preflight,
    }
    try:
        if words[0] not in verbs:
            raise UserError(f"there is no verb {words[0]!r}: use {', '.join(verbs)}")
        return verbs[words[0]](words[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more when it ends
        return 128 + signal.SIGPIPE


def _local(words: list[str]) -> int:
    parsed = command_line.parse_launch(settings.LocalSettings, words, "local")
    from launch.local import launch_local

    return launch_local(*parsed)


def _slurm(words: list[str]) -> int:
    parsed = command_line.parse_launch(settings.SlurmSettings, words, "slurm")
    from launch.slurm import launch_slurm

    return launch_slurm(*parsed)


def _status(words: list[str]) -> int:
    options = command_line.parse(settings.StatusSettings, words, "status")
    from launch.status import status

    status(options)
    return 0


def _logs(words: list[str]) -> int:
    options = command_line.parse(settings.LogsSettings, words, "logs")
    from launch.logs import logs

    logs(options)
    return 0


def _cancel(words: list[str]) -> int:
    options = command_line.parse(settings.CancelSettings, words, "cancel")
    if not options.runs:
        raise UserError("which runs? python -m launch cancel RUN ...")
    from launch.jobs import cancel

    for run_dir in options.runs:
        print(cancel(run_dir))
    return 0


def _preflight(words: list[str]) -> int:
    options = command_line.parse(settings.PreflightSettings, words, "preflight")
    from launch.preflight import preflight

    return preflight(options)


def run() -> NoReturn:
    """Ends the process with the command's exit code: what `python -m launch` and the script `shortcut-launch` call."""
    sys.exit(main())


if __name__ == "__main__":
    run()
