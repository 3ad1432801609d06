"""The code as it is now, copied: what a job imports, whatever happens to the checkout while it waits and runs."""

import hashlib
import os
import shutil
from importlib.metadata import distributions
from pathlib import Path

from trainer.run.commit import COMMIT, commit

HERE = Path(__file__).parent.parent
PACKAGES = ("trainer", "recipes", "launch")


def code_name() -> str:
    """The name of the copy of the packages as they are now."""
    return f"code-{_digest()}"


def copy_code(target: Path) -> None:
    """Copies the packages, with their commit and what numba has compiled, unless the copy is there.

    The Python environment itself is not copied.
    """
    if target.is_dir():
        return
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        for path in _files():
            if not {".pyc", ".tmp"} & {*path.suffixes}:  # .tmp: what numba is writing, in another process
                copy = partial / path.relative_to(HERE)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, copy)  # with its time, by which numba knows what it has compiled
        (partial / "trainer" / COMMIT).write_text(commit() or "", encoding="utf-8")
        partial.rename(target)
    except OSError:
        if not target.is_dir():  # else another launch was faster
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _files() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (HERE / package).rglob("*") if path.is_file())


def _digest() -> str:
    """Of the sources and their commit."""
    digest = hashlib.sha256((commit() or "").encode())
    for path in _files():
        if path.parent.name != "__pycache__" and path.name != COMMIT:
            digest.update(f"{path.relative_to(HERE)}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def package_versions() -> str:
    """What is installed, one line each, as pip freeze has it."""
    return "".join(sorted(f"{found.name}=={found.version}\n" for found in distributions()))
