"""Where processes run: what a launcher implements, and the launchers there are.

A new launcher is a package beside launch/slurm/ and launch/local/ with a class like this Protocol, and a line in
CLUSTERS. `python -m launch NAME`, status, logs, cancel and preflight then work with it.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from launch.local.launch import Local
from launch.settings import LaunchSettings, ProcessSettings
from launch.slurm.launch import Slurm
from launch.state import State
from launch.submission import Job, Run, Submission
from trainer.errors import UserError


class Cluster(Protocol):
    """`options` is always an instance of `settings`; `index` is the run's number within its submission."""

    @property
    def settings(self) -> type[LaunchSettings]:
        """The options of `python -m launch NAME`; its docstring is the command's help."""

    def resolved(self, options: Any) -> Any:
        """The options of a launch or a check. Those that are not set follow from the cluster's nodes."""

    def processes(self, options: Any) -> int:
        """The processes of each run."""

    def train_options(self, options: Any) -> dict[str, str]:
        """The options of `trainer train` that follow from the cluster, unless the user sets them."""

    def describe(self, options: Any, submission: Submission, runs: list[Run]) -> str:
        """What submit() would start, for --plan."""

    def submit(self, options: Any, runs: list[Run]) -> Callable[[], int]:
        """Starts the runs. Raises UserError if the cluster refuses them.

        No other launch of them can be made meanwhile. What takes long, such as training in the foreground, is left to
        the function that it returns, whose result is the exit code.
        """

    def state(self, submission: Submission, index: int) -> State:
        """The state of a run's job. Raises UserError if the submission's record cannot be read."""

    def cancel(self, submission: Submission, index: int) -> str:
        """Ends a run's job, which saves first, and returns one line. Raises UserError if that fails."""

    def log_file(self, submission: Submission, index: int, rank: int) -> Path:
        """The file with a rank's output; several ranks may share one."""

    def environment(self, variables: Mapping[str, str]) -> dict[str, str]:
        """torchrun's variables for the process that the cluster started with these."""

    def answers(self) -> bool:
        """Whether the cluster can be used from this machine."""

    def run(self, options: ProcessSettings, module: str, argv: list[str]) -> int:
        """Runs `python -m MODULE WORDS` on every process in the foreground, for preflight. Returns the exit code."""


CLUSTERS: dict[str, Cluster] = {"slurm": Slurm(), "local": Local()}  # preflight takes the first that answers


def cluster_of(job: Job) -> Cluster:
    """The launcher that started a job. Raises UserError if this version does not know it."""
    if job.cluster not in CLUSTERS:
        raise UserError(f"the job was started by the launcher {job.cluster!r}, known are {', '.join(CLUSTERS)}")
    return CLUSTERS[job.cluster]
