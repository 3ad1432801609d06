"""Writes one .beton file: FFCV's layout and encoding, our own processes around them.

FFCV's writer hangs for ever on any exception in a worker and leaves half a file on Ctrl-C. Here the first error stops
everything, names the image and leaves nothing behind; the file gets its name when it is complete, on disk, and was read
back and found to hold what was encoded. FFCV (1.0.2) begins the file.
"""

import mmap
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import connection, get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np

from trainer.atomic import atomic_write
from trainer.data.beton import index as beton_index
from trainer.data.beton import manifest as beside
from trainer.data.beton.jpeg import encode_jpeg
from trainer.data.beton.manifest import DataOrigin, Encoding, Manifest
from trainer.data.images import BadImageError, reason
from trainer.errors import UserError

INSTALL_FFCV = "pip install 'shortcut-trainer[ffcv]' (builds with libopencv-dev libturbojpeg0-dev pkg-config g++)"
CHUNK = 16  # images that a worker takes at a time
ROW = np.dtype([("metadata", beton_index.METADATA), ("size", "i8"), ("digest", "u1", 32), ("stored", "?")])


@dataclass(frozen=True, kw_only=True)
class Images:
    """Labelled images in the order in which they are written."""

    classes: list[str]
    labels: np.ndarray  # integers, indices into classes
    names: list[str]  # for messages and the manifest: relative to the source
    source: DataOrigin
    load: Callable[[int], np.ndarray]
    """RGB: uint8, shape (height, width, 3). Any error but an OSError with a number says that the image is bad."""
    oriented: np.ndarray | None = None
    """shared bools that load sets: whether the image has an EXIF orientation; None: that is not known"""


