"""Encoded images through Pillow: what the formats share whose images Pillow decodes."""

from collections.abc import Iterator
from typing import NoReturn

import numpy as np
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as transforms

from trainer.data.content import Content, Stamp, in_threads, mark_decoded, read_content
from trainer.data.contents import Contents, Stored
from trainer.data.crop import CropBoxes
from trainer.data.images import BadImageError, reason, rgb_image
from trainer.data.listing import class_order_note
from trainer.errors import LocalError


class EncodedSource:
    """The part of a Source that reads sizes and crops. A format says how one of its images is opened.

    The same order, boxes and flips as from a .beton; resized by PIL's antialiased bilinear filter where FFCV uses
    OpenCV's INTER_AREA, and decoded from the original files where a .beton may hold them compressed anew.
    """

    remedy = (
        "repair or remove it (python -m trainer look DATA --check lists all such images), or use python -m trainer "
        "prepare folder --skip-bad, which can leave images out"
    )
    """what to do about an image that cannot be read"""

    def __init__(
        self,
        labels: np.ndarray,
        classes: list[str],
        name: str,
        checksum: str | None = None,
        *,
        stamp: Stamp | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        """`checksum`: None where it is that of the bytes that `encoded` returns, which `stamp` then remembers."""
        self.labels, self.classes, self.name = labels, classes, name
        self._checksum, self._stamp = checksum, stamp
        self._content: Content | None = None
        self._notes = (*notes, *class_order_note(classes))
        self._sizes = np.zeros((len(labels), 2), np.int32)  # of an image, once it was opened

    def open_image(self, image: int) -> Image.Image:
        """The image, not yet decoded. May raise whatever PIL raises."""
        raise NotImplementedError

    def encoded(self, image: int) -> bytes:
        """The image's bytes as they are stored. Raises OSError if they cannot be read."""
        raise NotImplementedError

    def where(self, image: int) -> str:
        """Its file, for error messages."""
        raise NotImplementedError

    def stored(self) -> tuple[Stored, ...]:
        """Number and bytes of the images by encoding; empty if that is not known without opening them."""
        return ()

    @property
    def checksum(self) -> str:
        """Of the content. The first time, every file is read for it."""
        return self._checksum or self._read_content().checksum

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of these images, one line each."""
        if self._content is None or not self._content.oriented:
            return self._notes
        return (
            *self._notes,
            f"{self.name}: {self._content.oriented:,} of {len(self.labels):,} images have an EXIF orientation, which "
            f"is ignored: python -m trainer prepare folder --apply-exif turns them",
        )

    def sizes(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        for image in images[self._sizes[images, 0] == 0]:
            with self._opened(image) as opened:
                self._sizes[image] = opened.height, opened.width
        return self._sizes[images, 0], self._sizes[images, 1]

    def read(self, images: np.ndarray, crops: CropBoxes, out: np.ndarray) -> None:
        for position, image in enumerate(images):
            with self._opened(image) as opened:
                try:
                    read_crop(opened, crops, position, out[position])
                except MemoryError:
                    raise
                except Exception as error:  # a decoder may raise anything
                    self._fail(image, "decoded", error)

    def contents(self, most_opened: int) -> Contents:
        count = len(self.labels)
        looked_at = np.arange(min(count, most_opened)) * count // min(count, most_opened)
        heights, widths = self.sizes(looked_at)
        return Contents(count=count, classes=len(self.classes), heights=heights, widths=widths, stored=self.stored())

    def bad_images(self) -> Iterator[str]:
        """Decodes every image, unless that was done before, and yields a line for each that cannot be."""
        if self._stamp:
            self._content = self._content or self._stamp.read()
        if self._content and self._content.decoded:
            return
        sound = True
        for line in in_threads(self._decode, len(self.labels), f"decoding {self.name} once, to find bad images"):
            if line:
                sound = False
                yield line
        if sound and self._stamp:
            self._content = mark_decoded(self._stamp, self._read_content())

    def close(self) -> None:
        """Nothing is held open."""

    def _decode(self, image: int) -> str:
        try:
            with self._opened(image) as opened:
                try:
                    self._sizes[image] = opened.height, opened.width
                    rgb_image(opened)
                except MemoryError:
                    raise
                except Exception as error:
                    self._fail(image, "decoded", error)
        except LocalError as error:
            return str(error)
        return ""

    def _read_content(self) -> Content:
        if self._content is None:
            assert self._stamp is not None
            self._content = read_content(self._stamp, self.labels, self._encoded, self.name)
        return self._content

    def _encoded(self, image: int) -> bytes:
        try:
            return self.encoded(image)
        except (OSError, BadImageError) as error:
            self._fail(image, "read", error)

    def _opened(self, image: int) -> Image.Image:
        try:
            return self.open_image(image)
        except MemoryError:
            raise
        except Exception as error:
            self._fail(image, "opened", error)

    def _fail(self, image: int, done: str, error: Exception) -> NoReturn:
        message = f"{self.where(image)}: image {image} cannot be {done}: {reason(error)}: {self.remedy}"
        raise LocalError(message) from error


def read_crop(opened: Image.Image, crops: CropBoxes, position: int, out: np.ndarray) -> None:
    """Decodes an opened image and writes crop number `position` into `out`: uint8 RGB, shape (size, size, 3).

    Raises whatever PIL raises if it cannot be decoded.
    """
    size = len(out)
    top, left, height, width = (int(value) for value in crops.boxes[position])
    shrunk = _shrink(opened, min(height, width) // size) if crops.scaled else 1
    pixels = rgb_image(opened)
    if (height, width) == (size, size):
        cut = Image.new("RGB", (size, size), crops.fill)
        cut.paste(pixels, (-left, -top))
    elif shrunk > 1:
        first_column, first_row = left // shrunk, top // shrunk
        end_column, end_row = -(-(left + width) // shrunk), -(-(top + height) // shrunk)
        part = pixels.crop((first_column, first_row, end_column, end_row))
        begin = left / shrunk - first_column, top / shrunk - first_row
        box = (*begin, begin[0] + width / shrunk, begin[1] + height / shrunk)
        cut = part.resize((size, size), Image.Resampling.BILINEAR, box)
    else:
        cut = transforms.resized_crop(pixels, top, left, height, width, [size, size], InterpolationMode.BILINEAR)
    out[:] = np.asarray(cut)
    if crops.flips[position]:
        out[:] = out[:, ::-1].copy()


def _shrink(opened: Image.Image, most: int) -> int:
    """Lets libjpeg decode a JPEG at the size / 2, 4 or 8, at most / `most`. Returns the divisor, 1 for other images."""
    shrunk = next(part for part in (8, 4, 2, 1) if part <= max(most, 1))
    if shrunk == 1 or opened.format != "JPEG":
        return 1
    return shrunk if opened.draft(None, (opened.width // shrunk, opened.height // shrunk)) else 1
