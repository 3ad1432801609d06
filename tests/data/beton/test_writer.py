"""Writing a .beton: what goes in comes out of FFCV, and whatever fails, fails at once and leaves nothing behind.

Each failing write runs in a process of its own with a time limit, so that a hang is a failed test, and no process of it
may be left afterwards.
"""

import errno
import io
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.processes import TIMEOUT, group_is_alive
from trainer.data.beton import index as beton_index
from trainer.data.beton.images import Images
from trainer.data.beton.index import read_index, verify
from trainer.data.beton.manifest import DataOrigin, Encoding, Manifest, read_manifest, read_stamp
from trainer.data.beton.writer import write_beton
from trainer.errors import UserError

COUNT = 211
RAW = Encoding(write_mode="raw", max_resolution=16)


def pixels(image: int) -> np.ndarray:
    return np.random.default_rng(image).integers(0, 256, (16, 12, 3), np.uint8)


def images(load: Callable[[int], np.ndarray] = pixels, count: int = COUNT) -> Images:
    return Images(
        classes=["a", "b", "c"],
        labels=np.arange(count) % 3,
        names=[f"some/{image}.png" for image in range(count)],
        source=DataOrigin(kind="folder", name="made"),
        load=load,
    )


def in_its_own_process(function: Callable[[], Any]) -> tuple[str, Any]:
    """(name of the exception's type or "returned", its text or the result). Fails on a hang and on a process left."""

    def run(sender: Connection) -> None:
        os.setsid()
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        try:
            answer = "returned", function()
        except BaseException as error:
            answer = type(error).__name__, str(error)
        assert not multiprocessing.active_children()
        sender.send(answer)

    receiver, sender = multiprocessing.get_context("fork").Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=run, args=(sender,))
    process.start()
    sender.close()
    answered = receiver.poll(TIMEOUT)
    try:
        assert answered, f"hangs: no answer after {TIMEOUT} s"
        answer: tuple[str, Any] = receiver.recv()
        process.join(TIMEOUT)
        wait_for_the_end(process.pid)
        return answer
    finally:
        if process.pid and group_is_alive(process.pid):
            os.killpg(process.pid or 0, signal.SIGKILL)
        process.join()


def wait_for_the_end(group: int | None) -> None:
    """Waits until no process of the group is left. Python's own resource tracker may end last."""
    limit = time.monotonic() + TIMEOUT
    while group and group_is_alive(group):
        assert time.monotonic() < limit, "a process is left"
        time.sleep(0.05)


def assert_nothing_left(folder: Path) -> None:
    assert list(folder.iterdir()) == []


def load_but(
    bad: int, fail: Callable[[], Any], load_other: Callable[[int], np.ndarray] = pixels
) -> Callable[[int], np.ndarray]:
    def load(image: int) -> np.ndarray:
        return fail() if image == bad else load_other(image)

    return load


def slowly(image: int) -> np.ndarray:
    """All images would take longer than in_its_own_process waits: stopping must not wait for them."""
    time.sleep(40 if image > 150 else 0.05)  # 60 images of 40 s, on two workers
    return pixels(image)


def raises(error: BaseException) -> Callable[[], Any]:
    def fail() -> None:
        raise error

    return fail


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["raw", "jpg"])
def test_ffcvs_loader_returns_what_was_written(tmp_path: Path, mode: Any) -> None:
    path = tmp_path / "train.beton"
    manifest = write_beton(path, images(), replace(RAW, write_mode=mode), workers=2)
    assert manifest.count == COUNT and manifest.class_counts == [71, 70, 70]

    code = f"""
        import numpy as np
        from ffcv.fields.basics import IntDecoder
        from ffcv.fields.rgb_image import SimpleRGBImageDecoder
        from ffcv.loader import Loader, OrderOption
        pipelines = {{"image": [SimpleRGBImageDecoder()], "label": [IntDecoder()]}}
        loader = Loader({str(path)!r}, {COUNT}, num_workers=1, order=OrderOption.SEQUENTIAL, pipelines=pipelines)
        (images, labels), = [(images.copy(), labels.copy()) for images, labels in loader]
        np.savez({str(tmp_path / "ffcv.npz")!r}, images=images, labels=labels)
    """
    # A new interpreter: in a fork, Numba and OpenMP would find the locks of threads that do not exist there.
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], timeout=TIMEOUT, check=True)
    theirs = np.load(tmp_path / "ffcv.npz")
    decoded, labels = theirs["images"], theirs["labels"]
    assert labels[:, 0].tolist() == [image % 3 for image in range(COUNT)]
    original = np.stack([pixels(image) for image in range(COUNT)])
    if mode == "raw":
        assert np.array_equal(decoded, original)
    else:
        index, content = read_index(path), path.read_bytes()
        for image in range(COUNT):
            stored = content[index.pointers[image] :][: index.sizes[image]]
            expected = np.asarray(Image.open(io.BytesIO(stored))).astype(int)
            assert np.abs(decoded[image] - expected).mean() < 2, "two versions of libjpeg differ by little"


