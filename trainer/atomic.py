"""Files that are whole or absent, whenever the process dies."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from trainer.errors import UserError

MAKE_ROOM = "where the disk is full or read-only, change that, then the same command goes on from the last checkpoint"


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Gives another name to write to; the file gets its own when the block ends without an error, else it is removed.

    It is on disk by then, also after a power cut. Raises UserError where another process writes this file now.
    """
    partial = path.with_name(path.name + ".partial")
    folder = os.open(path.parent, os.O_RDONLY)
    file = os.open(partial, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{partial} is being written by another process: wait for it, or end it") from error
        except OSError:
            pass  # a file system without locks
        try:
            yield partial
            os.fsync(file)
            os.replace(partial, path)
            os.fsync(folder)
        except BaseException as error:
            partial.unlink(missing_ok=True)
            if isinstance(error, OSError) and error.filename is None:
                error.filename = str(path)  # write() does not say where
            raise
    finally:
        os.close(folder)
        os.close(file)


def replace_text(path: Path, text: str) -> None:
    """Gives `path` this content, or leaves it as it was."""
    with atomic_write(path) as partial:
        partial.write_text(text)
