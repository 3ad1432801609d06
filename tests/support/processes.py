"""Real process groups for the tests: the command line, alone or under torchrun, always with a time limit."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch

from tests.support.forked import Forked
from tests.support.ports import free_ports

Process = TypeVar("Process", subprocess.Popen[str], Forked)

TIMEOUT = 900  # seconds; only a hang takes so long, also on a busy machine
LONGEST = 3600  # seconds of what is run by hand
ROOT = Path(__file__).parent.parent.parent
SUPPORT = Path(__file__).parent
_started: list[subprocess.Popen[str] | Forked] = []


def run(words: list[str], processes: int = 1, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Runs `python -m trainer WORDS` in several processes, and returns 0 or the code of the first that failed.

    A failure ends the others, as under torchrun: by SIGTERM, and by SIGKILL after 30 s. Fails after the time limit.
    """
    ranks = [start(words, cwd=cwd)] if processes == 1 else start_ranks(["-m", "trainer", *words], processes, cwd)
    deadline, code = time.monotonic() + TIMEOUT, 0
    patience = deadline
    while any(rank.poll() is None for rank in ranks):
        if not code and (code := next((rank.returncode for rank in ranks if rank.returncode), 0)):
            patience = time.monotonic() + 30
            for rank in ranks:
                rank.send_signal(signal.SIGTERM)
        if time.monotonic() > patience:
            for rank in ranks:
                rank.kill()
        if time.monotonic() > deadline:
            for rank in ranks:
                kill(rank)
            raise subprocess.TimeoutExpired(words, TIMEOUT)
        time.sleep(0.01)
    code = code or next((rank.returncode for rank in ranks if rank.returncode), 0)
    said = [rank.communicate() for rank in ranks]
    return subprocess.CompletedProcess(words, code, "".join(out for out, _ in said), "".join(err for _, err in said))


def start(words: list[str], cwd: Path = ROOT) -> Forked:
    """`python -m trainer WORDS`, in a session of its own, so that kill() reaches every process of it."""
    return kill_after_test(Forked(["-m", "trainer", *words], cwd, {**os.environ, "PYTHONPATH": str(ROOT)}))


def command(words: list[str], processes: int = 1, restarts: int = 0) -> list[str]:
    """`python -m trainer WORDS`, under torchrun where there are several processes, which it may restart so often."""
    if processes == 1:
        return [sys.executable, "-m", "trainer", *words]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [*torchrun, "--max-restarts", str(restarts), "-m", "trainer", *words]