@pytest.mark.slow
def test_jpeg_is_stored_as_ffcv_encodes_it(tmp_path: Path) -> None:
    from ffcv.fields.rgb_image import encode_jpeg

    """With tiles there are markers in it, and the same pixels: tests/data/beton/test_decode.py."""
    path = tmp_path / "train.beton"
    plain = Encoding(write_mode="jpg", max_resolution=16, jpeg_quality=80, jpeg_tiles=False)
    write_beton(path, images(count=20), plain, workers=1)
    index, content = read_index(path), path.read_bytes()
    for image in range(20):
        stored = content[index.pointers[image] : index.pointers[image] + index.sizes[image]]
        assert stored == encode_jpeg(pixels(image), 80).tobytes()


def test_file_manifest_and_stamp_are_complete(tmp_path: Path) -> None:
    path = tmp_path / "new" / "train.beton"
    manifest = write_beton(path, images(), RAW, workers=2)
    names = ["train.beton", "train.beton.json", "train.beton.verified"]
    assert sorted(entry.name for entry in path.parent.iterdir()) == names
    assert read_manifest(path) == manifest
    assert read_stamp(path) == {
        "size": path.stat().st_size, "mtime_ns": path.stat().st_mtime_ns, "checksum": manifest.checksum,
    }  # fmt: skip
    assert str(tmp_path) not in (path.parent / "train.beton.json").read_text()
    assert len(verify(path, manifest)) == COUNT
    assert "ffcv" not in manifest.software and manifest.software.keys() >= {"numpy", "pillow", "simplejpeg"}


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["proportion", "jpg"])
def test_content_does_not_depend_on_the_number_of_workers(tmp_path: Path, mode: Any) -> None:
    written = {}
    for name, workers in (("one", 1), ("three", 3), ("again", 3)):
        path = tmp_path / f"{name}.beton"
        manifest = write_beton(path, images(), replace(RAW, write_mode=mode), workers=workers)
        written[name] = manifest.checksum, read_index(path).modes.tolist()
    assert written["one"] == written["three"] == written["again"]
    assert 70 < sum(written["one"][1]) < 140 if mode == "proportion" else sum(written["one"][1]) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "error", [OSError("image file is truncated"), SyntaxError("broken PNG file"), ValueError(""), KeyError(3)]
)
def test_unreadable_image_is_named_and_stops_everything(tmp_path: Path, error: Exception) -> None:
    broken = images(load_but(17, raises(error), slowly))
    kind, text = in_its_own_process(lambda: write_beton(tmp_path / "train.beton", broken, RAW, workers=2))
    assert kind == "UserError"
    assert "image 17 ('some/17.png') cannot be stored" in text and "--skip-bad" in text and "\n" not in text
    assert_nothing_left(tmp_path)


