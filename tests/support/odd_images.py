"""Small images that decoders refuse or that are easily misread, and class folders of noise to put them into."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("a", "b", "c")


def picture(label: int, number: int, side: int = 32) -> Image.Image:
    """Noise in the colour of its class."""
    pixels = np.random.default_rng(label * 1000 + number).integers(0, 80, (side, side, 3), np.uint8)
    pixels[..., label % 3] += 100
    return Image.fromarray(pixels)


def class_folders(
    root: Path, classes: tuple[str, ...] = CLASSES, *, train: int = 4, val: int = 2, extension: str = ".png"
) -> Path:
    """root/train and root/val, with `train` and `val` images of every class."""
    for split, count in (("train", train), ("val", val)):
        for label, name in enumerate(classes):
            (root / split / name).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                seed = number + 500 * (split == "val")
                picture(label, seed).save(root / split / name / f"{number:03d}{extension}")
    return root


def truncated_jpeg() -> bytes:
    """Opens, and fails when it is decoded."""
    whole = io.BytesIO()
    picture(0, 0, side=200).save(whole, "JPEG")
    return whole.getvalue()[:-400]


def bomb() -> bytes:
    """182 megapixels of one bit, in 22 kB: PIL raises DecompressionBombError, which is no OSError."""
    packed = io.BytesIO()
    Image.new("1", (14000, 13000)).save(packed, "PNG")
    return packed.getvalue()


def big_text() -> bytes:
    """A sound picture with 2 MB of compressed text: PIL raises ValueError."""
    rows = b"".join(b"\0" + bytes((x * 5 + y * 3) % 256 for x in range(120)) for y in range(40))
    text = _chunk(b"zTXt", b"prompt\0\0" + zlib.compress(b"x" * (2 << 20), 9))
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", 40, 40, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + text + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")


def turned(path: Path, orientation: int = 6, width: int = 60) -> None:
    """Saves an image, by default of 40 x 60 px, that says by EXIF how it is to be turned."""
    image = picture(0, 0, side=width).crop((0, 0, width, width * 2 // 3))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path, exif=exif, quality=95)


def turned_with(path: Path, tag: int, kind: int, count: int, value: bytes) -> None:
    """As `turned`, a JPEG, with one more EXIF tag after the orientation (TIFF 6.0, section 2)."""
    entries = struct.pack("<HHII", 0x0112, 3, 1, 6) + struct.pack("<HHI4s", tag, kind, count, value)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + bytes(4)
    picture(0, 0, side=60).crop((0, 0, 60, 40)).save(path, exif=exif)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
