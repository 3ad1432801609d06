"""Images from class folders."""

import os
from pathlib import Path

import numpy as np

from trainer.data.content import Stamp
from trainer.data.encoded import EncodedSource
from trainer.data.images import read_file
from trainer.data.listing import STAMP, ClassOrder, in_utf8, list_class_folders
from trainer.errors import LocalError, UserError, one_line


class ImageFolderSource(EncodedSource):
    """The images below FOLDER/CLASS/, sorted by class and name."""

    def __init__(self, folder: Path, class_order: ClassOrder = "text", notes: tuple[str, ...] = ()) -> None:
        """Raises UserError if there are no class folders, or if one of them is empty."""
        found = list_class_folders(folder, class_order)
        self._paths = [folder / file for file in found.files]
        self._states = np.fromiter(map(_state, self._paths), np.dtype((np.int64, 2)), len(self._paths))
        files = ((file, int(size), int(when)) for file, (size, when) in zip(found.files, self._states, strict=True))
        super().__init__(
            labels=found.labels,
            classes=found.classes,
            name=one_line(in_utf8(f"{folder.absolute().parent.name}, {folder.name}")),
            stamp=Stamp.of(folder / STAMP, files, found.labels),
            notes=(*notes, *found.notes),
        )

    def encoded(self, image: int) -> bytes:
        content, status = read_file(self._paths[image])
        if (status.st_size, status.st_mtime_ns) != tuple(self._states[image]):
            raise LocalError(f"{self._paths[image]} was written to since the start: run the same command again")
        return content

    def where(self, image: int) -> str:
        return str(self._paths[image])


def _state(path: Path) -> tuple[int, int]:
    """Length in bytes and time of the last change in ns."""
    try:
        status = os.stat(path)
    except OSError as error:
        if not path.is_symlink():
            raise UserError(f"{path} cannot be read: {error.strerror}") from error
        status = os.lstat(path)  # a link to nothing: opening the image says so
    return status.st_size, status.st_mtime_ns
