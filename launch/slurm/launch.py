"""The launcher for Slurm: one process for each GPU, started by srun, queued again until the run has finished."""

import shlex
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from launch.cluster_file import cluster_file
from launch.layout import Layout, layout_of
from launch.settings import ProcessSettings
from launch.slurm import foreground, scontrol, script
from launch.slurm.environment import has_slurm, of_slurm
from launch.slurm.partition import resolved
from launch.slurm.process import SlurmProcess
from launch.slurm.settings import SlurmSettings
from launch.slurm.time import as_text, minutes_of
from launch.state import State
from launch.submission import Job, Run, Submission, new_submission, require_plain_folder
from trainer.errors import UserError, counted


class Slurm:
    """See launch.cluster.Cluster."""

    settings = SlurmSettings

    def resolved(self, options: ProcessSettings) -> ProcessSettings:
        found: ProcessSettings = resolved(options)
        return found

    def processes(self, options: SlurmSettings) -> int:
        return layout_of(resolved(options)).processes

    def train_options(self, options: SlurmSettings) -> dict[str, str]:
        derived = {"--timeout-minutes": str(options.timeout_minutes)}
        if (gpus := resolved(options).gpus_per_node) is not None:
            # a node whose GPU is gone must not train on its CPUs, nor a job without GPUs on those that its nodes have
            derived["--device"] = "cuda" if gpus else "cpu"
        return derived

    def describe(self, options: SlurmSettings, submission: Submission, runs: list[Run]) -> str:
        """The sbatch script, and what `sbatch --test-only` says of it."""
        require_plain_folder(runs)
        options = resolved(options)
        layout = layout_of(options)
        lines = [f"# {_resources(options, layout)}; {as_text(minutes_of(options.time))} for each start"]
        if file := cluster_file(options.cluster):
            lines.append(f"# with the settings of {file}")
        lines.append(script.script(options, layout, submission, _name(runs), len(runs)))
        if has_slurm():
            said = script.dry_run(options, layout, submission, _name(runs), len(runs))
            lines.append(f"# sbatch --test-only: {said}\n")
        return "\n".join(lines)

    def submit(self, options: SlurmSettings, runs: list[Run]) -> Callable[[], int]:
        """Submits a job, or an array for several runs."""
        require_plain_folder(runs)
        if not has_slurm():
            raise UserError(
                "no Slurm answers here (sinfo): python -m launch local --background runs on this machine, with the "
                "same status, logs and cancel; --plan shows the job without one"
            )
        options = resolved(options)
        layout = layout_of(options)
        submission = new_submission(runs)
        submission.write_job(_job(options, layout, runs, job_id=""))  # the job may begin before its id is known here
        try:
            processes = _slurm_processes(options, layout, submission, runs)
            job_id = script.submit(options, layout, submission, _name(runs), processes)
        except BaseException:
            submission.discard()
            raise
        submission.write_job(_job(options, layout, runs, job_id))
        submission.point(runs)
        folders = shlex.join(str(run.run_dir) for run in runs)
        what = f"array {job_id} of {len(runs)} runs" if len(runs) > 1 else f"job {job_id}"
        print(f"submitted {what}, {_resources(options, layout)}: python -m launch status {folders}")
        return lambda: 0

    def state(self, submission: Submission, index: int) -> State:
        return scontrol.job_state(submission, index)

    def cancel(self, submission: Submission, index: int) -> str:
        return scontrol.cancel_job(submission, index)

    def log_file(self, submission: Submission, index: int, rank: int) -> Path:
        return submission.logs / f"{scontrol.job_name(submission.job, index)}_{rank}_log.out"

    def environment(self, variables: Mapping[str, str]) -> dict[str, str]:
        return of_slurm(variables)[0]

    def answers(self) -> bool:
        return has_slurm()

    def run(self, options: ProcessSettings, module: str, argv: list[str]) -> int:
        few = replace(resolved(options), cpus_per_task=options.cpus_per_task)  # a check need not wait for all CPUs
        return foreground.run(few, module, argv)


def _slurm_processes(
    options: SlurmSettings, layout: Layout, submission: Submission, runs: list[Run]
) -> list[SlurmProcess]:
    return [
        SlurmProcess(
            submission=submission.folder,
            index=index,
            argv=tuple(run.argv(submission.recipe_file(run))),
            preflight=options.preflight and layout.nodes > 1,
        )
        for index, run in enumerate(runs)
    ]


def _job(options: SlurmSettings, layout: Layout, runs: list[Run], job_id: str) -> Job:
    return Job(
        cluster="slurm",
        id=job_id,
        processes=layout.processes,
        max_restarts_without_checkpoint=options.max_restarts_without_checkpoint,
        runs=[str(run.run_dir) for run in runs],
    )


def _name(runs: list[Run]) -> str:
    return runs[0].name if len(runs) == 1 else f"{runs[0].name}+{len(runs) - 1}"


def _resources(options: SlurmSettings, layout: Layout) -> str:
    on = f"{counted(layout.gpus_per_node, 'GPU')} each" if layout.gpus_per_node else "on CPUs"
    cpus = counted(options.cpus_per_task, "CPU") if options.cpus_per_task else "Slurm's default of CPUs, often 1,"
    memory = f"{options.mem} of memory on each node" if options.mem else "Slurm's default of memory (--mem)"
    processes = f"{counted(layout.processes, 'process')} on {counted(layout.nodes, 'node')}, {on}"
    return f"{processes}; {cpus} for each process; {memory}"
