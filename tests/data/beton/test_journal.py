"""An interrupted write continues, and ends with the bytes of one that was not interrupted."""

import contextlib
import errno
import multiprocessing
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.data.beton.test_writer import RAW, images, pixels
from tests.support.processes import TIMEOUT, group_is_alive
from trainer.data.beton.images import Images
from trainer.data.beton.journal import _HEADER, ROW, STORED
from trainer.data.beton.manifest import Encoding
from trainer.data.beton.placing import CHUNK
from trainer.data.beton.prepare import PrepareOptions, prepare_folder
from trainer.data.beton.writer import is_complete, journal_of, write_beton
from trainer.data.images import read_bytes
from trainer.errors import UserError

HALF = replace(RAW, write_mode="proportion")
COUNT = 211
BAD = 150


def stamped(load: Callable[[int], np.ndarray] = pixels, **stamps: int) -> Images:
    """The images of test_writer, as files that can be told apart. `stamps`: of those that were changed."""
    return replace(images(load), stamp=lambda image: stamps.get(f"at{image}", 7))


def counted(folder: Path, fail: Callable[[int], None] = lambda image: None) -> Callable[[int], np.ndarray]:
    """Loads images, leaves a file for each that was loaded, and fails as it is asked to."""
    folder.mkdir(exist_ok=True)

    def load(image: int) -> np.ndarray:
        fail(image)
        (folder / str(image)).touch()
        return pixels(image)

    return load


def raise_at_bad(image: int) -> None:
    if image == BAD:
        raise ValueError("no")


@pytest.fixture
def whole(tmp_path: Path) -> bytes:
    """The file of a start that is not interrupted."""
    write_beton(tmp_path / "whole" / "train.beton", stamped(), HALF, workers=1)
    return (tmp_path / "whole" / "train.beton").read_bytes()


@pytest.fixture
def stopped(tmp_path: Path, whole: bytes) -> Path:
    """What a start leaves that met a bad image, after it had stored the first ones."""
    path = tmp_path / "train.beton"

    def wait_and_raise_at_bad(image: int) -> None:
        while image == BAD and not first_is_stored(path):
            time.sleep(0.001)
        raise_at_bad(image)

    with pytest.raises(UserError, match=f"image {BAD} "):
        write_beton(path, stamped(counted(tmp_path / "first", wait_and_raise_at_bad)), HALF, workers=2)
    names = sorted(entry.name for entry in tmp_path.glob("train*"))
    assert names == ["train.beton.partial", "train.beton.unfinished"]
    return path


def first_is_stored(path: Path) -> bool:
    """Whether the journal of the file at `path` says so. The other worker may be slow."""
    content = path.with_name(path.name + ".unfinished").read_bytes()[_HEADER.itemsize :]
    return len(content) >= ROW.itemsize and bool(np.frombuffer(content, ROW, 1)["state"] == STORED)


def loaded(folder: Path) -> set[int]:
    return {int(entry.name) for entry in folder.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 3])
def test_journal_file_has_the_same_bytes_for_any_number_of_workers(tmp_path: Path, whole: bytes, workers: int) -> None:
    def unevenly(image: int) -> np.ndarray:
        time.sleep(0.001 * (image % 16 == 3))
        return pixels(image)

    write_beton(tmp_path / "train.beton", stamped(unevenly), HALF, workers=workers)
    assert (tmp_path / "train.beton").read_bytes() == whole
    assert not (tmp_path / "train.beton.unfinished").exists()


