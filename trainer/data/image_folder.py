"""Images from class folders through torchvision and PIL: the independent oracle, and the fallback without FFCV.

The same order, boxes and flips as from a .beton; resized by PIL's antialiased bilinear filter where FFCV uses OpenCV's
INTER_AREA, and decoded from the original files where a .beton may hold them compressed anew.
"""

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from torchvision.datasets import ImageFolder
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as transforms

from trainer.data.crop import CropBoxes
from trainer.errors import LocalError, UserError


class ImageFolderSource:
    """The images below FOLDER/CLASS/, sorted by class and name."""

    def __init__(self, folder: Path) -> None:
        """Raises UserError where there are no class folders, or one of them is empty."""
        try:
            dataset = ImageFolder(str(folder))
        except FileNotFoundError as error:
            raise UserError(f"{folder}: {error}") from error
        self.name = f"{folder.absolute().parent.name}, {folder.name}"
        self.classes = dataset.classes
        self.labels = np.array(dataset.targets, np.int64)
        self._paths = [path for path, _ in dataset.samples]
        self._sizes = np.zeros((len(self._paths), 2), np.int32)  # filled when an image is first looked at
        self.checksum = _checksum(folder, self._paths)

    def sizes(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        for image in images[self._sizes[images, 0] == 0]:
            with self._open(image) as opened:
                self._sizes[image] = opened.height, opened.width
        return self._sizes[images, 0], self._sizes[images, 1]

    def read(self, images: np.ndarray, cuts: CropBoxes, out: np.ndarray) -> None:
        size = out.shape[1]
        for position, image in enumerate(images):
            top, left, height, width = (int(value) for value in cuts.boxes[position])
            with self._open(image) as opened:
                shrunk = _shrink(opened, min(height, width) // size) if cuts.scaled else 1
                try:
                    pixels = opened.convert("RGB")
                except OSError as error:
                    raise LocalError(f"{self._paths[image]}: image {image} cannot be decoded: {_why(error)}") from error
            if (height, width) == (size, size):
                cut = Image.new("RGB", (size, size), cuts.fill)
                cut.paste(pixels, (-left, -top))
            elif shrunk > 1:
                first_column, first_row = left // shrunk, top // shrunk
                end_column, end_row = -(-(left + width) // shrunk), -(-(top + height) // shrunk)
                part = pixels.crop((first_column, first_row, end_column, end_row))
                begin = left / shrunk - first_column, top / shrunk - first_row
                box = (*begin, begin[0] + width / shrunk, begin[1] + height / shrunk)
                cut = part.resize((size, size), Image.Resampling.BILINEAR, box)
            else:
                cut = transforms.resized_crop(
                    pixels, top, left, height, width, [size, size], InterpolationMode.BILINEAR
                )
            out[position] = np.asarray(cut)
            if cuts.flips[position]:
                out[position] = out[position, :, ::-1].copy()

    def close(self) -> None:
        """Nothing is held open."""

    def _open(self, image: int) -> Image.Image:
        try:
            return Image.open(self._paths[image])
        except (OSError, UnidentifiedImageError) as error:
            raise LocalError(f"{self._paths[image]}: image {image} cannot be opened: {_why(error)}") from error


def _shrink(opened: Image.Image, most: int) -> int:
    """Lets libjpeg decode a JPEG at the size / 2, 4 or 8, at most / `most`. Returns the divisor, 1 for other images."""
    shrunk = next(part for part in (8, 4, 2, 1) if part <= max(most, 1))
    if shrunk == 1 or opened.format != "JPEG":
        return 1
    return shrunk if opened.draft(None, (opened.width // shrunk, opened.height // shrunk)) else 1


def _checksum(folder: Path, paths: list[str]) -> str:
    """Of names and file sizes, not of the pixels: reading every file at every start would take too long."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{Path(path).relative_to(folder)} {Path(path).stat().st_size}\n".encode())
    return f"names-and-sizes-sha256:{digest.hexdigest()}"


def _why(error: Exception) -> str:
    return f"{error}: remove it, or use python -m trainer prepare folder --skip-bad"
