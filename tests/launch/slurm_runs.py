"""Runs of the stand-in trainer on a real Slurm, for the tests of what ends them."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from tests.support.processes import ROOT, SUPPORT, TIMEOUT
from tests.support.slurm_cluster import Cluster

RECIPE = SUPPORT / "small_recipe.py"


def checkout(folder: Path) -> Path:
    """A copy of the code in which the stand-in trains."""
    for package in ("trainer", "recipes", "launch"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(SUPPORT / "stand_in_trainer.py", folder / "trainer" / "__main__.py")
    return folder


class SlurmRun:
    """One launched run and its job."""

    def __init__(self, slurm: Cluster, code: Path, run_dir: Path, *options: str, nodes: int = 1) -> None:
        self.slurm, self.code, self.run_dir = slurm, code, run_dir
        self.processes = 2
        words = ["--nodes", str(nodes), "--processes-per-node", str(2 // nodes), "--time", "30", "--no-preflight"]
        job = ["--data", "synthetic:960", "--run-dir", str(run_dir), "--workers", "1"]
        ended = self.launch("slurm", *words, *options, str(RECIPE), *job)
        assert ended.returncode == 0, ended.stderr
        self.job = str(json.loads((self.folder / "job.json").read_text())["id"])

    @property
    def folder(self) -> Path:
        return self.run_dir / "launch" / "001"

    def launch(self, *words: str, path: str = "") -> subprocess.CompletedProcess[str]:
        """`path`: folder of programs to use instead of Slurm's."""
        env = {**self.slurm.env, "PYTHONPATH": str(self.code)}
        env["PATH"] = f"{path}:{env['PATH']}" if path else env["PATH"]
        command = [sys.executable, "-m", "launch", *words]
        return subprocess.run(command, capture_output=True, text=True, cwd=self.code, env=env, timeout=TIMEOUT)

    def starts(self) -> list[dict]:
        folder = self.folder / "attempts" / "0"
        return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]

    def wait_for_start(self, number: int) -> None:
        """Until every rank of that start listens."""

        def all_are_up() -> bool:
            return all((self.run_dir / f"up.{number}.{rank}").exists() for rank in range(self.processes))

        self.slurm.wait_until(all_are_up, f"start {number} of job {self.job}:\n{self.log()}")

    def rank(self, rank: int, start: int = 0) -> int:
        """The process id of a rank."""
        return int((self.run_dir / f"up.{start}.{rank}").read_text())

    def process(self, part: str) -> int:
        """The process of this job with `part` in its command line: the oldest of them."""
        found = [pid for pid, command in self.slurm.processes(self.job).items() if part in command]
        return min(found)

    def wait_for_end(self) -> str:
        return self.slurm.wait_for_end(self.job)

    def finish(self, start: int) -> None:
        """Has the run end well in that start, which has to come."""
        self.wait_for_start(start)
        (self.run_dir / "finish").touch()
        assert self.wait_for_end() == "COMPLETED", self.log()
        assert [one["number"] for one in self.starts()] == list(range(start + 1))
        assert self.starts()[-1]["reason"] == "finished"

    def log(self) -> str:
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("logs/*.out")))

    def cancel(self) -> None:
        """For a test that has seen enough."""
        self.slurm.run("scancel", "--full", f"--signal={signal.SIGKILL.value}", self.job, check=False)
        self.slurm.run("scancel", self.job, check=False)


class SlurmArray:
    """Two runs of one launch: a job array."""

    def __init__(self, slurm: Cluster, code: Path, folder: Path) -> None:
        self.slurm, self.folder = slurm, folder
        words = ["--processes-per-node", "2", "--time", "30", "--seeds", "0", "1", str(RECIPE)]
        command = [sys.executable, "-m", "launch", "slurm", *words, "--data", "synthetic:960", "--run-dir", str(folder)]
        env = {**slurm.env, "PYTHONPATH": str(code)}
        ended = subprocess.run(command, capture_output=True, text=True, cwd=code, env=env, timeout=TIMEOUT)
        assert ended.returncode == 0, ended.stderr
        self.job = str(json.loads((folder / "launch" / "001" / "job.json").read_text())["id"])

    def wait_for_start(self, number: int, element: int) -> None:
        files = [self.folder / f"small_seed{element}" / f"up.{number}.{rank}" for rank in range(2)]
        self.slurm.wait_until(lambda: all(file.exists() for file in files), f"start {number} of element {element}")

    def rank(self, rank: int, element: int) -> int:
        return int((self.folder / f"small_seed{element}" / f"up.0.{rank}").read_text())

    def starts(self, element: int) -> list[Path]:
        return list((self.folder / "launch" / "001" / "attempts" / str(element)).glob("*.json"))

    def finish(self) -> None:
        for element in range(2):
            (self.folder / f"small_seed{element}" / "finish").touch()
        over = lambda: self.slurm.run("squeue", "-h", "-j", self.job, "-o", "%T", check=False).strip() == ""  # noqa: E731
        self.slurm.wait_until(over, "both elements end")

    def cancel(self) -> None:
        self.slurm.run("scancel", self.job, check=False)
