"""To a Slurm cluster: one process for each GPU, started by srun, queued again until the run has finished."""

import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from launch import submit
from launch.cluster import cluster_file
from launch.command_line import runs_of
from launch.jobs import refuse_running
from launch.layout import Layout, layout_of, minutes_of
from launch.rank import Rank
from launch.settings import SlurmSettings
from launch.submission import Job, Run, Submission, common_folder, new_submission
from trainer.errors import UserError


def launch_slurm(options: SlurmSettings, recipes: list[str], words: list[str]) -> int:
    """Submits a job, or an array for several runs; or with options.plan prints what it would be. Raises UserError."""
    layout = layout_of(options)
    runs = runs_of(options, recipes, [*words, *_derived(options, layout, words)], layout.processes)
    if options.plan:
        return _plan(options, layout, runs)
    if not submit.has_slurm():
        raise UserError(
            "no Slurm answers here (sinfo): python -m launch local --background runs on this machine, with the same "
            "status, logs and cancel; --plan shows the job without one"
        )
    refuse_running(runs)
    submission = new_submission(runs)
    name = _name(runs)
    submission.write_job(_job(options, layout, runs, job_id=""))  # the job may begin before its id is known here
    try:
        job_id = submit.submit(options, layout, submission, name, _ranks(options, layout, submission, runs))
    except BaseException:
        shutil.rmtree(submission.folder)
        raise
    submission.write_job(_job(options, layout, runs, job_id))
    submission.point(runs)
    folders = " ".join(str(run.run_dir) for run in runs)
    what = f"array {job_id} of {len(runs)} runs" if len(runs) > 1 else f"job {job_id}"
    print(f"submitted {what}, {_processes(layout)}: python -m launch status {folders}")
    return 0


def _plan(options: SlurmSettings, layout: Layout, runs: list[Run]) -> int:
    """Prints script, recipe, processes, batches and threads."""
    with tempfile.TemporaryDirectory() as scratch:
        submission = Submission(common_folder(runs) / "launch" / "NEXT")
        print(f"# {_processes(layout)}; {_threads(options)}; {minutes_of(options.time)} minutes for each start")
        if file := cluster_file(options.cluster):
            print(f"# with the settings of {file}")
        print(submit.script(options, layout, submission, _name(runs), len(runs)))
        for run in runs:
            file = Path(scratch) / f"{run.name}.py"
            file.write_text(run.recipe)
            print(f"# every process of {run.run_dir}")
            print(f"python -m trainer {shlex.join(run.words(submission.recipe_file(run)))}\n", flush=True)
        if submit.has_slurm():
            print(f"# sbatch --test-only: {submit.refusal(options, layout, submission, _name(runs), len(runs))}\n")
        code = 0
        for recipe in dict.fromkeys(run.recipe for run in runs):
            run = next(run for run in runs if run.recipe == recipe)
            data = ["--data", run.data] if Path(run.data).exists() else []
            command = [sys.executable, "-m", "trainer", "plan", str(Path(scratch) / f"{run.name}.py"), *data]
            sys.stdout.flush()
            code = subprocess.run([*command, "--world-size", str(layout.processes)]).returncode or code
    return code


def _derived(options: SlurmSettings, layout: Layout, words: list[str]) -> list[str]:
    """What follows from the job for the trainer, where the user's words do not say it."""
    derived = {"--timeout-minutes": str(options.timeout_minutes)}
    if layout.gpus_per_node:
        derived["--device"] = "cuda"  # a node whose GPU is gone must not train on its CPUs
    return [part for name, value in derived.items() if not _says(words, name) for part in (name, value)]


def _says(words: list[str], option: str) -> bool:
    return any(word == option or word.startswith(f"{option}=") for word in words)


def _ranks(options: SlurmSettings, layout: Layout, submission: Submission, runs: list[Run]) -> list[Rank]:
    return [
        Rank(
            submission=submission.folder,
            index=index,
            words=tuple(run.words(submission.recipe_file(run))),
            preflight=options.preflight and layout.nodes > 1,
        )
        for index, run in enumerate(runs)
    ]


def _job(options: SlurmSettings, layout: Layout, runs: list[Run], job_id: str) -> Job:
    folders = [str(run.run_dir) for run in runs]
    return Job(
        cluster="slurm",
        id=job_id,
        processes=layout.processes,
        max_restarts_without_checkpoint=options.max_restarts_without_checkpoint,
        runs=folders,
    )


def _name(runs: list[Run]) -> str:
    return runs[0].name if len(runs) == 1 else f"{runs[0].name}+{len(runs) - 1}"


def _processes(layout: Layout) -> str:
    on = f"{layout.gpus_per_node} GPUs each" if layout.gpus_per_node else "on CPUs"
    return f"{layout.processes} processes on {layout.nodes} node{'s' * (layout.nodes > 1)}, {on}"


def _threads(options: SlurmSettings) -> str:
    if options.cpus_per_task:
        return f"{options.cpus_per_task} threads to read images in each process"
    return "as many threads to read images as Slurm gives CPUs, often 1: see --cpus-per-task"
