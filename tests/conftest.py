"""Small real data, made once: digits in both formats, and photograph-like JPEGs of many sizes."""

import ctypes
import os

# Before torch is imported: tests run beside their own loader threads and processes (see
# trainer/process/library_defaults.py), and the bits of a sum depend on how many threads add it up.
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ.pop("COLUMNS", None)  # pytest-xdist's workers have 80 here, to which reports would be wrapped

import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

for number, heard in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:  # a script's background, or nohup; what tests start inherits it
        signal.signal(number, heard)

TESTS = Path(__file__).parent
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM)

# The longest first, the two that mostly wait beside the one that never does: a long file that starts late leaves the
# other workers of `make test` with nothing to do.
LONGEST = (
    "launch/test_slurm.py",
    "recipes/test_recipe_runs.py",
    "launch/test_slurm_ends.py",
    "end_to_end/test_resume.py",
    "launch/test_local.py",
    "commands/test_benchmark.py",
    "end_to_end/test_chaos.py",
    "end_to_end/test_demo.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files in the order of LONGEST, then all others as they were; within a file nothing moves."""
    places = {TESTS / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(LONGEST)))


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """After each file, glibc gives back what is free inside its heap: a worker grew to 3.8 GB otherwise."""
    if sys.platform == "linux" and (nextitem is None or nextitem.path != item.path):
        ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Variables of the environment and handlers of signals are for the next test what they were for this one."""
    variables, handlers = dict(os.environ), {number: signal.getsignal(number) for number in SIGNALS}
    yield
    if support := sys.modules.get("tests.support.processes"):  # which imports torch; without it, nothing was started
        support.kill_left()
    for name in os.environ.keys() - variables.keys():
        del os.environ[name]
    for name, value in variables.items():
        if os.environ.get(name) != value:
            os.environ[name] = value
    for number, handler in handlers.items():
        if handler is not None and signal.getsignal(number) is not handler:
            signal.signal(number, handler)


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """scikit-learn's digits as train.beton (1,437 images) and val.beton (360), at 16 px."""
    from trainer.data.beton.prepare import prepare_digits
    from trainer.data.crop import eval_view
    from trainer.data.formats import open_source
    from trainer.data.loader import Loader
    from trainer.recipe import CenterCrop

    folder = tmp_path_factory.mktemp("digits")
    prepare_digits(folder)
    with Loader(open_source(str(folder), "val", num_classes=10, resolution=16), workers=1) as loader:
        # Numba compiles what reads it here, once: processes that start together would each compile it for themselves
        list(loader.batches([np.arange(1)], eval_view(CenterCrop(resolution=16, crop_ratio=1.0)), 16))
    return folder


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 + 24 smooth colour JPEGs of 40 to 160 px in 4 classes, as class folders train/ and val/."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for split, count in (("train", 64), ("val", 24)):
        for number in range(count):
            target = folder / split / f"class{number % 4}" / f"{number:03}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8))
            width, height = (int(side) for side in rng.integers(40, 160, 2))
            coarse.resize((width, height), Image.Resampling.BICUBIC).save(target, quality=92)
    return folder


@pytest.fixture(scope="session")
def photo_betons(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same photographs, every second one a JPEG or thereabouts, as train.beton and val.beton."""
    from trainer.data.beton.prepare import PrepareOptions, prepare_folder

    folder = tmp_path_factory.mktemp("photo_betons")
    prepare_folder(photos, folder, PrepareOptions(workers=2))
    return folder


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets how many threads PyTorch's operations have, until the test is over."""
    import torch

    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
