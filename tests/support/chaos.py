"""Kills a real run at random moments, starts it again, and compares what comes out with a run that was left alone.

    python -m tests.support.chaos --kills 100 --seed 0

kill -9 of one rank, of all ranks, of the launcher or of everything: at any time from the start on, after a step, while
a checkpoint is written, in an evaluation, between two epochs. A run that has ended is compared, and the next begins,
until there were enough kills. test_chaos.py runs the short form.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.support.processes import ROOT, TIMEOUT, assert_same_run, command, metrics, ranks_of

RECIPE = Path(__file__).parent / "everything_recipe.py"
STEPS_PER_EPOCH, SAVE_EVERY = 1437 // 96, 3
MARK = "CHAOS_TEST"  # an environment variable, by which every process of a run is found, whoever its parent is now
VICTIMS = ("one rank", "all ranks", "launcher", "everything")
CURVES = ("train/loss", "train/lr", "train_gradients/norm", "eval/top1", "eval/loss", "eval/ema_top1")


class Chaos:
    """One run after the other in `folder`, until `kills` processes or groups of them were killed.

    `plan`: the moment and the victim of each kill, in order; without one they are drawn.
    """

    def __init__(
        self,
        folder: Path,
        data: Path,
        *,
        kills: int,
        seed: int,
        processes: int,
        epochs: int,
        plan: Sequence[tuple[str, str]] = (),
    ) -> None:
        self._folder, self._data, self._processes, self._epochs = folder, data, processes, epochs
        self._wanted, self._chance, self._plan = kills, random.Random(seed), plan
        self._mark = f"{os.getpid()}-{time.time_ns()}"
        self.kills: Counter[str] = Counter()
        self.continued = 0
        """starts that went on from a checkpoint"""
        self.inside_writing = 0
        """kills that left half a checkpoint behind"""
        self.inside_evaluation = 0
        """kills between the checkpoint of an epoch's end and its evaluation"""
        self.runs = 0
        self.slowest_end = 0.0  # s

    def run(self) -> None:
        """Raises AssertionError where something was lost, told twice or left behind."""
        shared_memory = _shared_memory()
        untouched = self._folder / "untouched"
        ended = self._start(untouched)
        assert ended.wait(TIMEOUT) == 0, self._said(untouched)
        while self.kills.total() < self._wanted:
            run_dir = self._folder / f"run{self.runs}"
            self._disturb(run_dir)
            self.continued += (run_dir / "said.txt").read_text().count("continued after step")
            self._compare(run_dir, untouched)
            self.runs += 1
            shutil.rmtree(run_dir)
        self._wait_for_shared_memory(shared_memory)

    def _disturb(self, run_dir: Path) -> None:
        """Starts the run and kills it, again and again, until it has ended or was killed often enough."""
        while True:
            launcher = self._start(run_dir)
            number = self.kills.total()
            drawn = self._chance.choice(list(MOMENTS)), self._chance.choice(VICTIMS)
            moment, victim = self._plan[number] if number < len(self._plan) else drawn
            step = max((record["step"] for record in metrics(run_dir, whole=False)), default=0)
            if number >= self._wanted or not MOMENTS[moment](launcher, run_dir, step, self._chance):
                assert launcher.wait(TIMEOUT) == 0, self._said(run_dir)
                self._wait_until_gone()
                return
            self._kill(launcher, victim)
            self.kills[f"{victim}, {moment}"] += 1
            self._wait_until_gone()
            launcher.wait(TIMEOUT)
            partial = bool(list((run_dir / "checkpoints").glob("*.partial")))
            evaluating = _is_evaluating(run_dir)
            self.inside_writing += partial
            self.inside_evaluation += evaluating
            where = "half a checkpoint left" if partial else "evaluating" if evaluating else ""
            print(f"{self.kills.total():3}  {victim}, {moment}: after step {_saved(run_dir)}  {where}", flush=True)

    def _start(self, run_dir: Path) -> subprocess.Popen[str]:
        run_dir.mkdir(exist_ok=True)
        often = ["--log-every", "4", "--checkpoint-steps", str(SAVE_EVERY), "--no-pictures", "--workers", "2"]
        where = ["--data", str(self._data), "--run-dir", str(run_dir)]
        words = ["train", str(RECIPE), *where, "--epochs", str(self._epochs)]
        variables = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", MARK: self._mark}
        with (run_dir / "said.txt").open("a") as said:
            return subprocess.Popen(
                command([*words, *often], self._processes), stdout=said, stderr=said, text=True, cwd=ROOT,
                env={**os.environ, **variables}, start_new_session=True,
            )  # fmt: skip

    def _kill(self, launcher: subprocess.Popen[str], victim: str) -> None:
        ranks = ranks_of(launcher)
        if victim == "one rank" and ranks:
            ranks = [self._chance.choice(ranks)]
        if victim != "launcher":
            for rank in ranks:
                _kill(rank)
        if victim in ("launcher", "everything") or not ranks:  # it has not come so far as to start any
            _kill(launcher.pid)

    def _wait_until_gone(self) -> None:
        """No process of the run may outlive it."""
        began = time.monotonic()
        while left := self._processes_left():
            if time.monotonic() - began > TIMEOUT:
                for pid in left:
                    _kill(pid)
                raise AssertionError(f"left behind after {TIMEOUT} s: {left}")
            time.sleep(0.05)
        self.slowest_end = max(self.slowest_end, time.monotonic() - began)

    def _wait_for_shared_memory(self, before: set[str]) -> None:
        """What the killed processes left would stay for ever; what other programs are about to open or remove goes."""
        left, began = _shared_memory() - before, time.monotonic()
        while left:
            assert time.monotonic() - began < TIMEOUT, f"left in shared memory: {left}"
            time.sleep(0.05)
            left &= _shared_memory()

    def _processes_left(self) -> dict[int, str]:
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if f"{MARK}={self._mark}".encode() in (folder / "environ").read_bytes():
                    found[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
            except OSError:  # it has ended just now, or is somebody else's
                continue
        return found

    def _compare(self, run_dir: Path, untouched: Path) -> None:
        try:
            assert_same_run(run_dir, untouched)
            told = [(record["kind"], record["step"]) for record in metrics(run_dir)]
            assert len(set(told)) == len(told), "a step was told twice"
            assert _result(run_dir) == _result(untouched)
            assert _curves(run_dir) == _curves(untouched)
            assert not list((run_dir / "checkpoints").glob("*.partial")), "halves of checkpoints are left"
        except AssertionError:
            print(self._said(run_dir), file=sys.stderr)
            raise

    def _said(self, run_dir: Path) -> str:
        return (run_dir / "said.txt").read_text()[-8000:]


# ------------------------------------------------------------------------------------------------------- moments
# Each waits for its moment; False where the run ended before.


def _at_any_time(launcher: subprocess.Popen[str], run_dir: Path, step: int, chance: random.Random) -> bool:
    return _wait(launcher, lambda: False, chance.uniform(0.0, 15.0))


def _after_a_step(launcher: subprocess.Popen[str], run_dir: Path, step: int, chance: random.Random) -> bool:
    wanted = step + chance.randint(1, 12)
    return _wait(launcher, lambda: any(record["step"] >= wanted for record in metrics(run_dir, whole=False)))


def _while_saving(launcher: subprocess.Popen[str], run_dir: Path, step: int, chance: random.Random) -> bool:
    for _ in range(chance.randint(1, 3)):  # not always the first
        known = _saved(run_dir)
        if not _wait(launcher, lambda known=known: _saved(run_dir) != known):  # type: ignore[misc]
            return False
    return _wait(launcher, lambda: any(name.endswith(".partial") for name in os.listdir(run_dir / "checkpoints")))


def _in_an_evaluation(launcher: subprocess.Popen[str], run_dir: Path, step: int, chance: random.Random) -> bool:
    known = _saved(run_dir)
    reached = _wait(launcher, lambda: _saved(run_dir) != known and _is_evaluating(run_dir))
    time.sleep(chance.uniform(0.0, 0.2))
    return reached and launcher.poll() is None


def _between_epochs(launcher: subprocess.Popen[str], run_dir: Path, step: int, chance: random.Random) -> bool:
    known = _evaluated(run_dir)
    reached = _wait(launcher, lambda: _evaluated(run_dir) > known)
    time.sleep(chance.uniform(0.0, 0.1))
    return reached and launcher.poll() is None


MOMENTS: dict[str, Callable[[subprocess.Popen[str], Path, int, random.Random], bool]] = {
    "at any time": _at_any_time,
    "after a step": _after_a_step,
    "while saving": _while_saving,
    "in an evaluation": _in_an_evaluation,
    "between epochs": _between_epochs,
}


def _wait(launcher: subprocess.Popen[str], reached: Callable[[], bool], seconds: float | None = None) -> bool:
    """Until it is reached, or the seconds have passed; False where the run ends before."""
    end = time.monotonic() + (TIMEOUT if seconds is None else seconds)
    while time.monotonic() < end:
        if reached():
            return True
        if launcher.poll() is not None:
            return False
        time.sleep(0.0005)
    assert seconds is not None, f"nothing happened within {TIMEOUT} s"
    return True


# ----------------------------------------------------------------------------------------- what can be seen of a run


def _saved(run_dir: Path) -> int:
    """The step of the newest checkpoint."""
    names = os.listdir(run_dir / "checkpoints") if (run_dir / "checkpoints").is_dir() else []
    return max((int(name[5:13]) for name in names if name.startswith("step_") and name.endswith(".pt")), default=0)


def _evaluated(run_dir: Path) -> int:
    """The last step whose evaluations are told, of both networks."""
    return max((one["step"] for one in metrics(run_dir, whole=False) if one["kind"] == "eval_ema"), default=0)


def _is_evaluating(run_dir: Path) -> bool:
    saved = _saved(run_dir)
    return saved > 0 and saved % STEPS_PER_EPOCH == 0 and _evaluated(run_dir) < saved


def _result(run_dir: Path) -> dict[str, object]:
    found = json.loads((run_dir / "result.json").read_text())
    return {name: value for name, value in found.items() if name != "starts"}


def _curves(run_dir: Path) -> dict[str, list[tuple[int, float]]]:
    board = EventAccumulator(str(run_dir), size_guidance={"scalars": 0}).Reload()
    return {tag: [(event.step, event.value) for event in board.Scalars(tag)] for tag in CURVES}


def _shared_memory() -> set[str]:
    """What is in /dev/shm and no process has open: nobody will ever remove it."""
    named = set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()
    if not named:
        return named
    opened = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        try:
            lines = os.fsdecode(maps.read_bytes()).splitlines()
        except OSError:
            continue
        opened |= {line.rpartition("/dev/shm/")[2] for line in lines if "/dev/shm/" in line}
    return named - opened


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=4)
    options = parser.parse_args()
    from trainer.data.beton.prepare import prepare_digits

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare_digits(folder / "data")
        chaos = Chaos(folder, folder / "data", **vars(options))
        began = time.monotonic()
        chaos.run()
    for what, count in sorted(chaos.kills.items()):
        print(f"{count:4}  {what}")
    seconds, steps = time.monotonic() - began, options.epochs * STEPS_PER_EPOCH
    print(f"{chaos.kills.total()} kills in {chaos.runs} runs of {steps} steps on {options.processes} processes")
    print(f"{chaos.inside_writing} while a checkpoint was half written, {chaos.inside_evaluation} in an evaluation")
    print(f"all processes gone within {chaos.slowest_end:.1f} s of a kill; {seconds:.0f} s in all")
    print("weights, metrics.jsonl, result.json and TensorBoard's curves are those of the run that was left alone")


if __name__ == "__main__":
    main()
