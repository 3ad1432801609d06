"""Where the images of a .beton file lie: in their order, whatever the number of processes that encode them.

So the same images and options always give the same bytes, and an interrupted file can be continued. An image lies
within one page, as FFCV's readers want it. Its place follows from the sizes of all images before it. A process that has
encoded a chunk of images therefore waits until those before it are encoded too, and encodes others meanwhile.
"""

import mmap
from typing import Any

import numpy as np

from trainer.data.beton.journal import SKIPPED

CHUNK = 16  # images that a process takes at a time


class Places:
    """The places of all images, which forked processes find out together."""

    def __init__(self, rows: np.ndarray, page_size: int, data_start: int, done: int, context: Any) -> None:
        """`rows`: shared by the processes, see journal.ROW. `done`: images that have their places already."""
        self._rows, self._page_size = rows, page_size
        self._lock = context.Lock()
        self._next = context.Value("q", done)  # the first image that nobody has taken
        self._encoded = shared(-(-len(rows) // CHUNK), np.dtype(bool))
        self._state = shared(2, np.dtype(np.int64))  # images that have places; the byte after the last of them
        stored = rows[:done][rows[:done]["state"] != SKIPPED]
        end = int((stored["metadata"]["f0"]["data_ptr"] + stored["size"].astype(np.uint64)).max(initial=data_start))
        self._state[:] = done, end

    @property
    def end(self) -> int:
        """The byte after the last image that has a place."""
        return int(self._state[1])

    def take(self) -> range:
        """Takes the next images to encode; empty if none are left."""
        with self._next.get_lock():
            first = int(self._next.value)
            self._next.value = min(first + CHUNK, len(self._rows))
            return range(first, int(self._next.value))

    def have(self, images: range) -> bool:
        """Whether these images have their places."""
        return int(self._state[0]) >= images.stop

    def encoded(self, images: range) -> None:
        """Records that the sizes of these images are known. Places every image whose predecessors' sizes are known."""
        sizes, states = self._rows["size"], self._rows["state"]
        pointers = self._rows["metadata"]["f0"]["data_ptr"]
        with self._lock:
            self._encoded[images.start // CHUNK] = True
            image, end = int(self._state[0]), int(self._state[1])
            while image < len(self._rows) and self._encoded[image // CHUNK]:
                after = min(image + CHUNK, len(self._rows))
                for placed in range(image, after):
                    if states[placed] == SKIPPED:
                        continue
                    size = int(sizes[placed])
                    if end % self._page_size + size > self._page_size:
                        end += -end % self._page_size  # into the next page
                    pointers[placed] = end
                    end += size
                image = after
            self._state[:] = image, end


def shared(count: int, kind: np.dtype) -> np.ndarray:
    """Zeros that forked processes share."""
    return np.frombuffer(mmap.mmap(-1, max(count, 1) * kind.itemsize), kind, count)
