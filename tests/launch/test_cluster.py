"""A new launcher is one class and one line: everything else is shared."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from launch.__main__ import main
from launch.cluster import CLUSTERS, cluster_of
from launch.settings import LaunchSettings, ProcessSettings
from launch.state import State
from launch.submission import Job, Run, Submission, new_submission
from tests.support.processes import ROOT
from trainer.errors import UserError


@dataclass(frozen=True, kw_only=True)
class TinySettings(LaunchSettings):
    """train on a tiny cluster"""

    cores: int = 1
    """processes of each run"""


class Tiny:
    """Writes down what it is asked; its jobs are directories."""

    settings = TinySettings

    def resolved(self, options: ProcessSettings) -> ProcessSettings:
        return options

    def processes(self, options: TinySettings) -> int:
        return options.cores

    def train_options(self, options: TinySettings) -> dict[str, str]:
        return {"--workers": "1"}

    def describe(self, options: TinySettings, submission: Submission, runs: list[Run]) -> str:
        return f"# {len(runs)} tiny runs"

    def submit(self, options: TinySettings, runs: list[Run]) -> Callable[[], int]:
        submission = new_submission(runs)
        folders = [str(run.run_dir) for run in runs]
        submission.write_job(
            Job(cluster="tiny", id="t1", processes=options.cores, max_restarts_without_checkpoint=5, runs=folders)
        )
        submission.point(runs)
        for index, run in enumerate(runs):
            words = run.argv(submission.recipe_file(run))
            (submission.logs / f"{index}.txt").write_text(f"started {' '.join(words)}\n")
        return lambda: 0

    def state(self, submission: Submission, index: int) -> State:
        over = (submission.folder / f"cancelled{index}").exists()
        return State(name="CANCELLED" if over else "RUNNING", job=f"{submission.job.id}.{index}", nodes="tinynode")

    def cancel(self, submission: Submission, index: int) -> str:
        (submission.folder / f"cancelled{index}").touch()
        return f"tiny job {index} is cancelled"

    def log_file(self, submission: Submission, index: int, rank: int) -> Path:
        return submission.logs / f"{index}.txt"

    def environment(self, variables: Mapping[str, str]) -> dict[str, str]:
        return {}

    def answers(self) -> bool:
        return True

    def run(self, options: ProcessSettings, module: str, argv: list[str]) -> int:
        print(f"tiny runs {module} {argv[0]}")
        return 0


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CLUSTERS, "tiny", Tiny())


@pytest.mark.slow
def test_cluster_from_outside_has_every_command(tiny: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = tmp_path / "run"
    words = ["--cores", "2", "resnet20_digits", "--data", "synthetic:128", "--run-dir", str(run_dir), "--epochs", "3"]

    def said(*command: str, code: int = 0) -> str:
        assert main(list(command)) == code
        captured = capsys.readouterr()
        return captured.out + captured.err

    assert "  tiny [OPTIONS] RECIPE ...            train on a tiny cluster" in said("--help")
    assert "# 1 tiny runs" in said("tiny", "--plan", *words)
    assert not run_dir.exists()
    said("tiny", *words)
    assert json.loads((run_dir / "launch" / "001" / "job.json").read_text())["processes"] == 2
    shown = said("status", str(run_dir))
    assert "t1.0" in shown
    assert "RUNNING" in shown
    assert "tinynode" in shown
    started = said("logs", str(run_dir), "--rank", "1")
    assert "started train" in started
    assert "--workers 1" in started
    assert "is RUNNING already" in said("tiny", *words, code=2)
    assert "tiny job 0 is cancelled" in said("cancel", str(run_dir))
    assert "CANCELLED" in said("status", str(run_dir))
    assert "tiny runs launch.preflight tiny" in said("preflight", "--on", "tiny")
    assert "did you mean --cores" in said("tiny", "--core", *words[1:], code=2)


def test_cluster_that_is_unknown_is_one_line() -> None:
    job: Any = Job(cluster="gone", id="1", processes=1, max_restarts_without_checkpoint=5, runs=[])
    with pytest.raises(UserError, match="launcher 'gone', known are slurm, local"):
        cluster_of(job)


def test_cluster_files_are_those_that_contributing_names() -> None:
    (row,) = [line for line in (ROOT / "CONTRIBUTING.md").read_text().splitlines() if line.startswith("| a launcher |")]
    assert re.findall(r"`(\S+\.py)`", row) == ["launch.py", "settings.py", "launch/cluster.py"]


def test_cluster_every_cause_in_the_documentation_names_its_test() -> None:
    text = (ROOT / "docs" / "cluster.md").read_text().partition("### What ends a start")[2]
    rows = [line for line in text.splitlines() if line.startswith("| ") and "::" in line]
    assert len(rows) >= 25
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert len(cells) == 4, row
        named = re.findall(r"`([\w/]+\.py)::(test_\w+)`", cells[3])
        assert named, row
        for file, name in named:
            assert f"def {name}(" in (ROOT / "tests" / file).read_text(), f"{file} has no {name}"
