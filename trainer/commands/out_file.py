"""Where a command may write: never over what it reads, nor over a file that belongs to a run or a data set."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from trainer.errors import UserError
from trainer.run.usable import is_run

_OF_A_RUN = (
    "recipe.py", "starts.json", "metrics.jsonl", "result.json", "log.txt", "progress.json", "not_finite.json",
    "launch.json", ".lock", ".owner", "events.out.tfevents.",
)  # fmt: skip
"""how the names of the files begin that a run writes"""
_FOLDERS_OF_A_RUN = {
    "checkpoints": "checkpoints", "profile": "profiles", "compiled": "compiled kernels", "launch": "logs"
}  # fmt: skip
_OF_A_DATA_SET = (".beton", ".ffcv", ".beton.json", ".ffcv.json", ".tar")


def require_folder(out: Path) -> None:
    """Raises UserError if there is no folder for `out`."""
    if not out.absolute().parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}")


def require_regular_or_none(out: Path, option: str = "--out") -> None:
    """Raises UserError if `out` is there and no regular file: a write ends with a rename, which would replace it.

    All in /dev count, for /dev/stdout is a link that may lead to a regular file.
    """
    if out.is_dir():
        raise UserError(f"{option} {out} is a folder: name a file in it")
    if (out.exists() and not out.is_file()) or out.absolute().parent == Path("/dev"):
        raise UserError(f"{option} {out} is no regular file: choose a different name")


def require_folder_or_none(out: Path, option: str = "--out") -> None:
    """Raises UserError if `out` is there and no folder, where the command writes one."""
    if out.is_file():
        raise UserError(f"{option} {out} is a file: name a folder")
    if out.exists() and not out.is_dir():
        raise UserError(f"{option} {out} is no folder: choose a different name")


def require_replaceable(
    out: Path,
    *,
    read: Iterable[Path | str | None] = (),
    data: Iterable[str | None] = (),
    option: str = "--out",
    is_folder: bool = False,
) -> None:
    """Raises UserError if `out` would replace what the command reads, or a file of any run, launch or data set.

    So too for a device, a named pipe, the name of a recipe, and a folder unless `is_folder`: the command writes one.
    `read`: files; `data`: data sets.
    """
    (require_folder_or_none if is_folder else require_regular_or_none)(out, option)
    require_not_read(out, read, option)
    require_outside_runs(out, option)
    if out.name.endswith(_OF_A_DATA_SET):
        raise UserError(f"{option} {out} has the name of a data set's file: choose a different one")
    if out.suffix == ".py":
        raise UserError(f"{option} {out} ends in .py, as a recipe does: choose a different name")
    if folder := next((name for name in data if name and _is_among_images(out, name)), None):
        raise UserError(f"{option} {out} is among the images of {folder}: choose another folder")


def require_not_read(out: Path, read: Iterable[Path | str | None], option: str = "--out") -> None:
    """Raises UserError if `out` is one of the files that the command reads."""
    if any(file and Path(file).resolve() == out.resolve() for file in read):
        raise UserError(f"{out} is a file that this command reads and would replace: use another {option}")


def require_outside_runs(out: Path, option: str = "--out") -> None:
    """Raises UserError if `out` is a file that a run or a launch writes itself, or lies in a folder of such files."""
    for file in (out.absolute(), out.resolve()):  # either may be a link
        if file.name.startswith(_OF_A_RUN) and is_run(file.parent):
            raise UserError(f"{option} {out} is a file of the run {file.parent}: choose a different name")
        if file.name == "launch.json" and file.is_file():  # of a run that has not begun
            raise UserError(f"{option} {out} is a file of a launch: choose a different name")
        for folder in file.parents:
            if folder.name in _FOLDERS_OF_A_RUN and is_run(folder.parent):
                what = _FOLDERS_OF_A_RUN[folder.name]
                raise UserError(f"{option} {out} is among the {what} of a run: choose another folder")
            if folder.name == "launch" and any(folder.glob("[0-9]*/job.json")):  # also of several runs
                raise UserError(f"{option} {out} is among the files of a launch: choose another folder")


def _is_among_images(out: Path, data: str) -> bool:
    """Whether `out` lies in a class folder of a data set, where it may replace an image, or be taken for one."""
    from trainer.data.formats import ClassFolders, Split, find_dataset  # needs NumPy, which compare does without

    splits: tuple[Split, ...] = ("train", "val")
    for split in splits:
        with suppress(UserError):  # the data set has no such split
            found = find_dataset(data, split)
            if isinstance(found, ClassFolders) and found.folder.resolve() in out.resolve().parents[1:]:
                return True
    return False