def test_journal_continues_after_an_error_with_the_images_that_are_missing(
    stopped: Path, whole: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_beton(stopped, stamped(counted(tmp_path / "second")), HALF, workers=2)
    assert stopped.read_bytes() == whole
    done = COUNT - len(loaded(tmp_path / "second"))
    assert 0 < done <= BAD and done % 16 == 0
    assert f"continues after {done} of {COUNT} images" in capsys.readouterr().out
    assert not [entry for entry in tmp_path.glob("train*") if entry.suffix in (".partial", ".unfinished")]


def test_journal_of_other_images_or_options_is_not_continued(
    stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = stamped(counted(tmp_path / "second"))
    others = {
        "names": replace(given, names=[*given.names[:-1], "another"]),
        "labels": replace(given, labels=given.labels[::-1].copy()),
        "classes": replace(given, classes=["a", "b", "d"]),
        "source": replace(given, source=replace(given.source, exif="applied")),
    }

    def is_continued(images: Images, encoding: Encoding = HALF) -> bool:
        rows, _ = journal_of(stopped, images, encoding).read()
        return bool(rows["state"].any())

    assert is_continued(given)
    assert [name for name, other in others.items() if is_continued(other)] == []
    assert not is_continued(given, replace(HALF, jpeg_quality=91))
    with monkeypatch.context() as patch:
        patch.setattr("trainer.data.beton.journal.software_versions", lambda: {"opencv-python": "0"})
        assert not is_continued(given)
    write_beton(stopped, others["labels"], HALF, workers=2)
    assert loaded(tmp_path / "second") == set(range(COUNT))


def test_journal_image_whose_file_changed_is_stored_again(stopped: Path, tmp_path: Path, whole: bytes) -> None:
    changed = stamped(counted(tmp_path / "second"), at20=8)
    write_beton(stopped, changed, HALF, workers=2)
    assert loaded(tmp_path / "second") == set(range(16, COUNT)) and stopped.read_bytes() == whole


@pytest.mark.parametrize("image", [0, 100])
def test_journal_bytes_that_the_disk_changed_are_written_again(
    tmp_path: Path, whole: bytes, image: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those of an image that is not among the first that a thread checks."""
    monkeypatch.setattr("trainer.data.beton.journal._BLOCK", 8)
    path = tmp_path / "train.beton"
    with pytest.raises(UserError, match=f"image {BAD} "):
        write_beton(path, stamped(counted(tmp_path / "first", raise_at_bad)), HALF, workers=1)
    rows = np.frombuffer(path.with_name("train.beton.unfinished").read_bytes(), ROW, image + 1, _HEADER.itemsize)
    partial = path.with_name("train.beton.partial")
    content = bytearray(partial.read_bytes())
    content[int(rows["metadata"]["f0"]["data_ptr"][image]) + 5] ^= 1
    partial.write_bytes(content)
    write_beton(path, stamped(counted(tmp_path / "second")), HALF, workers=2)
    assert loaded(tmp_path / "second") == set(range(image // CHUNK * CHUNK, COUNT)) and path.read_bytes() == whole


@pytest.mark.slow
@pytest.mark.parametrize("damage", [b"", b"x", b"\0" * 5000])
def test_journal_that_is_damaged_starts_again(stopped: Path, tmp_path: Path, whole: bytes, damage: bytes) -> None:
    stopped.with_name("train.beton.unfinished").write_bytes(damage)
    write_beton(stopped, stamped(counted(tmp_path / "second")), HALF, workers=1)
    assert loaded(tmp_path / "second") == set(range(COUNT)) and stopped.read_bytes() == whole


@pytest.mark.slow
def test_journal_continues_with_skip_bad_and_names_every_skipped_image(stopped: Path, tmp_path: Path) -> None:
    def fail(image: int) -> None:
        raise_at_bad(image)
        if image == BAD + 50 and not (tmp_path / "second" / "again").exists():
            raise OSError(errno.EIO, "I/O error")

    load = counted(tmp_path / "second", fail)
    with pytest.raises(UserError, match="I/O error"):
        write_beton(stopped, stamped(load), HALF, workers=1, skip_bad=True)
    for left in (".partial", ".unfinished"):
        shutil.copy(f"{stopped}{left}", tmp_path / f"strict.beton{left}")
    (tmp_path / "second" / "again").mkdir()
    with pytest.raises(UserError, match=f"image {BAD} "):  # it may not be left out now
        write_beton(tmp_path / "strict.beton", stamped(load), HALF, workers=1)
    manifest = write_beton(stopped, stamped(load), HALF, workers=1, skip_bad=True)
    assert manifest.skipped == [f"some/{BAD}.png"] and manifest.count == COUNT - 1
    write_beton(tmp_path / "once.beton", stamped(counted(tmp_path / "third", raise_at_bad)), HALF, skip_bad=True)
    assert stopped.read_bytes() == (tmp_path / "once.beton").read_bytes()


@pytest.mark.slow
def test_prepare_killed_at_any_moment_ends_with_the_bytes_of_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """SIGKILL for the command and its workers, three times, until the same command ends by itself."""
    for split in ("train", "val"):
        (tmp_path / "src" / split / "cat").mkdir(parents=True)
        for number in range(11 * CHUNK):
            Image.fromarray(pixels(number)).save(tmp_path / "src" / split / "cat" / f"{number:03}.png")
    options = PrepareOptions(max_resolution=16, workers=2)
    prepare_folder(tmp_path / "src", tmp_path / "whole", options)
    out = tmp_path / "out"
    for split, chunks in (("val", 2), ("train", 1), ("train", 9)):  # which both workers leave to be read
        waiting = tmp_path / f"{split}{chunks}"
        waiting.mkdir()

        def read(path: Path, split: str = split, chunks: int = chunks, waiting: Path = waiting) -> bytes:
            if path.parts[-3] == split and int(path.stem) >= chunks * CHUNK:
                (waiting / str(os.getpid())).touch()
                threading.Event().wait(TIMEOUT)
            return read_bytes(path)

        monkeypatch.setattr("trainer.data.beton.prepare.read_bytes", read)
        process = _start(lambda: prepare_folder(tmp_path / "src", out, options))
        try:
            _wait(lambda process=process, waiting=waiting: len([*waiting.iterdir()]) == 2 or not process.is_alive())
        finally:
            with contextlib.suppress(ProcessLookupError):  # it has ended by itself, which is found below
                os.killpg(process.pid or 0, signal.SIGKILL)
            process.join()
        _wait(lambda process=process: not group_is_alive(process.pid or 0))
    monkeypatch.undo()
    prepare_folder(tmp_path / "src", out, options)
    printed = capfd.readouterr().out
    found = re.findall(rf"(\w+)\.beton\S*: continues after (\d+) of {11 * CHUNK} images", printed)
    assert [split for split, _ in found] == ["val", "train", "train"]
    for (_, continued), least, most in zip(found, (1, 1, 2), (2, 1, 9), strict=True):
        assert least * CHUNK <= int(continued) <= most * CHUNK  # a worker may hold chunks that have no place yet
    assert "val.beton: complete since the start that was interrupted" in printed
    assert {entry.name for entry in out.iterdir()} == {entry.name for entry in (tmp_path / "whole").iterdir()}
    for split in ("train", "val"):
        assert (out / f"{split}.beton").read_bytes() == (tmp_path / "whole" / f"{split}.beton").read_bytes()
        assert (out / f"{split}.beton.json").read_bytes() == (tmp_path / "whole" / f"{split}.beton.json").read_bytes()


def _start(function: Callable[[], Any]) -> Any:
    process = multiprocessing.get_context("fork").Process(target=lambda: (os.setsid(), function()))
    process.start()
    return process


def _wait(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + TIMEOUT
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.mark.slow
def test_prepare_after_an_error_in_train_keeps_the_val_that_is_complete(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "val"):
        (tmp_path / "src" / split / "cat").mkdir(parents=True)
        for number in range(40):
            Image.fromarray(pixels(number)).save(tmp_path / "src" / split / "cat" / f"{number:03}.png")
    broken = tmp_path / "src" / "train" / "cat" / "035.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:-40])
    options, out = PrepareOptions(max_resolution=16, workers=1), tmp_path / "out"
    with pytest.raises(UserError, match=r"035\.png"):
        prepare_folder(tmp_path / "src", out, options)
    before = (out / "val.beton").stat()
    broken.write_bytes(whole)
    manifests = prepare_folder(tmp_path / "src", out, options)
    assert (out / "val.beton").stat() == before and manifests["val"].count == manifests["train"].count == 40
    printed = capsys.readouterr().out
    assert "val.beton: complete since the start that was interrupted" in printed
    assert "train.beton: the images stored so far are kept" in printed and "continues after 32 of 40 images" in printed
    with pytest.raises(UserError, match="is there already: pass --overwrite"):
        prepare_folder(tmp_path / "src", out, options)


def test_prepare_asks_for_overwrite_where_an_image_of_val_changed_meanwhile(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / "src" / split / "cat").mkdir(parents=True)
        Image.fromarray(pixels(1)).save(tmp_path / "src" / split / "cat" / "1.png")
    (tmp_path / "src" / "train" / "cat" / "2.png").write_bytes(b"")
    options, out = PrepareOptions(max_resolution=16, workers=1), tmp_path / "out"
    with pytest.raises(UserError, match=r"2\.png"):
        prepare_folder(tmp_path / "src", out, options)
    Image.fromarray(pixels(3)).save(tmp_path / "src" / "val" / "cat" / "1.png")
    with pytest.raises(UserError, match=r"val\.beton is there already: pass --overwrite"):
        prepare_folder(tmp_path / "src", out, options)


def test_file_that_lacks_bad_images_is_complete_for_a_start_that_skips_them_alone(tmp_path: Path) -> None:
    found, path = stamped(counted(tmp_path / "loaded", raise_at_bad)), tmp_path / "val.beton"
    write_beton(path, found, HALF, workers=1, skip_bad=True, keep_journal=True)
    journal = journal_of(path, found, HALF)
    assert is_complete(path, found, journal, skip_bad=True)
    assert not is_complete(path, found, journal, skip_bad=False)


@pytest.mark.slow
def test_header_is_ffcvs_own(tmp_path: Path) -> None:
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    for mode in ("raw", "jpg", "proportion"):
        encoding = Encoding(write_mode=mode, max_resolution=16)  # type: ignore[arg-type]
        theirs = DatasetWriter(
            str(tmp_path / "theirs"), {"image": RGBImageField(write_mode=mode), "label": IntField()}, encoding.page_size
        )
        theirs.num_samples = COUNT
        theirs.prepare()
        theirs.metadata_sm.close()
        theirs.metadata_sm.unlink()
        write_beton(tmp_path / "ours", images(), encoding, workers=1)
        ours, header = (tmp_path / "ours").read_bytes(), (tmp_path / "theirs").read_bytes()[:2106]
        assert ours[:16] == header[:16] and ours[24:2106] == header[24:], "bytes 16 to 24: where the table is"
