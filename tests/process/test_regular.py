"""Named pipes in the place of files that are read: each is one line with its name, and keeps nobody waiting."""

import contextlib
import os
import signal
import tarfile
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from trainer.data.beton.adopt import class_names
from trainer.data.beton.index import read_index
from trainer.data.beton.journal import Journal
from trainer.data.beton.manifest import read_manifest, read_stamp
from trainer.data.beton.prepare import prepare_cifar10
from trainer.data.content import Stamp
from trainer.data.shards import read_classes, read_samples
from trainer.data.sources import csv_list, imagenet
from trainer.data.sources.files import expand
from trainer.errors import UserError
from trainer.model.weights_file import read_weights_file
from trainer.process.regular import require_regular
from trainer.recipe_file import load_recipe
from trainer.run import checkpoint

PATIENCE = 300  # seconds; only a reader that waits for a writer takes so long
Read = Callable[[Path], object]


@contextlib.contextmanager
def patience() -> Iterator[None]:
    """Ends a block that waits in open(), by an exception that no reader takes for one of its own."""

    def end(number: int, frame: types.FrameType | None) -> NoReturn:
        pytest.fail(f"waited for {PATIENCE} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def imagenet_with(pipe: Path) -> object:
    """Prepares a folder that has ImageNet's images, empty, and the labels of its validation images."""
    folder = next(path for path in pipe.parents if path.name == "src")
    images = (imagenet.TRAIN, imagenet.VAL)
    for name in (*images, *([imagenet.SYNSETS] if pipe.name in images else [])):
        (folder / name).touch()
    return imagenet.prepare(folder, folder / "out")


IMAGENET = (
    imagenet.TRAIN, imagenet.VAL, imagenet.SYNSETS, imagenet.SOLUTION, f"{imagenet.DEVKIT}.tar.gz",
    f"{imagenet.DEVKIT}/data/{imagenet.META}", f"{imagenet.DEVKIT}/data/{imagenet.TRUTH}",
)  # fmt: skip
READERS: list[tuple[str, Read]] = [
    ("train.beton", read_index),
    ("train.beton.json", lambda path: read_manifest(path.with_suffix(""))),
    ("train.beton.unfinished", lambda path: Journal(path.with_suffix(""), bytes(32), 1).read()),
    ("train-0.tar", lambda path: list(read_samples(0, path))),
    ("train-1.tar", lambda path: expand([str(path)], ".tar")),
    ("train.parquet", lambda path: expand([str(path)], ".parquet")),
    ("classes.txt", lambda path: read_classes(path, 1)),
    ("names.txt", class_names),
    ("list.csv", lambda path: csv_list.prepare(path, path.parent / "out", csv_list.CsvOptions())),
    ("batches.meta", lambda path: prepare_cifar10(path.parent, path.parent / "out")),
    ("step_00000001.pt", checkpoint.read),
    ("weights.pth", read_weights_file),
    ("mine.py", load_recipe),
    *((f"src/{name}", imagenet_with) for name in IMAGENET),
]


@pytest.mark.parametrize(("name", "read"), READERS, ids=[name for name, _ in READERS])
def test_named_pipe_in_the_place_of_a_file_is_one_line_with_its_name(name: str, read: Read, tmp_path: Path) -> None:
    pipe = tmp_path / name
    pipe.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(pipe)
    (tmp_path / f"{name}.sha256").write_text("0  x")
    with patience(), pytest.raises(UserError) as caught:
        read(pipe)
    assert str(pipe) in str(caught.value) and "\n" not in str(caught.value)


def test_named_pipe_in_the_place_of_a_checksum_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "best.pt").touch()
    os.mkfifo(tmp_path / "best.pt.sha256")
    with patience(), pytest.raises(UserError, match=r"best\.pt\.sha256 is no regular file"):
        checkpoint.read(tmp_path / "best.pt")


def test_stamp_that_is_a_named_pipe_counts_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the content is read again, and the stamp written."""
    monkeypatch.setattr("trainer.data.content.cache_folder", lambda: None)
    os.mkfifo(tmp_path / "train.beton.verified")
    with patience():
        assert read_stamp(tmp_path / "train.beton") is None
        assert Stamp.of(tmp_path / "train.beton.verified", [], np.zeros(1, np.int64)).read() is None


def test_regular_is_a_file_and_no_device_socket_or_pipe(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "to_pipe").symlink_to("pipe")
    for path in (tmp_path / "file", tmp_path / "link", tmp_path, tmp_path / "absent"):  # a folder is left to its reader
        require_regular(path)
    for path in (tmp_path / "pipe", tmp_path / "to_pipe", Path("/dev/zero")):
        with pytest.raises(UserError, match=rf"{path} is no regular file"):
            require_regular(path)


def test_class_names_come_from_a_pipe_that_a_shell_has_opened(tmp_path: Path) -> None:
    """--classes <(ls train): it has no name of its own, and somebody writes."""
    reader, writer = os.pipe()
    os.write(writer, b"cat\ndog\n")
    os.close(writer)
    assert class_names(Path(f"/dev/fd/{reader}")) == ["cat", "dog"]
    os.close(reader)


def test_shard_that_is_a_regular_file_is_read(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "train-0.tar", "w"):
        pass
    assert list(read_samples(0, tmp_path / "train-0.tar")) == []
