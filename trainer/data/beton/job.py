"""Encodes and writes the images of one file on several processes, and continues what an interrupted start has done."""

import os
import signal
import time
import zlib
from collections.abc import Callable
from multiprocessing import connection, get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.beton import index as beton_index
from trainer.data.beton.images import Images
from trainer.data.beton.journal import ROW, SKIPPED, STORED, WAITING, Journal, count_damaged
from trainer.data.beton.jpeg import encode_jpeg
from trainer.data.beton.manifest import Encoding
from trainer.data.beton.opencv import require_opencv
from trainer.data.beton.placing import CHUNK, Places, shared
from trainer.data.images import BadImageError, reason
from trainer.errors import UserError

_MOST_AHEAD = 32 << 20  # bytes that a worker has encoded whose place is not known yet; then it waits
_WAIT = 0.002  # seconds


class Job:
    """One file being written: what its workers need, and the memory they share, which has no name to be left."""

    def __init__(
        self, path: Path, images: Images, encoding: Encoding, journal: Journal, workers: int, skip_bad: bool
    ) -> None:
        count = len(images.labels)
        self.path, self.images, self.encoding, self.journal = path, images, encoding, journal
        self.skip_bad, self._threads = skip_bad, workers
        self.context = get_context("fork")  # so that images need not be pickled
        self.rows = shared(count, ROW)
        done = self._resume()
        data_start = beton_index.METADATA_START + count * beton_index.METADATA.itemsize
        data_start += -data_start % encoding.page_size
        self.places = Places(self.rows, encoding.page_size, data_start, done, self.context)
        os.truncate(path, self.places.end if done else 0)
        self.journal.begin(self.rows[:done])
        self.current = shared(min(workers, -(-(count - done) // CHUNK)), np.dtype(np.int64))  # what each worker is at
        skipped = np.flatnonzero(self.rows["state"] == SKIPPED).tolist()
        self.skipped: dict[int, str] = dict.fromkeys(skipped, "as before the interruption")  # image -> reason

    def run(self, progress: Callable[[int], None]) -> None:
        """Encodes and writes all images. Whatever happens, no worker is left when this returns or raises."""
        require_opencv(f"writing {self.path}")
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
                progress(int(np.count_nonzero(self.rows["state"] == STORED)) + len(self.skipped))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, masked)
            for process in processes:
                if process.pid is not None:
                    process.kill()
                    process.join()

    def finish(self) -> str:
        """Writes header, metadata and allocation table of the images that are stored. Returns the content checksum."""
        stored = self.rows[self.rows["state"] == STORED]
        if len(stored) == 0 or len(stored) + len(self.skipped) != len(self.rows):
            raise UserError(f"{self.path}: only {len(stored)} of {len(self.rows)} images could be stored")
        metadata = np.zeros(len(stored), beton_index.METADATA)  # a copy of rows would have anything between the fields
        metadata["f0"], metadata["f1"] = stored["metadata"]["f0"], stored["metadata"]["f1"]
        table = np.empty(len(stored), beton_index.ALLOCATION)
        table["sample_id"] = np.arange(len(stored))
        table["ptr"] = stored["metadata"]["f0"]["data_ptr"]
        table["size"] = stored["size"]
        table_start = self.places.end + -self.places.end % self.encoding.page_size
        header = beton_index.header_bytes(self.encoding.page_size, len(stored), table_start)
        with open(self.path, "r+b") as file:
            for start, content in (
                (0, header), (beton_index.METADATA_START, metadata.tobytes()), (table_start, table.tobytes()),
            ):  # fmt: skip
                file.seek(start)
                file.write(content)
        return beton_index.checksum_of(stored["digest"].tobytes())

    def discard_empty(self) -> None:
        """Removes the journal where there is nothing to continue."""
        if self.images.stamp is None or not (self.rows["state"] == STORED).any():
            self.journal.remove()

    def _resume(self) -> int:
        """Takes the rows of an interrupted start, up to the first that does not count. Returns how many."""
        rows, _ = self.journal.read()
        ends = [rows["state"] == WAITING]
        if self.images.stamp is None:
            return 0
        if not self.skip_bad:
            ends.append(rows["state"] == SKIPPED)
        done = _whole_chunks(np.logical_or.reduce(ends))
        for image in range(done):
            if self.images.stamp(image) != rows[image]["stamp"]:
                done = image // CHUNK * CHUNK
                break
        damaged, first = count_damaged(self.path, rows[:done], self._threads)
        done = first // CHUNK * CHUNK if damaged else done
        self.rows[:done] = rows[:done]
        if self.images.oriented is not None:
            self.images.oriented[:done] = rows["oriented"][:done]
        if done:
            print(f"{self.path}: continues after {done:,} of {len(rows):,} images", flush=True)
        return done

    def _work(self, worker: int, report: connection.Connection, parent: int) -> None:
        """The life of a worker. Reports (image, reason) for an image it skips, (-1, message) for its own end."""
        try:
            ahead: list[tuple[range, list[np.ndarray]]] = []  # chunks that are encoded and not written
            with open(self.path, "r+b", buffering=0) as file:
                while (images := self.places.take()) or ahead:
                    if images:
                        ahead.append((images, [self._encode(worker, image, report) for image in images]))
                        self.places.encoded(images)
                    while ahead and self.places.have(ahead[0][0]):
                        self._write(file.fileno(), *ahead.pop(0))
                    while ahead and (not images or _bytes(ahead) > _MOST_AHEAD) and not self.places.have(ahead[0][0]):
                        time.sleep(_WAIT)
                        if os.getppid() != parent:
                            return  # nobody waits for us any more
                    if os.getppid() != parent:
                        return
            self.current[worker] = -1
        except UserError as error:
            report.send((-1, str(error)))
        except OSError as error:
            report.send((-1, f"{self.path} cannot be written: {error.strerror or error}"))
        except Exception as error:
            report.send((-1, f"{self._name(int(self.current[worker]))}: {reason(error)}"))

    def _encode(self, worker: int, image: int, report: connection.Connection) -> np.ndarray:
        """The bytes to store: uint8, shape (n,). An image that is skipped has none, and its row says so."""
        self.current[worker] = image
        row = self.rows[image : image + 1]
        row["stamp"] = self.images.stamp(image) if self.images.stamp else 0
        try:
            pixels = self._load(image)
            mode, stored = beton_index.RAW, pixels.reshape(-1)
            if self.encoding.is_jpeg(image):
                mode, stored = (
                    beton_index.JPEG,
                    encode_jpeg(pixels, self.encoding.jpeg_quality, self.encoding.jpeg_tiles),
                )
            if len(stored) > self.encoding.page_size:
                page = f"a page of {self.encoding.page_size:,}"
                raise BadImageError(f"its {len(stored):,} bytes do not fit into {page}: set max_resolution")
        except BadImageError as error:
            if not self.skip_bad:
                says = f"{self._name(image)} cannot be stored: {reason(error)}"
                raise UserError(f"{says}; repair or remove it, or pass --skip-bad") from error
            report.send((image, reason(error)))
            row["state"] = SKIPPED
            return np.empty(0, np.uint8)
        row["oriented"] = self.images.oriented is not None and self.images.oriented[image]
        label, (height, width) = self.images.labels[image], pixels.shape[:2]
        row["metadata"]["f0"], row["metadata"]["f1"] = (mode, width, height, 0), label
        header = np.array((label, height, width, mode), beton_index.SAMPLE).tobytes()
        row["digest"] = np.frombuffer(beton_index.sample_digest(header, stored.data), np.uint8)
        row["size"], row["crc"] = len(stored), zlib.crc32(stored.data)
        return stored

    def _load(self, image: int) -> np.ndarray:
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
        return pixels

    def _write(self, file: int, images: range, encoded: list[np.ndarray]) -> None:
        """Writes a chunk where it belongs, and then that it is there."""
        rows = self.rows[images.start : images.stop]
        for place, stored in zip(rows["metadata"]["f0"]["data_ptr"].tolist(), encoded, strict=True):
            done = 0
            while done < len(stored):
                done += os.pwrite(file, stored[done:].data, place + done)
        rows["state"][rows["state"] != SKIPPED] = STORED
        self.journal.write(images.start, rows)

    def _expect_success(self, process: BaseProcess, image: int) -> None:
        process.join()
        if process.exitcode:
            killed = process.exitcode < 0
            how = f"was killed by {signal.Signals(-process.exitcode).name}" if killed else f"ended ({process.exitcode})"
            raise UserError(f"{self.path}: a writing process {how} at {self._name(image)}: is the memory exhausted?")

    def _name(self, image: int) -> str:
        return f"image {image} ({self.images.names[image]!r})" if image >= 0 else "the end"


def _whole_chunks(ends: np.ndarray) -> int:
    """How many images are in whole chunks before the first that is True."""
    if not ends.any():
        return len(ends)
    return int(ends.argmax()) // CHUNK * CHUNK


def _bytes(ahead: list[tuple[range, list[np.ndarray]]]) -> int:
    return sum(len(stored) for _, encoded in ahead for stored in encoded)
