"""What is known of a .beton file, in two small JSON files beside it.

train.beton.json, the manifest: FFCV's file knows no class names, no source and no checksum. The manifest holds them, so
that a run can say what it was trained on and a damaged file is found before it is learned from. It names no absolute
path: manifests get published. train.beton.verified, the stamp: when the content was last found to be right.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import re
import types
from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from trainer.atomic import atomic_write
from trainer.errors import NOT_JSON, UserError, counted
from trainer.process.regular import require_regular
from trainer.process.units import format_bytes

FORMAT_VERSION = 2
WRITE_AGAIN = "write it again with: python -m trainer prepare"
MAX_SIDE = 65500  # px, the longest side of a JPEG in libjpeg (JPEG_MAX_DIMENSION); FFCV stores sides in 16 bits


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How images are stored in a .beton file."""

    write_mode: Literal["jpg", "raw", "proportion"] = "proportion"
    """jpg: smallest; raw: pixels, fastest to read, about 9 times the bytes; proportion: some as JPEG, the rest raw"""
    max_resolution: int | None = 500
    """longest side in px: larger images are shrunk to it (area averaging), smaller ones are kept; None: all are kept"""
    jpeg_quality: int = 90
    """1 to 100, for images stored as JPEG"""
    compress_probability: float = 0.5
    """write_mode proportion: the share of the images stored as JPEG, 0 to 1"""
    jpeg_tiles: bool = True
    """JPEGs with restart markers, so that only the tiles under a crop are decoded: the same pixels, 2 % more bytes"""

    def __post_init__(self) -> None:
        if self.write_mode not in ("jpg", "raw", "proportion"):
            raise UserError(f"write_mode={self.write_mode!r} is not jpg, raw or proportion")
        if self.max_resolution is not None and not 1 <= self.max_resolution <= MAX_SIDE:
            raise UserError(f"max_resolution={self.max_resolution} is not 1 to {MAX_SIDE} px (or None: sizes are kept)")
        if not 1 <= self.jpeg_quality <= 100:
            raise UserError(f"jpeg_quality={self.jpeg_quality} is not 1 to 100")
        if not 0 <= self.compress_probability <= 1:
            raise UserError(f"compress_probability={self.compress_probability} is not 0 to 1")

    @property
    def page_size(self) -> int:
        """Bytes of a page of the file, a power of 2: an image lies within one page, so this limits its size.

        Eight of the largest raw images, so that little stays empty at the end of pages: 8 MiB, FFCV's default, for
        500 px. Where no size is known 64 MiB, or 4,729 x 4,729 px. FFCV wants at least 2 MiB and less than 4 GiB.
        """
        if self.max_resolution is None:
            return 64 << 20
        return min(max(2 << 20, 1 << (8 * 3 * self.max_resolution**2 - 1).bit_length()), 1 << 31)

    def is_jpeg(self, image: int) -> bool:
        """Whether the image at this place of the file is stored as JPEG: the same for any number of workers.

        FFCV draws it from np.random in forked workers, which all draw the same numbers.
        """
        word = int.from_bytes(hashlib.sha256(f"proportion {image}".encode()).digest()[:8], "little")
        return {"jpg": True, "raw": False, "proportion": word < self.compress_probability * 2**64}[self.write_mode]


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Validation images that were drawn from the training images, class by class."""

    val_fraction: float
    seed: int


@dataclass(frozen=True, kw_only=True)
class DataOrigin:
    """Where the images came from."""

    kind: Literal["folder", "cifar10", "digits", "ffcv", "csv", "imagenet", "webdataset", "parquet", "torchvision"]
    name: str  # of the folder, without the path to it
    folder: str = ""  # of the split within it: val, validation, ...
    class_order: Literal["text", "numeric"] = "text"  # of class folders
    exif: Literal["ignored", "applied"] = "ignored"  # the orientation of images
    held_out: HeldOut | None = None  # None: the source has validation images of its own
    shuffled: bool = False  # whether `prepare --shuffle` put the images in a random order


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Extremes of the stored images in px, and the length of the file in bytes."""

    min_height: int
    max_height: int
    min_width: int
    max_width: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What prepare wrote into one .beton file."""

    format_version: int = FORMAT_VERSION
    count: int  # images
    classes: list[str]  # a label is an index into this list
    class_counts: list[int]  # images of each class
    sizes: Sizes
    source: DataOrigin
    options: Encoding
    skipped: list[str]  # unreadable images that were left out, relative to the source
    checksum: str  # "sha256:..." of the content, see content.content_checksum
    software: dict[str, str]  # name -> version
    exif_oriented: int = 0  # images with an EXIF orientation

    def __post_init__(self) -> None:
        if self.format_version != FORMAT_VERSION:
            raise UserError(f"format_version={self.format_version}, but this program reads version {FORMAT_VERSION}")
        agrees = len(self.class_counts) == len(self.classes) and sum(self.class_counts) == self.count
        if not agrees or self.count < 1 or min(self.class_counts) < 0:
            raise UserError(
                f"count={self.count} of {len(self.classes)} classes does not agree with {len(self.class_counts)} "
                f"class_counts, {sum(self.class_counts)} in all"
            )
        if not re.fullmatch("sha256:[0-9a-f]{64}", self.checksum):
            raise UserError(f"checksum={self.checksum!r} is not 'sha256:' and 64 hexadecimal digits")

    def summary(self) -> str:
        """Returns how many images of what size the file holds, as text for the user."""
        sizes = f"up to {self.sizes.max_height} x {self.sizes.max_width} px, {format_bytes(self.sizes.bytes)}"
        return f"{counted(self.count, 'image')} of {counted(len(self.classes), 'class')}, {sizes}"


def manifest_path(beton: Path) -> Path:
    return beton.with_name(beton.name + ".json")


def read_manifest(beton: Path) -> Manifest:
    """Reads the manifest of a .beton file. Raises UserError if it is missing or is not one."""
    path = manifest_path(beton)
    require_regular(path)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"{path} is missing: python -m trainer prepare writes it together with {beton.name}; copy it there too. "
            f"For a file of FFCV's own writer: python -m trainer prepare adopt {beton} --classes NAMES"
        ) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except NOT_JSON as error:
        raise UserError(f"{path} is not a manifest (not JSON: {error}): {WRITE_AGAIN}") from error
    version = data.get("format_version") if isinstance(data, dict) else None
    if version != FORMAT_VERSION:  # said first: another version may have other settings
        raise UserError(f"{path}: format_version={version!r}, but this program reads {FORMAT_VERSION}: {WRITE_AGAIN}")
    try:
        manifest: Manifest = _from_json(Manifest, data, "manifest")
    except UserError as error:
        raise UserError(f"{path}: {error}: {WRITE_AGAIN}") from error
    return manifest


def write_manifest(manifest: Manifest, beton: Path) -> None:
    """Writes the manifest beside its .beton file: whole or not at all. Raises OSError."""
    write_json(manifest_path(beton), asdict(manifest))


def software_versions() -> dict[str, str]:
    """Returns the versions of the libraries that decide which bytes are stored."""
    names = ("numpy", "pillow", "simplejpeg", "opencv-python", "opencv-python-headless", "scikit-learn")
    found = {dist.name: dist.version for name in names for dist in importlib.metadata.distributions(name=name)}
    return {"python": platform.python_version()} | found


def stamp_path(beton: Path) -> Path:
    return beton.with_name(beton.name + ".verified")


def write_stamp(path: Path, stamp: Mapping[str, int | str]) -> None:
    """Remembers that the file was found to have its content; does nothing in a folder that cannot be written to."""
    with contextlib.suppress(OSError, UserError):  # UserError: another process is writing it
        write_json(stamp_path(path), stamp)


def stamp_now(path: Path, checksum: str) -> dict[str, int | str]:
    """Returns the record that ties `checksum` to the present state of the file: its size and its time of change."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): write it with python -m trainer prepare") from error
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "checksum": checksum}


