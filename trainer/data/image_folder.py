"""Images from class folders through torchvision and PIL: the independent oracle, and the fallback without FFCV."""

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision.datasets import ImageFolder

from trainer.data.encoded import EncodedSource
from trainer.errors import UserError


class ImageFolderSource(EncodedSource):
    """The images below FOLDER/CLASS/, sorted by class and name."""

    def __init__(self, folder: Path) -> None:
        """Raises UserError if there are no class folders, or if one of them is empty."""
        try:
            dataset = ImageFolder(str(folder))
        except FileNotFoundError as error:
            raise UserError(f"{folder}: {error}") from error
        self._paths: list[str] = [path for path, _ in dataset.samples]
        super().__init__(
            labels=np.array(dataset.targets, np.int64),
            classes=dataset.classes,
            name=f"{folder.absolute().parent.name}, {folder.name}",
            checksum=_checksum(folder, self._paths),
        )

    def open_image(self, image: int) -> Image.Image:
        return Image.open(self._paths[image])

    def where(self, image: int) -> str:
        return self._paths[image]


def _checksum(folder: Path, paths: list[str]) -> str:
    """Of names and file sizes, not of the pixels: reading every file at every start would take too long."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{Path(path).relative_to(folder)} {Path(path).stat().st_size}\n".encode())
    return f"names-and-sizes-sha256:{digest.hexdigest()}"
