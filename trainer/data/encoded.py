"""Encoded images: what the formats share that store an image file for each image."""

import io
import threading
from collections.abc import Iterator
from typing import NoReturn

import numpy as np
from PIL import Image

from trainer.data.beton.encoded_image import decoded, decoded_rows, plain_jpeg
from trainer.data.beton.jpeg_decoder import divisor
from trainer.data.beton.jpeg_layout import MARGIN
from trainer.data.content import Content, Stamp, in_threads, mark_decoded, read_content
from trainer.data.contents import Contents, Stored
from trainer.data.crop import CropBoxes
from trainer.data.images import BadImageError, reason
from trainer.data.listing import class_order_note
from trainer.errors import LocalError


class EncodedSource:
    """The part of a Source that reads sizes and crops. A format says what the bytes of one of its images are.

    The same order, boxes, flips and resizing as from a .beton, and the pixels that prepare stores where it neither
    shrinks images nor compresses them anew.
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
        """`checksum`: None if it is that of the bytes that `encoded` returns, which `stamp` then remembers."""
        self.labels, self.classes, self.name = labels, classes, name
        self._checksum, self._stamp = checksum, stamp
        self._content: Content | None = None
        self._notes = (*notes, *class_order_note(classes))
        self._sizes = np.zeros((len(labels), 2), np.int32)  # of an image, once it was opened
        self._buffers = threading.local()

    def encoded(self, image: int) -> bytes:
        """Returns the image's bytes as they are stored. Raises OSError if they cannot be read."""
        raise NotImplementedError

    def where(self, image: int) -> str:
        """Returns the image's file, for error messages."""
        raise NotImplementedError

    def stored(self) -> tuple[Stored, ...]:
        """Returns number and bytes of the images by encoding; empty if that is not known without opening them."""
        return ()

    @property
    def checksum(self) -> str:
        """Of the content. The first time, every file is read for it."""
        return self._checksum or self._read_content().checksum

    @property
    def is_identified(self) -> bool:
        """Whether `checksum` is known without reading every file."""
        return bool(self._checksum or self._content or (self._stamp and self._stamp.read()))

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
        for image in images[self._sizes[images, 0] == 0].tolist():
            self._sizes[image] = self._size(image, self._encoded(image))
        return self._sizes[images, 0], self._sizes[images, 1]

    def read(self, images: np.ndarray, crops: CropBoxes, out: np.ndarray) -> None:
        from trainer.data.beton import decoder  # noqa: F401  # what is missing for it is no image's fault

        heights, widths = (values.tolist() for values in self.sizes(images))
        for position, image in enumerate(images.tolist()):
            encoded, size = self._encoded(image), (heights[position], widths[position])
            try:
                read_crop(encoded, size, crops, position, out[position], self._buffer(size))
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
            encoded = self._encoded(image)
            self._sizes[image] = self._size(image, encoded)
            try:
                decoded(encoded)
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

    def _size(self, image: int, encoded: bytes) -> tuple[int, int]:
        try:
            return image_size(encoded)
        except MemoryError:
            raise
        except Exception as error:
            self._fail(image, "opened", error)

    def _buffer(self, size: tuple[int, int]) -> np.ndarray:
        """Memory of this thread for the pixels of an image. Without it every image would be mapped and cleared anew."""
        needed = size[0] * size[1] * 3
        if len(found := getattr(self._buffers, "pixels", np.empty(0, np.uint8))) < needed:
            found = self._buffers.pixels = np.empty(needed, np.uint8)
        return found

    def _fail(self, image: int, done: str, error: Exception) -> NoReturn:
        message = f"{self.where(image)}: image {image} cannot be {done}: {reason(error)}: {self.remedy}"
        raise LocalError(message) from error


def read_crop(
    encoded: bytes,
    size: tuple[int, int],
    crops: CropBoxes,
    position: int,
    out: np.ndarray,
    buffer: np.ndarray | None = None,
) -> None:
    """Decodes an image of `size` (height, width) and writes crop number `position` into `out`: uint8 RGB, shape (side,
    side, 3). `buffer`: memory for its pixels, used if it is large enough.

    Raises whatever PIL raises if it cannot be decoded.
    """
    from trainer.data.beton.decoder import cut

    box, layout = crops.boxes[position].tolist(), plain_jpeg(encoded)
    shrunk = divisor(box[2], box[3], len(out)) if crops.scaled and layout else 1
    rows = min(size[0], max(1, box[0] + box[2]) + MARGIN * shrunk)
    pixels = decoded_rows(encoded, layout, rows=rows, shrunk=shrunk, buffer=buffer)
    found = (layout.height, layout.width) if layout else pixels.shape[:2]
    if found != size:
        raise BadImageError(f"it has {found[0]} x {found[1]} px instead of {size[0]} x {size[1]}")
    height = min(size[0], len(pixels) * shrunk)
    fill = np.array(crops.fill, np.uint8)
    cut(pixels.reshape(-1), height, size[1], *box, shrunk, fill, bool(crops.flips[position]), out)


def image_size(encoded: bytes) -> tuple[int, int]:
    """Reads height and width in px. Raises whatever PIL raises if it is no image."""
    if layout := plain_jpeg(encoded):
        return layout.height, layout.width
    with Image.open(io.BytesIO(encoded)) as opened:
        return opened.height, opened.width