def test_skip_bad_leaves_out_bad_images_and_only_them(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    bad = {0, 50, 51, COUNT - 1}

    def load(image: int) -> np.ndarray:
        if image in bad:
            raise OSError("image file is truncated")
        return pixels(image)

    path = tmp_path / "train.beton"
    manifest = write_beton(path, images(load), replace(RAW, write_mode="proportion"), workers=2, skip_bad=True)
    kept = [image for image in range(COUNT) if image not in bad]
    assert manifest.count == len(kept) and manifest.skipped == [f"some/{image}.png" for image in sorted(bad)]
    assert capfd.readouterr().out.count("image file is truncated") == 4
    index, content = verify(path, manifest), path.read_bytes()
    assert index.labels.tolist() == [image % 3 for image in kept]
    for place, image in enumerate(kept):
        if index.modes[place] == beton_index.RAW:
            assert content[index.pointers[place] :][: index.sizes[place]] == pixels(image).tobytes()
    modes = [RAW.write_mode == "raw" and not replace(RAW, write_mode="proportion").is_jpeg(image) for image in kept]
    assert index.modes.tolist() == modes


@pytest.mark.slow
def test_skip_bad_does_not_skip_what_the_disk_fails_to_read(tmp_path: Path) -> None:
    for number in (errno.EIO, errno.ENOENT, errno.EACCES):
        broken = images(load_but(97, raises(OSError(number, os.strerror(number)))))
        write = lambda broken=broken: write_beton(tmp_path / "train.beton", broken, RAW, workers=2, skip_bad=True)  # noqa: E731
        kind, text = in_its_own_process(write)
        assert kind == "UserError" and "image 97 ('some/97.png') cannot be read" in text
        assert os.strerror(number) in text
    assert_nothing_left(tmp_path)


def test_writer_no_image_left_is_an_error(tmp_path: Path) -> None:
    broken = images(raises(ValueError("no")), count=20)  # type: ignore[arg-type]
    kind, text = in_its_own_process(lambda: write_beton(tmp_path / "a.beton", broken, RAW, workers=2, skip_bad=True))
    assert kind == "UserError" and "only 0 of 20 images" in text
    assert_nothing_left(tmp_path)


@pytest.mark.parametrize("workers", [1, 3])
def test_killed_worker_is_an_error_not_a_hang(tmp_path: Path, workers: int) -> None:
    killed = images(load_but(130, lambda: os.kill(os.getpid(), signal.SIGKILL)))
    kind, text = in_its_own_process(lambda: write_beton(tmp_path / "train.beton", killed, RAW, workers=workers))
    assert kind == "UserError" and "killed by SIGKILL at image 130 ('some/130.png')" in text
    assert_nothing_left(tmp_path)


@pytest.mark.slow
def test_worker_killed_from_outside_is_an_error_not_a_hang(tmp_path: Path) -> None:
    def kill_one(done: int) -> None:
        if done > 1:
            os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)

    path = tmp_path / "train.beton"
    kind, text = in_its_own_process(lambda: write_beton(path, images(slowly), RAW, workers=2, progress=kill_one))
    assert kind == "UserError" and "SIGKILL" in text
    assert_nothing_left(tmp_path)


