"""Options of Slurm and torchrun, and what takes their place in a launcher: for the message where one is typed."""

import re

from trainer.errors import UserError

_FOLLOWS = "follows from --nodes with --gpus-per-node, or --processes-per-node on CPUs: one process for each GPU"
ANSWERS = {
    "-N": "--nodes",
    "-p": "--partition",
    "-t": "--time",
    "-A": "--account",
    "-q": "--qos",
    "-c": "--cpus-per-task",
    "-G": "--gpus",
    "-C": "--constraint",
    "-x": "--exclude",
    "-d": "--dependency",
    "-J": "--name",
    "-o": "python -m launch logs RUN, which prints what each rank wrote",
    "-n": _FOLLOWS,
    "--ntasks": _FOLLOWS,
    "--ntasks-per-node": _FOLLOWS,
    "--nproc-per-node": "--processes of launch local, --gpus-per-node of launch slurm",
    "--nnodes": "--nodes",
}
ANSWERS |= {"--job-name": ANSWERS["-J"], "--output": ANSWERS["-o"], "--error": ANSWERS["-o"]}


def answered(error: UserError) -> UserError:
    """The error of unknown options, with what to use in the place of those that are Slurm's or torchrun's."""
    message = str(error)
    _, _, unknown = message.partition("Unrecognized options: ")
    typed = [word.partition("=")[0].replace("_", "-") for word in re.split(r"[,;(] ?", unknown)]
    answers = [f"Instead of {word}: {ANSWERS[word]}" for word in dict.fromkeys(typed) if word in ANSWERS]
    return UserError(f"{message}. {'. '.join(answers)}") if answers else error
