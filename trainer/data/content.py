"""What a set of image files holds: a checksum of every byte, read once and then remembered by a stamp.

A stamp holds what the files looked like (names, lengths, times) when they were read, and what was found. It lies beside
the files, or in the user's cache folder where theirs cannot be written to; without either they are read at every start.
"""

import contextlib
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar, get_type_hints

import numpy as np

from trainer.atomic import replace_text
from trainer.data.images import has_orientation
from trainer.distributed.cpus import usable_cpus
from trainer.errors import NOT_JSON, UserError
from trainer.process.regular import require_regular
from trainer.process.variables import cache_folder

T = TypeVar("T")
CHUNK = 64  # images that a thread takes at a time
_PATIENCE = 5.0  # seconds after which a line says what takes so long


@dataclass(frozen=True, kw_only=True)
class Content:
    """What was found when the files were read."""

    checksum: str
    """of labels and files, in the order of the images"""
    oriented: int
    """images with an EXIF orientation other than 1"""
    decoded: bool = False
    """whether every image was decoded, too"""


@dataclass(frozen=True)
class Stamp:
    """Where the stamp lies, and the state of the files that it is for."""

    path: Path
    state: str

    @classmethod
    def of(cls, path: Path, files: Iterable[tuple[str, int, int]], labels: np.ndarray) -> "Stamp":
        """Makes the stamp for these files.

        `files`: name, length and time of every file; `labels`: of the images, whose order is part of the state.
        """
        digest = hashlib.sha256(labels.tobytes())
        for name, length, when in files:
            digest.update(os.fsencode(f"{name} {length} {when}\n"))
        return cls(path, digest.hexdigest())

    def read(self) -> Content | None:
        """Returns what was found; None if no stamp is of this state, or something else lies in its place."""
        for path in self._places():
            with contextlib.suppress(OSError, UserError, *NOT_JSON):
                require_regular(path)
                found = json.loads(path.read_text(encoding="ascii"))
                kinds = {name: type(value) for name, value in found.items()} if isinstance(found, dict) else {}
                if kinds == {"state": str, **get_type_hints(Content)} and found.pop("state") == self.state:
                    return Content(**found)
        return None

    def write(self, content: Content) -> None:
        """Remembers it beside the files, else in the cache folder; does nothing if neither can be written to."""
        for path in self._places():
            with contextlib.suppress(OSError, UserError):  # UserError: another process is writing it
                path.parent.mkdir(parents=True, exist_ok=True)
                replace_text(path, json.dumps({"state": self.state, **asdict(content)}) + "\n")
                return

    def _places(self) -> list[Path]:
        place = hashlib.sha256(os.fsencode(self.path.absolute())).hexdigest()[:32]
        cache = cache_folder()
        return [self.path, *([cache / "verified" / f"{place}.json"] if cache else [])]


def read_content(stamp: Stamp, labels: np.ndarray, read: Callable[[int], bytes], what: str) -> Content:
    """Returns the stamped content, or reads that of all images now.

    `read` returns an image's encoded bytes, and raises LocalError; `what` names them in the line that says why it takes
    so long.
    """
    if found := stamp.read():
        return found

    def digest_of(image: int) -> tuple[bytes, bool]:
        encoded = read(image)
        digest = hashlib.sha256(labels[image].astype("<i8").tobytes())
        digest.update(encoded)
        return digest.digest(), has_orientation(encoded)

    whole, oriented = hashlib.sha256(), 0
    for digest, turned in in_threads(digest_of, len(labels), f"reading {what} once, to identify the content"):
        whole.update(digest)
        oriented += turned
    content = Content(checksum=f"files-sha256:{whole.hexdigest()}", oriented=oriented)
    stamp.write(content)
    return content


def mark_decoded(stamp: Stamp, content: Content) -> Content:
    """Remembers that every image was decoded."""
    decoded = replace(content, decoded=True)
    stamp.write(decoded)
    return decoded


def in_threads(function: Callable[[int], T], count: int, what: str) -> Iterator[T]:
    """Yields function(0), function(1), ... in this order, computed by a thread for each CPU.

    Says `what` it is where it is slow.
    """

    def chunk(first: int) -> Sequence[T]:
        return [function(number) for number in range(first, min(first + CHUNK, count))]

    patient_until: float | None = time.monotonic() + _PATIENCE
    pool = ThreadPoolExecutor(usable_cpus(), thread_name_prefix="content")
    try:
        for results in pool.map(chunk, range(0, count, CHUNK)):
            if patient_until and time.monotonic() > patient_until:
                patient_until = None
                print(f"{what} ({count:,} images) ...", file=sys.stderr, flush=True)
            yield from results
    finally:
        pool.shutdown(wait=True, cancel_futures=True)  # Ctrl-C does not wait for the rest
