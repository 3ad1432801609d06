"""Where a command may write what --out names: never over the files that it reads, nor among a run's checkpoints."""

from collections.abc import Iterable
from pathlib import Path

from trainer.errors import UserError


def require_folder(out: Path) -> None:
    """Raises UserError where there is no folder for `out`."""
    if not out.absolute().parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}")


def require_not_read(out: Path, read: Iterable[Path | str | None]) -> None:
    """Raises UserError where `out` is one of the files that the command reads."""
    if any(file and Path(file).resolve() == out.resolve() for file in read):
        raise UserError(f"{out} is a file that this command reads and would replace: use another --out")


def require_outside_checkpoints(out: Path) -> None:
    """Raises UserError where `out` lies among the checkpoints of a run."""
    for folder in (out.absolute().parent, out.resolve().parent):  # either may be a link
        if folder.name == "checkpoints" and (folder.parent / "recipe.py").is_file():
            raise UserError(f"--out {out} is among the checkpoints of a run: choose another folder")
