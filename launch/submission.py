"""What is kept of a launch, in RUN_DIR/launch/001, 002, ...: code, recipes, job, logs, and every start of each run.

    code                        -> ../code-DIGEST, trainer, recipes and launch as they were: what the job imports,
                                also after a requeue; launches of the same code share it
    packages.txt                the versions it was submitted with
    recipes/NAME.py             the resolved recipes
    job.json                    where it runs, and the runs in the order of the array
    logs/                       submitit's: the script, and what each process wrote
    logs/run1.out               what run 1 wrote that this machine runs in the background after run 0
    attempts/0/003.json         the start number 3 of run 0: when, where, from which step, how it ended
    alive, starting             on this machine: locked by the process that runs it, or launches it (local/alive.py)
    attempts/0/003.rank1        how rank 1 of that start ended, and its last error, unless it was killed
    attempts/0/003.faulty.n7    why node n7 was at fault in that start
    attempts/0/cancelled        python -m launch cancel was run: no further start

Each run's folder points to it by launch.json, {"submission": FOLDER, "index": 0}.
"""

import contextlib
import itertools
import json
import os
import shutil
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from launch.snapshot import code_name, copy_code, package_versions
from trainer.atomic import replace_text
from trainer.errors import NOT_JSON, UserError, one_line


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training to launch."""

    name: str
    recipe: str
    """the resolved recipe, as Python"""
    run_dir: Path
    data: str
    options: tuple[str, ...]
    """of python -m trainer train, with run_dir and data"""
    names_a_file: bool = False
    """whether the training compares a file, of its initial weights or its teacher, with that of its earlier starts"""

    def argv(self, recipe_file: Path) -> list[str]:
        """The arguments of python -m trainer."""
        return ["train", str(recipe_file), *self.options]


@dataclass(frozen=True, kw_only=True)
class Job:
    """Where a submission runs."""

    cluster: str
    """the launcher's name, of launch.cluster.CLUSTERS"""
    id: str
    """Slurm's job id, empty until it is known; or this machine's name"""
    processes: int
    """of each run"""
    max_restarts_without_checkpoint: int
    runs: list[str]
    """folders, in the order of the array"""
    background: bool = True
    """whether logs/ has what the processes wrote"""


@dataclass(frozen=True)
class Submission:
    """One launch of one or more runs."""

    folder: Path

    @property
    def code(self) -> Path:
        return self.folder / "code"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def job(self) -> Job:
        """Raises UserError if it cannot be read."""
        path = self.folder / "job.json"
        try:
            return Job(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, *NOT_JSON, TypeError) as error:
            raise UserError(f"{path} cannot be read, so its job is not known: {error}") from error

    def recipe_file(self, run: Run) -> Path:
        return self.folder / "recipes" / f"{run.name}.py"

    def write_job(self, job: Job) -> None:
        replace_text(self.folder / "job.json", json.dumps(asdict(job), indent=2))

    def point(self, runs: list[Run]) -> None:
        """Makes this the newest launch of each run: its folder points here."""
        for index, run in enumerate(runs):
            run.run_dir.mkdir(parents=True, exist_ok=True)
            pointer = {"submission": os.path.relpath(self.folder, run.run_dir), "index": index}
            replace_text(run.run_dir / "launch.json", json.dumps(pointer))

    def attempts(self, index: int) -> Path:
        """The folder of the starts of run number `index`."""
        return self.folder / "attempts" / str(index)

    def discard(self) -> None:
        """Removes what is kept of a launch that was refused; its code unless another launch uses that."""
        code = self.code.resolve()
        shutil.rmtree(self.folder)
        if not _is_used(code):
            unused = code.with_name(f".{code.name}.{os.getpid()}")
            with contextlib.suppress(OSError):  # gone already, or another launch has copied it again
                code.rename(unused)
                if _is_used(code):  # a launch has taken it since the look
                    unused.rename(code)
            shutil.rmtree(unused, ignore_errors=True)

    def mark_cancelled(self, index: int) -> None:
        """Prevents run number `index` from starting again. Raises UserError if the mark cannot be written."""
        try:
            replace_text(self.attempts(index) / "cancelled", now())
        except OSError as error:
            raise UserError(
                f"{error.filename}: cannot be written, so nothing is cancelled: {error.strerror}"
            ) from error

    def is_cancelled(self, index: int) -> bool:
        return (self.attempts(index) / "cancelled").exists()