def read_stamp(path: Path) -> object:
    """Reads the stamp beside the file; None if there is none that can be read: then the file is hashed again."""
    try:
        require_regular(stamp_path(path))
        return json.loads(stamp_path(path).read_text(encoding="utf-8"))
    except (OSError, UserError, *NOT_JSON):
        return None


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    with atomic_write(path) as partial:  # ASCII, so that names which are not UTF-8 survive as escapes
        partial.write_text(json.dumps(data, indent=1) + "\n", encoding="ascii")


def _from_json(kind: Any, value: Any, where: str) -> Any:
    """`value` as a `kind`, which may be a dataclass, list, dict, union, Literal or plain type. Nothing is converted."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is types.UnionType:  # `X | None` is the only one there is
        return None if value is None else _from_json(arguments[0], value, where)
    built: Any = None
    if isinstance(kind, type) and is_dataclass(kind) and isinstance(value, dict):
        hints = get_type_hints(kind)
        for problem, names in (("has no", hints.keys() - value), ("has an unknown", value.keys() - hints)):
            if names:
                raise UserError(f"{where} {problem} {', '.join(map(repr, sorted(names)))}")
        built = kind(**{name: _from_json(hints[name], value[name], name) for name in hints})
    elif origin is list and isinstance(value, list):
        built = [_from_json(arguments[0], item, f"an item of {where}") for item in value]
    elif origin is dict and isinstance(value, dict):
        built = {name: _from_json(arguments[1], item, f"{where} {name!r}") for name, item in value.items()}
    elif kind is float and type(value) in (int, float) and math.isfinite(value):
        built = float(value)
    elif (kind in (bool, int, str) and type(value) is kind) or (origin is Literal and value in arguments):
        built = value
    if built is None:
        raise UserError(f"{where} is {value!r:.60}, which is not {kind if origin else kind.__name__}")
    return built
