"""Where compiled code is kept between starts. Numba itself raises an error where it finds no folder for it.

That is so in a container: the installation is read-only, and the user is a number without a home. The first folder is
taken that can be written to: beside the code, NUMBA_CACHE_DIR, the user's cache folder, the run directory. Without any,
everything is compiled at each start, for some seconds. Numba is not imported here.
"""

import os
import sys
import tempfile
from functools import cache
from pathlib import Path

from trainer.process.variables import cache_folder

_CODE = Path(__file__).parents[1] / "data" / "beton" / "__pycache__"
_offered: list[Path] = []


def offer(run_dir: Path) -> None:
    """Names a folder of this start, for where no other can be written to."""
    _offered[:] = [run_dir / "compiled"]


@cache
def can_be_cached() -> bool:
    """Whether compiled code can be kept: what Numba's decorators are to be given as `cache`.

    Chooses the folder when it is first called, and prints a line where that is not the usual one.
    """
    asked = os.environ.get("NUMBA_CACHE_DIR")
    usual = [Path(asked)] if asked else [_CODE]
    if any(_writable(folder) for folder in usual):
        return True
    why = f"compiled code cannot be kept in {usual[0]}"
    user = cache_folder()
    for folder in [*([user / "numba"] if user else []), *_offered]:
        if _writable(folder):
            os.environ["NUMBA_CACHE_DIR"] = str(folder)  # for processes that this one starts
            if numba := sys.modules.get("numba"):
                numba.config.CACHE_DIR = str(folder)  # read from the environment when it was imported
            _say(f"{why}: it is kept in {folder}")
            return True
    _say(f"{why}, nor in a cache folder: each start compiles for some seconds; NUMBA_CACHE_DIR names a folder")
    return False


def _say(text: str) -> None:
    if os.environ.get("LOCAL_RANK", "0") in ("", "0"):
        print(f"note: {text}", file=sys.stderr, flush=True)


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