def write_beton(
    path: Path,
    images: Images,
    encoding: Encoding,
    *,
    workers: int | None = None,
    skip_bad: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> Manifest:
    """Writes the images into `path`, with manifest and stamp beside it.

    `workers`: how many processes, None: one per usable core. `skip_bad` leaves out images that cannot be stored.
    `progress` is called now and then with the number done. Raises UserError, and then leaves no file; nor does Ctrl-C.
    """
    labels, classes = images.labels, images.classes
    if len(labels) == 0:
        raise UserError(f"{path} would hold no images")
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= len(classes):
        raise UserError(
            f"{path}: labels are {labels.dtype} from {labels.min()} to {labels.max()}, not 0 to {len(classes) - 1}"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as partial:
            job = _Job(partial, images, encoding, workers or len(os.sched_getaffinity(0)), skip_bad)
            job.run(progress)
            checksum = job.finish()
            index = beton_index.read_index(partial, len(classes))
            if beton_index.content_checksum(partial, index, workers) != checksum:
                raise UserError(f"{partial} reads back other bytes than were written: is the storage faulty?")
            manifest = Manifest(
                count=len(index), classes=classes,
                class_counts=np.bincount(index.labels, minlength=len(classes)).tolist(),
                sizes=index.extremes(partial.stat().st_size),
                source=images.source, options=encoding, skipped=[images.names[image] for image in sorted(job.skipped)],
                checksum=checksum, software=beside.software_versions(),
                exif_oriented=0 if images.oriented is None else int(images.oriented.sum()),
            )  # fmt: skip
            beside.write_manifest(manifest, path)  # before the file has its name: where a .beton is, its manifest is
        beside.write_stamp(path, beside.stamp_now(path, checksum))
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error
    for image, why in sorted(job.skipped.items()):
        print(f"skipped {images.names[image]!r}: {why}")
    return manifest


class _Pages:
    """Gives a worker room for its images: pages of the file, filled one at a time and written where they belong.

    FFCV's allocator appends to the file, so that every worker waits for all pages before its own, and takes no notice
    of a write that a full disk cut short.
    """

    def __init__(self, path: Path, start: int, size: int, next_page: Any) -> None:
        self._file = os.open(path, os.O_WRONLY)
        self._start, self._next_page = start, next_page
        self._page, self._used, self._place = np.zeros(size, np.uint8), 0, -1

    def allocate(self, size: int) -> tuple[int, np.ndarray]:
        """Where `size` bytes will lie in the file, and the memory to put them into."""
        if size > len(self._page):
            raise BadImageError(f"its {size:,} bytes do not fit into a page of {len(self._page):,}: set max_resolution")
        if self._place < 0 or self._used + size > len(self._page):
            self.flush()
            self._place, self._used = self._start + _take(self._next_page, 1) * len(self._page), 0
        self._used += size
        return self._place + self._used - size, self._page[self._used - size : self._used]

    def flush(self) -> None:
        """Writes the page up to where it is used: the rest stays a hole, which takes no room on the disk."""
        done = 0
        while done < self._used:
            done += os.pwrite(self._file, self._page[done : self._used].data, self._place + done)


class _Job:
    """One file being written: what its workers need, and the memory they share, which has no name to be left."""

    def __init__(self, path: Path, images: Images, encoding: Encoding, workers: int, skip_bad: bool) -> None:
        count = len(images.labels)
        self.path, self.images, self.encoding, self.skip_bad = path, images, encoding, skip_bad
        self.header, data_start = _begin(path, count, encoding)
        self.data_start = -(-data_start // encoding.page_size) * encoding.page_size
        self.context = get_context("fork")  # so that images need not be pickled
        self.next_image, self.next_page = self.context.Value("q", 0), self.context.Value("q", 0)
        self.rows = shared(count, ROW)
        self.current = shared(min(workers, -(-count // CHUNK)), np.dtype(np.int64))  # the image each worker is at
        self.skipped: dict[int, str] = {}  # image -> reason

    def run(self, progress: Callable[[int], None]) -> None:
        """Encodes and writes all images. Whatever happens, no worker is left when this returns or raises."""
        processes: list[BaseProcess] = []
        running: dict[Any, int] = {}  # the pipe from a worker -> its number
        masked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # Ctrl-C is for this process, not for theirs
        try:
            for worker in range(len(self.current)):
                receiver, sender = self.context.Pipe(duplex=False)
                arguments = worker, sender, os.getpid()
                processes.append(self.context.Process(target=self._work, args=arguments, daemon=True))
                processes[worker].start()
                sender.close()  # now the worker has the only one: its death ends the pipe
                running[receiver] = worker
            signal.pthread_sigmask(signal.SIG_SETMASK, masked)
            while running:
                ready: list[Any] = connection.wait(list(running), timeout=0.2)
                for reports in ready:
                    try:
                        image, message = reports.recv()
                    except EOFError:
                        worker = running.pop(reports)
                        self._expect_success(processes[worker], int(self.current[worker]))
                        continue
                    if image < 0:
                        raise UserError(message)
                    self.skipped[image] = message
                progress(int(np.count_nonzero(self.rows["stored"])) + len(self.skipped))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, masked)
            for process in processes:
                if process.pid is not None:
                    process.kill()
                    process.join()

    def finish(self) -> str:
        """Writes header, metadata and allocation table of the images that are stored. Returns the content checksum."""
        stored = self.rows[self.rows["stored"]]
        if len(stored) == 0 or len(stored) + len(self.skipped) != len(self.rows):
            raise UserError(f"{self.path}: only {len(stored)} of {len(self.rows)} images could be stored")
        table = np.empty(len(stored), beton_index.ALLOCATION)
        table["sample_id"] = np.arange(len(stored))
        table["ptr"] = stored["metadata"]["f0"]["data_ptr"]
        table["size"] = stored["size"]
        table_start = self.data_start + self.next_page.value * self.encoding.page_size
        self.header["num_samples"], self.header["alloc_table_ptr"] = len(stored), table_start
        with open(self.path, "r+b") as file:
            file.write(self.header.tobytes())
            for start, content in ((beton_index.METADATA_START, stored["metadata"]), (table_start, table)):
                file.seek(start)
                file.write(content.tobytes())
        return beton_index.checksum_of(stored["digest"].tobytes())

    def _work(self, worker: int, report: connection.Connection, parent: int) -> None:
        """The life of a worker. Reports (image, reason) for an image it skips, (-1, message) for its own end."""
        image = -1
        try:
            pages = _Pages(self.path, self.data_start, self.encoding.page_size, self.next_page)
            for image in self._my_images():
                if os.getppid() != parent:
                    return  # nobody waits for us any more
                self.current[worker] = image
                try:
                    self._store(image, pages)
                except BadImageError as error:
                    if not self.skip_bad:
                        says = f"{self._name(image)} cannot be stored: {reason(error)}"
                        raise UserError(f"{says}; repair or remove it, or pass --skip-bad") from error
                    report.send((image, reason(error)))
            self.current[worker] = -1
            pages.flush()
        except UserError as error:
            report.send((-1, str(error)))
        except OSError as error:
            report.send((-1, f"{self.path} cannot be written: {error.strerror or error}"))
        except Exception as error:
            report.send((-1, f"{self._name(image)}: {reason(error)}"))

    def _my_images(self) -> Iterator[int]:
        while (first := _take(self.next_image, CHUNK)) < len(self.rows):
            yield from range(first, min(first + CHUNK, len(self.rows)))

    def _store(self, image: int, pages: _Pages) -> None:
        try:
            pixels = self.images.load(image)
        except MemoryError:
            raise
        except OSError as error:
            if error.errno is not None:  # of the disk, not of the image: never to be skipped. PIL's have no number
                raise UserError(f"{self._name(image)} cannot be read: {error.strerror}") from error
            raise BadImageError(reason(error)) from error
        except Exception as error:  # a decoder may raise anything: SyntaxError, struct.error, ...
            raise BadImageError(reason(error)) from error
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise TypeError("load() returned something else than uint8 of shape (height, width, 3)")
        mode, stored = beton_index.RAW, pixels.reshape(-1)
        if self.encoding.is_jpeg(image):
            mode, stored = beton_index.JPEG, encode_jpeg(pixels, self.encoding.jpeg_quality, self.encoding.jpeg_tiles)
        place, given = pages.allocate(len(stored))
        given[:] = stored
        label, (height, width), row = self.images.labels[image], pixels.shape[:2], self.rows[image : image + 1]
        row["metadata"]["f0"], row["metadata"]["f1"] = (mode, width, height, place), label
        header = np.array((label, height, width, mode), beton_index.SAMPLE).tobytes()
        row["digest"] = np.frombuffer(beton_index.sample_digest(header, stored.data), np.uint8)
        row["size"], row["stored"] = len(stored), True

    def _expect_success(self, process: BaseProcess, image: int) -> None:
        process.join()
        if process.exitcode:
            killed = process.exitcode < 0
            how = f"was killed by {signal.Signals(-process.exitcode).name}" if killed else f"ended ({process.exitcode})"
            raise UserError(f"{self.path}: a writing process {how} at {self._name(image)}: is the memory exhausted?")

    def _name(self, image: int) -> str:
        return f"image {image} ({self.images.names[image]!r})" if image >= 0 else "the end"


def _begin(path: Path, count: int, encoding: Encoding) -> tuple[Any, int]:
    """Lets FFCV begin the file. Returns its header, and where data may begin."""
    try:
        import cv2
        from ffcv.fields import IntField, RGBImageField
        from ffcv.writer import DatasetWriter
    except (ImportError, OSError) as error:
        raise UserError(f"writing {path} needs FFCV ({error}): {INSTALL_FFCV}") from error
    cv2.setNumThreads(0)  # a forked process has none of its parent's threads: OpenCV would wait for them for ever
    fields = {"image": RGBImageField(write_mode=encoding.write_mode), "label": IntField()}
    writer = DatasetWriter(str(path), fields, encoding.page_size)
    writer.num_samples = count
    writer.prepare()
    writer.metadata_sm.close()  # ours takes no room in /dev/shm, which is small in containers, and cannot be left there
    writer.metadata_sm.unlink()
    return writer.header, writer.data_region_start


def shared(count: int, kind: np.dtype) -> np.ndarray:
    """Zeros that forked processes share."""
    return np.frombuffer(mmap.mmap(-1, count * kind.itemsize), kind)


def _take(counter: Any, number: int) -> int:
    """The next of the numbers that the workers share out among themselves; `number` of them are taken."""
    with counter.get_lock():
        counter.value += number
        return int(counter.value) - number