@pytest.mark.slow
def test_writer_ctrl_c_ends_everything(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def press(done: int) -> None:
        if done > 1:
            os.killpg(0, signal.SIGINT)  # a terminal sends it to all processes

    path = tmp_path / "train.beton"
    kind, _ = in_its_own_process(lambda: write_beton(path, images(slowly), RAW, workers=2, progress=press))
    assert kind == "KeyboardInterrupt" and "Traceback" not in capfd.readouterr().err
    assert_nothing_left(tmp_path)


@pytest.mark.slow
def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    """Nobody is left to tidy up, but nothing may run on, and the next write starts afresh."""

    def die(done: int) -> None:
        if done > 1:
            os.kill(os.getpid(), signal.SIGKILL)

    path = tmp_path / "train.beton"
    write = lambda: write_beton(path, images(slowly), RAW, workers=2, progress=die)  # noqa: E731
    process = multiprocessing.get_context("fork").Process(target=lambda: (os.setsid(), write()))
    process.start()
    process.join(TIMEOUT)
    assert process.exitcode == -signal.SIGKILL
    wait_for_the_end(process.pid)
    assert not path.exists()
    assert write_beton(path, images(), RAW, workers=2).count == COUNT
    assert not path.with_name("train.beton.partial").exists()


def test_limit_on_the_file_size_is_an_error_not_a_hang(tmp_path: Path) -> None:
    def write() -> Manifest:
        limit = (2 << 20) + 10_000  # within the images of the first page: a short write
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        return write_beton(tmp_path / "train.beton", images(), RAW, workers=2)

    kind, text = in_its_own_process(write)
    assert kind == "UserError" and "cannot be written: File too large" in text
    assert_nothing_left(tmp_path)


def test_full_disk_is_an_error_not_a_hang(tmp_path: Path) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a small file system; the limit on the file size is tried anyway")
    try:
        kind, text = in_its_own_process(lambda: write_beton(tmp_path / "train.beton", images(), RAW, workers=2))
        assert kind == "UserError" and "cannot be written: No space left on device" in text
        assert_nothing_left(tmp_path)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_writer_what_the_disk_changes_is_found_before_the_file_has_its_name(tmp_path: Path) -> None:
    def damage(done: int) -> None:  # the last call is after the last byte of the images
        with open(tmp_path / "train.beton.partial", "r+b") as file:
            file.seek(2 << 20)  # where the first page begins
            file.write(b"changed")

    with pytest.raises(UserError, match="reads back other bytes than were written"):
        write_beton(tmp_path / "train.beton", images(), RAW, workers=2, progress=damage)
    assert_nothing_left(tmp_path)


def test_writer_what_stays_empty_takes_no_room_on_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "train.beton"
    write_beton(path, images(), Encoding(write_mode="raw", max_resolution=None), workers=2)
    assert path.stat().st_size > 128 << 20, "two pages of 64 MiB, for images of any size"
    assert path.stat().st_blocks * 512 < 4 << 20


def test_image_larger_than_a_page_is_named(tmp_path: Path) -> None:
    large = images(load_but(3, lambda: np.zeros((5000, 5000, 3), np.uint8)), count=10)
    write = lambda: write_beton(tmp_path / "a.beton", large, Encoding(write_mode="raw", max_resolution=None))  # noqa: E731
    kind, text = in_its_own_process(write)
    assert kind == "UserError" and "image 3 ('some/3.png')" in text and "set max_resolution" in text
    assert_nothing_left(tmp_path)


@pytest.mark.slow
def test_writer_what_a_loader_must_not_return_is_an_error_not_a_hang(tmp_path: Path) -> None:
    for wrong in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), None, np.zeros((4, 4, 4), np.uint8)):
        broken = images(load_but(9, lambda wrong=wrong: wrong))  # type: ignore[misc]
        write = lambda broken=broken: write_beton(tmp_path / "a.beton", broken, RAW, workers=2)  # noqa: E731
        kind, text = in_its_own_process(write)
        assert kind == "UserError" and "image 9 ('some/9.png')" in text
    assert_nothing_left(tmp_path)


@pytest.mark.parametrize("labels", [[0, 1, -1], [0, 1, 3], [0.0, 1.0, 3.7], [True, False, True], []])
def test_writer_wrong_labels_are_refused(tmp_path: Path, labels: list) -> None:
    wrong = replace(images(count=len(labels)), labels=np.array(labels))
    with pytest.raises(UserError, match=r"labels are|no images"):
        write_beton(tmp_path / "a.beton", wrong, RAW)
    assert_nothing_left(tmp_path)


def test_failed_write_leaves_the_older_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "train.beton"
    manifest = write_beton(path, images(), RAW, workers=1)
    broken = images(load_but(97, raises(ValueError("no"))))
    assert in_its_own_process(lambda: write_beton(path, broken, RAW, workers=2))[0] == "UserError"
    assert len(verify(path, read_manifest(path))) == COUNT and read_manifest(path) == manifest


def test_folder_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_beton(tmp_path / "file" / "train.beton", images(), RAW)


def test_writer_without_opencv_it_says_what_to_install(tmp_path: Path) -> None:
    def write() -> Manifest:
        import sys

        sys.modules["cv2"] = None  # type: ignore[assignment]  # how Python marks a module that cannot be imported
        return write_beton(tmp_path / "train.beton", images(), RAW)

    kind, text = in_its_own_process(write)
    assert kind == "UserError" and "pip install --force-reinstall --no-deps opencv-python-headless" in text
    assert_nothing_left(tmp_path)
