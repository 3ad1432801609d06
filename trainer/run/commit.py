"""The commit of this code."""

import subprocess
from pathlib import Path

COMMIT = "COMMIT"  # file in trainer/, in a copy of the code


def commit() -> str | None:
    """Returns the commit of this code, with + where files differ from it; None outside a git checkout.

    A launcher's copy of the code has the commit in a file of trainer/, because it is no git checkout.
    """
    here = Path(__file__)
    if (copied_from := here.parent.parent / COMMIT).is_file():
        return copied_from.read_text(encoding="utf-8").strip() or None
    try:
        _git(here, "ls-files", "--error-unmatch", here.name)  # fails inside another project's checkout
        name = _git(here, "rev-parse", "--short=12", "HEAD")
        changed = _git(here, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    return name + ("+" if changed else "")


def _git(file: Path, *words: str) -> str:
    command = ["git", "-C", str(file.parent), *words]
    return subprocess.run(command, capture_output=True, text=True, errors="replace", check=True).stdout.strip()
