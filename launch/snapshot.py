"""The code as it is now, copied: what a job imports, whatever happens to the checkout while it waits and runs."""

import shutil
from importlib.metadata import distributions
from pathlib import Path

from trainer.run.commit import COMMIT, commit

HERE = Path(__file__).parent.parent
PACKAGES = ("trainer", "recipes", "launch")


def copy_code(target: Path) -> None:
    """Copies the packages, with the commit they are of and what numba has compiled, to `target`.

    The Python environment itself is not copied.
    """
    for package in PACKAGES:
        shutil.copytree(HERE / package, target / package, ignore=shutil.ignore_patterns("*.pyc"))
    (target / "trainer" / COMMIT).write_text(commit() or "")


def package_versions() -> str:
    """What is installed, a line each, as pip freeze has it."""
    return "".join(sorted(f"{found.name}=={found.version}\n" for found in distributions()))
