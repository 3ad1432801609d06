"""Atomic writes: a file is complete or absent, whenever the process dies."""

import contextlib
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from trainer.errors import UserError

MAKE_ROOM = "free some space or make it writable, then run the same command again: it resumes from the last checkpoint"


@contextlib.contextmanager
def atomic_write(path: Path, keep_partial: Callable[[], bool] = lambda: False) -> Iterator[Path]:
    """Yields a temporary name to write to. The file is renamed to `path` when the block ends, removed if it raises.

    The content is synced to disk before the rename, so it survives a power cut. The file's mode follows the umask,
    even if a library replaced the temporary file by a private one, as safetensors does. `keep_partial` is asked if the
    block raises: True keeps the temporary file for a later start. Raises UserError if another process is writing the
    file.
    """
    partial = path.with_name(path.name + ".partial")
    file = os.open(partial, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{partial} is being written by another process: wait for it or stop it") from error
        except OSError:
            pass  # a file system without locks
        try:
            yield partial
            written = os.open(partial, os.O_RDONLY)
            try:
                if not os.path.samestat(os.fstat(written), created := os.fstat(file)):
                    os.fchmod(written, stat.S_IMODE(created.st_mode))
                os.fsync(written)
            finally:
                os.close(written)
            rename(partial, path)
        except BaseException as error:
            if not keep_partial():
                partial.unlink(missing_ok=True)
            if isinstance(error, OSError) and error.filename is None:
                error.filename = str(path)  # an error of write() does not name the file
            raise
    finally:
        os.close(file)


def rename(partial: Path, path: Path) -> None:
    """Renames within a folder, and returns when the new name would survive a power failure."""
    os.replace(partial, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def replace_text(path: Path, text: str) -> None:
    """Replaces the content of `path` atomically. In UTF-8; undecodable bytes of file names survive."""
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="surrogateescape")
