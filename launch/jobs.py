"""Starts, ends and looks at the jobs of runs, on any cluster."""

import shlex
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from launch.cluster import CLUSTERS, Cluster, cluster_of
from launch.command_line import parse_launch, runs_of
from launch.one_at_a_time import one_at_a_time
from launch.settings import LaunchSettings
from launch.state import State
from launch.submission import Run, Submission, common_folder, submission_of
from trainer.errors import UserError
from trainer.recipe_file import load_recipe
from trainer.run.progress import finished


def launch(name: str, argv: list[str]) -> int:
    """`python -m launch NAME WORDS`: starts the runs, or with --plan prints them, and returns the exit code."""
    cluster = CLUSTERS[name]
    options, recipes, given = parse_launch(cluster.settings, argv, name)
    processes = cluster.processes(options)
    runs = runs_of(options.seeds, recipes, given, processes, options.vary, cluster.train_options(options))
    if options.plan:
        return _plan(cluster, options, runs, processes)
    notes = {run.name: None if run.names_a_file else finished(run.run_dir, run.recipe) for run in runs}
    unfinished = [run for run in runs if notes[run.name] is None]
    with one_at_a_time(run.run_dir for run in unfinished):
        refuse_running(unfinished)
        for note in filter(None, notes.values()):
            print(note)
        wait = cluster.submit(options, unfinished) if unfinished else None
    return wait() if wait else 0


def state_of(submission: Submission, index: int) -> State:
    """The state of run number `index`. Raises UserError if the submission's record cannot be read."""
    return cluster_of(submission.job).state(submission, index)


def cancel(run_dir: Path) -> str:
    """Ends a run's job, which saves first, and returns one line. Raises UserError if there is nothing to end."""
    submission, index = submission_of(run_dir)
    state = state_of(submission, index)
    if state.is_over:
        raise UserError(f"{run_dir} is not running: its job is {state.name}")
    return cluster_of(submission.job).cancel(submission, index)


def refuse_running(runs: list[Run]) -> None:
    """Raises UserError if a run's earlier job is not over."""
    for run in runs:
        folder = run.run_dir
        if not (folder / "launch.json").is_file():
            continue
        submission, index = submission_of(folder)
        if not (submission.folder / "job.json").is_file():  # never got that far
            continue
        state = state_of(submission, index)
        if state.name == "UNKNOWN":
            raise UserError(f"{folder}: nobody knows whether its job is over: {state.reason}")
        if not state.is_over:
            raise UserError(
                f"{folder} is {state.name} already: wait for it, or end it with python -m launch cancel {folder}"
            )


def _plan(cluster: Cluster, options: LaunchSettings, runs: list[Run], processes: int) -> int:
    """Prints what would be started, the processes' commands, and `trainer plan` of each recipe."""
    submission = Submission(common_folder(runs) / "launch" / "NEXT")
    print(cluster.describe(options, submission, runs))
    if len(runs) > 1:
        print(f"# {len(runs)} runs: {', '.join(run.name for run in runs)}")
    code = 0
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        for run in runs:
            (scratch / f"{run.name}.py").write_text(run.recipe, encoding="utf-8")
            print(f"# every process of {run.run_dir}")
            print(f"python -m trainer {shlex.join(run.argv(submission.recipe_file(run)))}\n", flush=True)
        recipes = {replace(load_recipe(scratch / f"{run.name}.py"), seed=0): run for run in reversed(runs)}
        for run in reversed(recipes.values()):  # the first run of each recipe, whatever its seed
            data = ["--data", run.data]
            if not Path(run.data).exists() and not run.data.startswith("synthetic:"):
                data = []
                print(f"# --data {run.data} is not on this machine: its images are not checked", flush=True)
            command = [sys.executable, "-m", "trainer", "plan", str(scratch / f"{run.name}.py"), *data]
            sys.stdout.flush()
            code = subprocess.run([*command, "--world-size", str(processes)]).returncode or code
    return code
