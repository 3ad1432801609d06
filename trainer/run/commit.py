"""Which commit this code is of."""

import subprocess
from pathlib import Path

COMMIT = "COMMIT"  # file in trainer/, in a copy of the code


def commit() -> str | None:
    """The commit of this code, with + where files differ from it; None outside a git checkout.

    A copy of the code that a launcher made has it in a file of trainer/: its git is elsewhere.
    """
    here = Path(__file__)
    if (copied_from := here.parent.parent / COMMIT).is_file():
        return copied_from.read_text().strip() or None
    try:
        _git(here, "ls-files", "--error-unmatch", here.name)  # installed below somebody else's checkout: not our commit
        name = _git(here, "rev-parse", "--short=12", "HEAD")
        changed = _git(here, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    return name + ("+" if changed else "")


def _git(file: Path, *words: str) -> str:
    command = ["git", "-C", str(file.parent), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
