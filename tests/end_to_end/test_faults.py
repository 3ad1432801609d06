"""What disks, machines and people do to a run: each fault is one line with the way out, and nothing is lost by it.

docs/faults.md is the list of all; most of its rows are backed by the tests of the part that they are about.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.forked import Forked
from tests.support.ports import free_ports
from tests.support.processes import LONGEST, ROOT, SUPPORT, TIMEOUT, assert_same_run, kill_after_test, weights
from tests.support.small_checkpoint import checkpoint_content
from trainer.__main__ import main
from trainer.data.beton.index import RAW
from trainer.data.crop import CropBoxes
from trainer.data.formats import open_source
from trainer.data.loader import Loader
from trainer.errors import EXIT_RETRY, LocalError
from trainer.run import checkpoint

RECIPE = str(SUPPORT / "small_recipe.py")
DOCS = ROOT / "docs" / "faults.md"


def words(data: Path | str, run_dir: Path, *options: str) -> list[str]:
    small = ["--epochs", "1", "--no-pictures", "--log-every", "1"]
    return ["train", RECIPE, "--data", str(data), "--run-dir", str(run_dir), *small, *options]


# ----------------------------------------------------------------------------------------------- the list of faults


def test_faults_every_row_of_the_list_names_a_test_that_exists() -> None:
    lines = [line for line in DOCS.read_text().splitlines() if line.startswith("| ")]
    rows = [line for line in lines if not line.startswith("| fault |")]
    assert len(rows) >= 45 and len(lines) - len(rows) == 4
    for row in rows:
        fault, happens, way_out, tests = (cell.strip() for cell in row.strip("|").split("|"))
        assert fault and happens and way_out, row
        named = re.findall(r"`([\w/]+\.py)::(test_\w+)`", tests)
        assert named, row
        for file, name in named:
            assert f"def {name}(" in (ROOT / "tests" / file).read_text(), f"{file} has no {name}"


# --------------------------------------------------------------------------------------------------------- disks


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"mounting a small disk needs root: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path) -> None:
    with (disk / "filled").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass


# Trains, and fills a disk once a checkpoint is written.
FILLING = """
import sys
from pathlib import Path
from trainer import __main__ as entry
from trainer.run.directory import Run
from tests.end_to_end.test_faults import fill

disk, save_really = Path(sys.argv.pop(1)), Run.save

def save(self, content, step):
    save_really(self, content, step)
    self.finish_saving()
    fill(disk)

Run.save = save
entry.run()
"""


@pytest.mark.slow
def test_disk_that_is_full_while_logging_is_one_line_and_the_run_can_continue(
    digits: Path, small_disk: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It has room for the checkpoint in mid-epoch, but not for the lines of the steps before the next one."""
    run_dir = small_disk / "run"
    often = ["--global-batch-size", "16", "--checkpoint-steps", "45"]
    command = ["-c", FILLING, str(small_disk), *words(digits, run_dir, *often)]
    stopped = kill_after_test(Forked(command, ROOT, {**os.environ, "PYTHONPATH": str(ROOT)}))
    said = stopped.communicate(TIMEOUT)[1]
    assert stopped.returncode == EXIT_RETRY, said
    answer = r"error: \S*run: cannot be written: No space left on device: [^\n]*the same command again[^\n]*\n"
    assert re.fullmatch(answer, said)
    (small_disk / "filled").unlink()
    assert main(words(digits, run_dir, *often)) == 0
    assert "continued after step 45" in capfd.readouterr().out
    assert main(words(digits, tmp_path / "undisturbed", *often)) == 0
    assert_same_run(run_dir, tmp_path / "undisturbed")


