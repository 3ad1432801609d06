"""One launch of a run at a time: else two of them would both find that nothing runs, and start it twice."""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from trainer.errors import UserError


@contextlib.contextmanager
def one_at_a_time(folders: Iterable[Path]) -> Iterator[None]:
    """While a process is in the block, others with one of these run directories are refused: they raise UserError.

    It protects nobody on a file system without locks, or on one that cannot be written.
    """
    with contextlib.ExitStack() as stack:
        for folder in folders:
            stack.enter_context(_locked(folder))
        yield


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    path = folder / "launch.lock"
    with contextlib.ExitStack() as stack:
        try:
            made = [above for above in (folder, *folder.parents) if not above.exists()]
            stack.callback(_quietly, *(above.rmdir for above in made))  # of a launch that was refused: they are empty
            folder.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(path.open("ab"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(path.stat(), os.fstat(file.fileno())):
                raise BlockingIOError  # the launch before has removed it since
        except (BlockingIOError, FileNotFoundError) as error:
            raise UserError(f"{folder}: another launch of it is being made: wait for it") from error
        except OSError:
            pass
        stack.callback(_quietly, path.unlink)
        yield


def _quietly(*actions: Callable[[], None]) -> None:
    with contextlib.suppress(OSError):
        for action in actions:
            action()