def start_new(words: list[str], processes: int = 1, cwd: Path = ROOT, restarts: int = 0) -> subprocess.Popen[str]:
    """command() in new interpreters, which take as long as they do for a user: where start() and run() do not serve."""
    process = subprocess.Popen(
        command(words, processes, restarts),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    return kill_after_test(process)


def run_new(words: list[str], processes: int = 1, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """start_new() to the end; kills everything and fails after the time limit."""
    with start_new(words, processes, cwd) as process:
        try:
            out, err = process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            kill(process)
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def start_ranks(words: list[str], count: int, cwd: Path = ROOT) -> list[Forked]:
    """`python WORDS` in `count` ranks, without torchrun, whose agent would end the others of one that fails."""
    return [
        kill_after_test(Forked(words, cwd, {**os.environ, **variables, "PYTHONPATH": str(ROOT)}))
        for variables in rank_variables(count)
    ]


def rank_variables(count: int) -> list[dict[str, str]]:
    """torchrun's variables for each of `count` ranks on this machine, which meet at a free port."""
    (port,) = free_ports(1)
    shared = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    return [
        {name: str(value) for name, value in {**shared, "RANK": rank, "LOCAL_RANK": rank}.items()}
        for rank in range(count)
    ]


def kill_after_test(process: Process) -> Process:
    """The same process. If it still runs at the end of the test, which has failed then, kill_left() kills it."""
    _started.append(process)
    return process


def kill_left() -> None:
    """Kills what a failed test has left running, and its ranks."""
    while _started:
        if (process := _started.pop()).poll() is None:
            kill(process)


def kill(process: subprocess.Popen[str] | Forked) -> None:
    """SIGKILL to the launcher and all ranks at once, as a power failure would. torchrun gives each a session."""
    ranks = ranks_of(process)
    with contextlib.suppress(ProcessLookupError):  # all have ended by themselves
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()  # a fork that has no group yet
    for rank in ranks:
        with contextlib.suppress(ProcessLookupError):
            os.kill(rank, signal.SIGKILL)
    process.wait(TIMEOUT)


def is_alive(pid: int) -> bool:
    """Whether a process is there. A zombie has ended, whether or not anybody collects it: in a container nobody may."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def running() -> Iterator[tuple[int, list[str], dict[str, str]]]:
    """Process id, command line and environment of each process of this machine."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended just now
            words, variables = (
                (folder / name).read_text(errors="replace").split("\0") for name in ("cmdline", "environ")
            )
            yield int(folder.name), words, dict(entry.split("=", 1) for entry in variables if "=" in entry)


def group_is_alive(group: int) -> bool:
    """Whether a process of this group is there, which is no zombie."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended just now
            state, _, its_group, *_ = stat.read_text(errors="replace").rpartition(")")[2].split()
            if int(its_group) == group and state != "Z":
                return True
    return False


def resident_kb() -> int:
    """The memory of this process now. What the kernel calls ru_maxrss is the most it ever had."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


def ranks_of(launcher: subprocess.Popen[str] | Forked) -> list[int]:
    """The process ids of torchrun's ranks, in their order; none where it has ended, or has not come so far."""
    if launcher.poll() is not None:
        return []
    ranks = []
    with contextlib.suppress(OSError):  # they end meanwhile
        for pid in Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split():
            words = Path(f"/proc/{pid}/cmdline").read_text()
            if "trainer" in words or "launch.rank" in words:
                ranks.append(int(pid))
    return ranks


def wait_for_step(process: subprocess.Popen[str] | Forked, run_dir: Path, step: int) -> None:
    """Returns when metrics.jsonl has told of `step`; fails where the run ends or the time limit passes before."""
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        if any(record["step"] >= step for record in metrics(run_dir, whole=False)):
            return
        if process.poll() is not None:
            raise AssertionError(f"ended before step {step}: {process.communicate()}")
        time.sleep(0.02)
    kill(process)
    raise AssertionError(f"no step {step} within {TIMEOUT} s")


def metrics(run_dir: Path, whole: bool = True) -> list[dict[str, Any]]:
    """The records of metrics.jsonl without the times, which differ from run to run."""
    path = run_dir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    records = []
    for line in lines:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            if whole:
                raise
            continue
        records.append({key: value for key, value in record.items() if key not in ("images_per_second", "data_wait")})
    return records


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    """All of the newest checkpoint, flat: model, average, optimizer, scaler, position, losses."""
    return content_of(max((run_dir / "checkpoints").glob("step_*.pt")))


def content_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    """All of a checkpoint, flat."""
    return dict(flat(torch.load(checkpoint, weights_only=True)))


def flat(value: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor and number within dictionaries and lists, by its path; words and None as they are written."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flat(inner, f"{name}/{key}")
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from flat(inner, f"{name}/{number}")
    elif isinstance(value, str) or value is None:
        yield f"{name} {value}", torch.tensor(0)
    else:
        yield name, torch.as_tensor(value)


def assert_same_run(first: Path, second: Path) -> None:
    """Bit-equal weights and momenta, those of the best epoch too, and the same story."""
    assert not different(weights(first), weights(second))
    best, other = (content_of(run_dir / "checkpoints" / "best.pt") for run_dir in (first, second))
    assert not different(best, other)
    assert metrics(first) == metrics(second)


def different(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> list[str]:
    """The names of what is not bit-equal in two checkpoints that have the same names."""
    assert first.keys() == second.keys()
    return [name for name in first if not torch.equal(first[name], second[name])]