def _is_used(code: Path) -> bool:
    return any((launch / "code").resolve() == code for launch in code.parent.iterdir())


def new_submission(runs: list[Run]) -> Submission:
    """Writes code and recipes below the runs' folder. Raises UserError if that fails."""
    parent = common_folder(runs) / "launch"
    submission = None
    try:
        parent.mkdir(parents=True, exist_ok=True)
        submission = Submission(_next_folder(parent))
        code = parent / code_name()
        submission.code.symlink_to(os.path.relpath(code, submission.folder))  # first: then nobody removes the copy
        copy_code(code)
        (submission.folder / "packages.txt").write_text(package_versions(), encoding="utf-8")
        (submission.folder / "recipes").mkdir()
        submission.logs.mkdir()
        for index, run in enumerate(runs):
            submission.recipe_file(run).write_text(run.recipe, encoding="utf-8")
            submission.attempts(index).mkdir(parents=True)
    except OSError as error:
        if submission:
            shutil.rmtree(submission.folder, ignore_errors=True)
        what = f"{error.filename2 or error.filename or parent}: cannot be written: {error.strerror}"
        raise UserError(f"{what}: make room, or use a different --run-dir") from error
    return submission


def _next_folder(parent: Path) -> Path:
    """Makes the folder of the next number. It is another launch's where that was faster."""
    last = max((int(path.name) for path in parent.iterdir() if path.name.isdigit()), default=0)
    for number in itertools.count(last + 1):
        folder = parent / f"{number:03}"
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise AssertionError("unreachable")


def common_folder(runs: list[Run]) -> Path:
    """The folder above several runs, or the only one's."""
    folder = runs[0].run_dir
    return folder.parent if len(runs) > 1 else folder


def require_plain_folder(runs: list[Run]) -> None:
    """Raises UserError for a folder of the logs whose name submitit or Slurm would not keep.

    Both take a % for a number of the job. submitit writes the name into one line, in UTF-8.
    """
    if "%" in (folder := str(common_folder(runs))):
        raise UserError(f"--run-dir {folder}: a % would be replaced in the names of the logs: use another name")
    if "\n" in folder or folder.encode(errors="ignore").decode() != folder:
        raise UserError(f"--run-dir {one_line(folder)}: the name has a line end, or is not UTF-8: use another name")


def submission_of(run_dir: Path) -> tuple[Submission, int]:
    """The newest launch of this run, and the run's number in it. Raises UserError if it was not launched."""
    path = run_dir / "launch.json"
    try:
        pointer: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return Submission((run_dir / pointer["submission"]).resolve()), int(pointer["index"])
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(_no_run(run_dir)) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (*NOT_JSON, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}): remove it, and launch the run again to continue it") from error


def _no_run(folder: Path) -> str:
    if not folder.is_dir():
        return f"there is no folder {folder}: give the --run-dir of a run, or the folder above several"
    if (folder / "recipe.py").is_file():
        return f"{folder} was trained without python -m launch: its log is {folder / 'log.txt'}"
    return f"{folder} holds no run that was launched by python -m launch"


def launched_runs(folder: Path) -> list[Path]:
    """`folder`, or the folders within it that hold launched runs, directly or one below. Raises UserError for none."""
    found = [path.parent for pattern in ("", "*/", "*/*/") for path in sorted(folder.glob(f"{pattern}launch.json"))]
    if not found:
        raise UserError(_no_run(folder))
    return found


START = "--- start "
"""Begins the first line that a process of a job writes in each start."""


def start_line(number: int) -> str:
    """The line in the log of a process at the beginning of its start number `number`, from 0 on."""
    return f"{START}{number + 1}, {now()} UTC"


def now() -> str:
    """The time for people and records: UTC, to the second."""
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}"