@pytest.mark.slow
def test_disk_that_is_full_while_saving_keeps_the_checkpoint_before(
    digits: Path, small_disk: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A checkpoint is 0.6 MB: the fourth does not fit."""
    run_dir = small_disk / "run"
    assert main(words(digits, run_dir, "--checkpoint-steps", "3", "--keep-last-checkpoints", "9")) == EXIT_RETRY
    said = capfd.readouterr().err
    assert re.search(r"step_\d+\.pt: the checkpoint cannot be written: .*No space left on device", said)
    assert "inline_container" not in said  # what torch makes of it
    assert int(weights(run_dir)["/step"]) in (6, 9)
    again = words(digits, run_dir, "--keep-last-checkpoints", "1")
    assert main(again) == EXIT_RETRY  # there is still no room for one more
    shutil.copytree(run_dir, tmp_path / "moved")
    assert main(words(digits, tmp_path / "moved")) == 0
    assert main(words(digits, tmp_path / "undisturbed")) == 0
    assert_same_run(tmp_path / "moved", tmp_path / "undisturbed")


@pytest.mark.slow
def test_read_only_run_directory_is_one_line(small_disk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (small_disk / "run").mkdir()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for folder in ("run", "new"):
        assert main(words("synthetic:960", small_disk / folder)) == 2
        said = capfd.readouterr().err
        assert re.fullmatch(rf"error: \S*{folder}: cannot be written: Read-only file system: [^\n]+\n", said)


# ---------------------------------------------------------------------------------------------------------- data


@pytest.fixture
def own_digits(digits: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(digits, tmp_path / "data"))


def read_pixels(loader: Loader) -> bytes:
    batches = loader.batches([np.arange(64), np.arange(64, 128)], whole, 16)
    return b"".join(np.ascontiguousarray(batch.images.numpy()).tobytes() for batch in batches)


def whole(samples: np.ndarray, heights: np.ndarray, widths: np.ndarray) -> CropBoxes:
    boxes = np.stack([np.zeros_like(heights), np.zeros_like(widths), heights, widths], axis=1).astype(np.int64)
    return CropBoxes(boxes, np.zeros(len(samples), bool))


@pytest.mark.slow
def test_beton_that_is_written_to_while_it_is_read_is_refused(own_digits: Path) -> None:
    """Raw pixels: nothing in the image itself says that it has become another."""
    path = own_digits / "train.beton"
    with Loader(open_source(str(own_digits), "train", num_classes=10, resolution=16), workers=1) as loader:
        source: Any = loader.source
        assert source._index.modes[5] == RAW
        read_pixels(loader)
        with path.open("r+b") as file:
            file.seek(int(source._index.pointers[5]))
            file.write(b"\xff" * 100)
        with pytest.raises(LocalError, match=r"beton was written to while it was read: run the same command again"):
            read_pixels(loader)


@pytest.mark.slow
def test_beton_that_is_replaced_is_read_on_as_it_was(own_digits: Path) -> None:
    with Loader(open_source(str(own_digits), "train", num_classes=10, resolution=16), workers=1) as loader:
        before = read_pixels(loader)
        for name in ("train.beton", "train.beton.json"):  # renamed into place, as prepare does
            other = name.replace("train", "val")
            shutil.copy(own_digits / other, own_digits / f"{name}.new")
            (own_digits / f"{name}.new").rename(own_digits / name)
        assert read_pixels(loader) == before


DAMAGE = """
import sys
from pathlib import Path
import numpy as np
from trainer.data.beton.source import BetonSource
from trainer.data.beton.index import JPEG
from trainer.data.crop import CropBoxes
from trainer.errors import EXIT_RETRY, LocalError

source, rng = BetonSource(Path(sys.argv[1])), np.random.default_rng(int(sys.argv[3]))
index, jpegs = source._index, np.flatnonzero(source._index.modes == JPEG)
content = np.fromfile(sys.argv[1], np.uint8)
refused = 0
with open(sys.argv[1], "r+b", buffering=0) as file:
    for _ in range(int(sys.argv[2])):
        image = int(rng.choice(jpegs))
        start, size = int(index.pointers[image]), int(index.sizes[image])
        jpeg = content[start : start + size].copy()
        head = rng.random() < 0.7  # where sizes, tables and markers are
        for _ in range(rng.integers(1, 6)):
            place = rng.integers(0, min(size, 700) if head else size)
            jpeg[place] = rng.choice([0, 1, 0x7F, 0xC0, 0xC2, 0xC4, 0xD0, 0xD9, 0xDA, 0xDD, 0xFF, rng.integers(256)])
        file.seek(start)
        file.write(jpeg.tobytes())
        height, width = int(index.heights[image]), int(index.widths[image])
        tall, wide = rng.integers(1, height + 1), rng.integers(1, width + 1)
        box = [[rng.integers(0, height - tall + 1), rng.integers(0, width - wide + 1), tall, wide]]
        out = np.zeros((1, 32, 32, 3), np.uint8)
        try:
            source.read(np.array([image]), CropBoxes(np.array(box), np.zeros(1, bool)), out)
        except LocalError:
            refused += 1
        file.seek(start)
        file.write(content[start : start + size].tobytes())
print("refused", refused)
"""


@pytest.mark.slow
def test_faults_no_bytes_of_a_jpeg_end_the_process(photo_betons: Path, tmp_path: Path) -> None:
    """The native decoder runs in this process: what it makes of damaged headers, tables and sizes must not crash it.

    As if the damage came after the checksum was compared. By hand with FUZZ_EXAMPLES, as test_fuzz.py.
    """
    for name in ("val.beton", "val.beton.json", "val.beton.verified"):
        shutil.copy2(photo_betons / name, tmp_path / name)
    count = os.environ.get("FUZZ_EXAMPLES", "1000")
    command = [sys.executable, "-c", DAMAGE, str(tmp_path / "val.beton"), count, "0"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST, cwd=ROOT)
    assert ended.returncode == 0, (ended.returncode, ended.stderr[-500:])
    assert ended.stdout == f"refused {count}\n"  # all: the file was written to


@pytest.mark.slow
def test_slow_storage_changes_no_pixel(own_digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Loader(open_source(str(own_digits), "train", num_classes=10, resolution=16), workers=2) as loader:
        fast = read_pixels(loader)
        read = loader.source.read
        delays = iter(np.random.default_rng(0).uniform(0.0, 0.05, 100))

        def slowly(*given: Any) -> None:
            time.sleep(next(delays))
            read(*given)

        monkeypatch.setattr(loader.source, "read", slowly)
        assert read_pixels(loader) == fast


# ----------------------------------------------------------------------------------------------------- processes

SAME = """
import os, sys
from dataclasses import replace
from pathlib import Path
from trainer.setup import checks
from trainer.distributed import process_group
from trainer.errors import SharedError
from trainer.recipe_file import load_recipe
from trainer.run.directory import Run
from trainer.run.init_weights import InitWeights
from trainer.settings import TrainSettings
from trainer.setup.loaders import open_loaders
from trainer.setup.prepare import newest_checkpoint
from contextlib import ExitStack

recipe, odd = load_recipe(sys.argv[1]), os.environ["RANK"] == "1"
settings = TrainSettings(data=sys.argv[2], run_dir=Path("run"))

def attempt(what, recipe=recipe, settings=settings):
    try:
        checks.require_same_everywhere(recipe, settings, world)
        with ExitStack() as stack:
            open_loaders(recipe, settings, world, stack)
        print(what, "-> nothing", flush=True)
    except SharedError as error:
        print(what, "->", error, flush=True)

def continue_from(what, run_dir, start):
    try:
        newest_checkpoint(Run(Path(run_dir)), {"init_weights": start.to_dict()}, world)
    except SharedError as error:
        print(what, "->", error, flush=True)

with process_group.initialize("cpu", 15) as world:
    attempt("same")
    attempt("seed", recipe=replace(recipe, seed=int(odd)))
    attempt("option", settings=replace(settings, log_every=20 + odd))
    attempt("own", settings=replace(settings, workers=1 + odd, run_dir=Path(f"run{odd}")))
    attempt("data", settings=replace(settings, data=sys.argv[2 + odd]))
    checks.code = (lambda: "sha256:other") if odd else checks.code
    attempt("code")
    continue_from("start", sys.argv[4], InitWeights(kind="pretrained" if odd else "recipe"))
    continue_from("checkpoint", sys.argv[4 + odd], InitWeights(kind="recipe"))
"""


@pytest.mark.slow
def test_ranks_that_were_started_differently_are_refused_at_the_start(
    digits: Path, own_digits: Path, tmp_path: Path
) -> None:
    """Another data set: one whose images are the same in number and size. Rank 1 does not see the last checkpoint."""
    runs = [tmp_path / f"run{rank}" for rank in range(2)]
    for run_dir, step in ((runs[0], 1), (runs[0], 2), (runs[1], 1)):
        checkpoint.write(run_dir / "checkpoints" / f"step_{step:08d}.pt", checkpoint_content(step=step))
    for name in ("train.beton", "train.beton.json", "train.beton.verified"):
        shutil.copy(own_digits / name.replace("train", "val"), own_digits / name)
    (port,) = free_ports(1)
    ranks = []
    for rank in range(2):
        # each the first of a machine of its own, so that each opens its own files
        variables = {"RANK": rank, "LOCAL_RANK": 0, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 1, "MASTER_PORT": port}
        environment = {**os.environ, **{name: str(value) for name, value in variables.items()}}
        environment |= {"MASTER_ADDR": "localhost", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", SAME, RECIPE, *map(str, (digits, own_digits, *runs))]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        ranks.append(kill_after_test(process))
    said = [process.communicate(timeout=TIMEOUT)[0] for process in ranks]
    assert said[0] == said[1]
    answers = dict(line.split(" -> ") for line in said[0].splitlines())
    assert answers["same"] == answers["own"] == "nothing"
    assert answers["seed"] == "the recipe of rank 1 differs from rank 0: seed=1, instead of seed=0,"
    assert answers["option"] == "the option of rank 1 differs from rank 0: --log-every 21 instead of --log-every 20"
    assert re.fullmatch(
        r"the training data of rank 1 differs from rank 0: sha256:\w+ instead of sha256:\w+", answers["data"]
    )
    assert re.fullmatch(
        r"the code of rank 1 differs from rank 0: sha256:other instead of sha256:\w+ with torch .*",
        answers["code"],
    )
    assert answers["start"].startswith("the start of rank 1 differs from rank 0: ")
    assert answers["checkpoint"] == (
        "the checkpoint of rank 1 differs from rank 0: step_00000001.pt instead of step_00000002.pt"
    )


# --------------------------------------------------------------------------------------------------- checkpoints


def changed(run_dir: Path, change: Any) -> None:
    """The newest checkpoint with other content, under a checksum that fits."""
    newest = max((run_dir / "checkpoints").glob("step_*.pt"))
    state = checkpoint.read(newest)
    checkpoint.write(newest, change(state))


CHANGES: dict[str, tuple[Any, str]] = {
    "nothing in it": (
        lambda state: {},
        "has no average, classes, data, data_folder, init_weights, metric_means, metrics_from, model, norms_measured, ",
    ),
    "no position": (lambda state: {**state, "position": {"epoch": 1}}, "position is {'epoch': 1}, not numbers"),
    "no metrics": (lambda state: {**state, "metric_means": None}, "metric_means is of type NoneType"),
    "another network": (
        lambda state: {**state, "model": {name: value[:1] for name, value in state["model"].items() if value.ndim}},
        "does not fit this recipe",
    ),
    "no momentum": (
        lambda state: {**state, "optimizer": {"state": {}, "param_groups": []}},
        "does not fit this recipe",
    ),
}


@pytest.fixture(scope="module")
def trained(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("trained") / "run"
    assert main(words(digits, run_dir)) == 0
    return run_dir


@pytest.mark.slow
@pytest.mark.parametrize("what", CHANGES)
def test_faults_whole_checkpoint_of_a_different_program_is_one_line(
    what: str, trained: Path, digits: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run_dir = Path(shutil.copytree(trained, tmp_path / "run"))
    (run_dir / "result.json").unlink()  # else the run is finished, and its checkpoint is not needed
    change, answer = CHANGES[what]
    changed(run_dir, change)
    capfd.readouterr()
    assert main(words(digits, run_dir)) == 2
    said = capfd.readouterr().err
    assert re.fullmatch(r"error: [^\n]+\n", said) and answer in said and "use another --run-dir" in said


@pytest.mark.slow
def test_faults_empty_checkpoint_falls_back_to_the_one_before(
    trained: Path, digits: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    assert main(words(digits, run_dir, "--checkpoint-steps", "5")) == 0
    newest = max((run_dir / "checkpoints").glob("step_*.pt"))
    newest.write_bytes(b"")
    capfd.readouterr()
    assert main(words(digits, run_dir, "--checkpoint-steps", "5")) == 0
    said = capfd.readouterr()
    assert f"{newest.name}: damaged" in said.err and "falling back to the one before" in said.err
    assert "continued after step 10" in said.out
    assert_same_run(run_dir, trained)
