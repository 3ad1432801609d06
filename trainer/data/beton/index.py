"""Reads and validates the index of a .beton file: its layout as numpy types, and checks that FFCV lacks.

FFCV opens a damaged file without an error and returns wrong images: a short allocation table or a zeroed JPEG yields
black pixels, or another image's, under this label. So the structure is checked at every start (about a second per
million images), and the content against the manifest's checksum once; a stamp beside the file remembers that.
"""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from trainer.data.beton.layout import IMAGE, layout_of
from trainer.data.beton.manifest import WRITE_AGAIN, Manifest, Sizes, read_manifest, read_stamp, stamp_now, write_stamp
from trainer.data.contents import Contents, Stored
from trainer.distributed.cpus import usable_cpus
from trainer.errors import UserError, counted
from trainer.process.long_task import LongTask
from trainer.process.regular import require_regular

# The layout: header, two field descriptors, one row of metadata per image, pages of image bytes, allocation table.
# Restated from ffcv/types.py and ffcv/fields (1.0.2) so that checking needs no FFCV, whose import takes 5 s.
VERSION = 2
HEADER = np.dtype([("version", "<u2"), ("num_fields", "<u2"), ("page_size", "<u4"),
                   ("num_samples", "<u8"), ("alloc_table_ptr", "<u8")])  # fmt: skip
FIELD = np.dtype([("type_id", "u1"), ("name", "u1", 16), ("arguments", "u1", (1024,))])
METADATA = np.dtype([("f0", IMAGE), ("f1", "<i8")], align=True)
ALLOCATION = np.dtype([("sample_id", "<u8"), ("ptr", "<u8"), ("size", "<u8")])
FIELDS = (("image", 2), ("label", 1))  # name and FFCV's type id: RGBImageField, IntField
METADATA_START = HEADER.itemsize + len(FIELDS) * FIELD.itemsize
MOST_FIELDS = 64
JPEG, RAW = 0, 1  # modes
SHORT_READ, BAD_JPEG = 1, 2  # a decoder's codes for an image that it could not read


def header_bytes(page_size: int, count: int, table_start: int) -> bytes:
    """Returns the header and the field descriptors of a file with `count` images, as FFCV writes them."""
    fields = [(kind, np.frombuffer(name.encode().ljust(16, b"\0"), np.uint8), 0) for name, kind in FIELDS]
    header = np.array((VERSION, len(FIELDS), page_size, count, table_start), HEADER)
    return header.tobytes() + np.array(fields, FIELD).tobytes()


# What is hashed of one image, before its stored bytes.
SAMPLE = np.dtype([("label", "<i8"), ("height", "<i4"), ("width", "<i4"), ("mode", "u1")])
SHRUNK = "the file became shorter while it was read"
_BLOCK = 1 << 14  # JPEGs whose ends are in memory together: as Python objects they take 250 bytes each
READ_SIZE = 8 << 20  # bytes read at once: large sequential reads, which network file systems like


@dataclass(frozen=True, kw_only=True)
class BetonIndex:
    """Label, size and place of every image in a .beton file, in the order of the images."""

    labels: np.ndarray  # int64
    heights: np.ndarray  # int32, px
    widths: np.ndarray  # int32, px
    modes: np.ndarray  # uint8: 0 JPEG, 1 raw RGB
    pointers: np.ndarray  # int64, where the stored bytes begin in the file
    sizes: np.ndarray  # int64, how many bytes are stored

    def __len__(self) -> int:
        return len(self.labels)

    def extremes(self, file_bytes: int) -> Sizes:
        sides = {"height": self.heights, "width": self.widths}
        least = {f"min_{side}": int(values.min()) for side, values in sides.items()}
        most = {f"max_{side}": int(values.max()) for side, values in sides.items()}
        return Sizes(**least, **most, bytes=file_bytes)


def read_index(path: Path, num_classes: int | None = None, check_jpegs: bool = True) -> BetonIndex:
    """Reads where every image lies. Raises UserError, naming file and image, if the structure is not whole.

    `num_classes` checks the labels' range. `check_jpegs` looks at the first and last two bytes of every JPEG: not
    needed where the content is known to be right, and slow on a cold network disk.
    """
    require_regular(path)
    try:
        with open(path, "rb") as file:
            return _read_index(path, file, num_classes, check_jpegs)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist: write it with python -m trainer prepare") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error


def _read_index(path: Path, file: BinaryIO, num_classes: int | None, check_jpegs: bool) -> BetonIndex:
    length = os.fstat(file.fileno()).st_size
    _require(path, length >= METADATA_START, f"{length} bytes are too short for a .beton file")
    header = _read(path, file, HEADER, 1)[0]
    number = int(header["num_fields"])
    ours = int(header["version"]) == VERSION and 0 < number <= MOST_FIELDS
    _require(path, ours, "this is no .beton file of version 2")
    fields = _read(path, file, FIELD, number)
    try:
        layout = layout_of([(_text(field["name"]), int(field["type_id"])) for field in fields])
    except ValueError as error:
        raise UserError(f"{path}: {error}; {WRITE_AGAIN}") from error

    count, page, table_start = (int(header[name]) for name in ("num_samples", "page_size", "alloc_table_ptr"))
    _require(path, count > 0, "it holds no images")
    _require(path, page > 0 and page & (page - 1) == 0, f"the page size of {page} bytes is not a power of 2")
    data_start = HEADER.itemsize + number * FIELD.itemsize + count * layout.row.itemsize
    entries = count if layout.only_images else max(count, (length - table_start) // ALLOCATION.itemsize)
    table_end = table_start + entries * ALLOCATION.itemsize
    whole = data_start <= table_start and table_end == length
    _require(path, whole, f"{count} images would end at byte {table_end}, but the file has {length}: is it truncated?")

    metadata = _read(path, file, layout.row, count)
    file.seek(table_start)
    table = _read(path, file, ALLOCATION, entries)
    images = metadata[layout.image]
    if not layout.only_images:  # the other fields have entries, too; an empty one has the place of what follows it
        table = table[np.isin(table["ptr"], images["data_ptr"]) & (table["size"] > 0)]
        _require(path, len(table) == count, f"its allocation table places {len(table)} of {count} images")
    table = table[np.argsort(table["sample_id"], kind="stable")]
    _require_all(path, table["sample_id"] == np.arange(count), "has no entry of its own in the allocation table")
    _require_all(path, images["data_ptr"] == table["ptr"], "has another place in the allocation table")
    within = (table["ptr"] >= data_start) & (table["ptr"] < table_start)
    within &= (table["size"] > 0) & (table["size"] <= table_start)
    _require_all(path, within, "does not lie in the file's data")

    index = BetonIndex(
        labels=metadata[layout.label].astype(np.int64),
        heights=images["height"].astype(np.int32),
        widths=images["width"].astype(np.int32),
        modes=images["mode"].copy(),
        pointers=table["ptr"].astype(np.int64),
        sizes=table["size"].astype(np.int64),
    )
    _check_places(path, index, page, table_start)
    _check_images(path, index, num_classes)
    if check_jpegs:
        _check_jpegs(path, file, index)
    return index


def _read(path: Path, file: BinaryIO, kind: np.dtype, count: int) -> np.ndarray:
    content = file.read(count * kind.itemsize)
    _require(path, len(content) == count * kind.itemsize, SHRUNK)
    return np.frombuffer(content, kind)


def _text(name: np.ndarray) -> str:
    return bytes(name).rstrip(b"\0").decode("utf-8", "replace")


def _check_places(path: Path, index: BetonIndex, page: int, table_start: int) -> None:
    ends = index.pointers + index.sizes
    _require_all(path, ends <= table_start, "reaches beyond the file's data")
    _require_all(path, index.pointers // page == (ends - 1) // page, "crosses the border of a page")
    order = np.argsort(index.pointers)
    apart = np.ones(len(index), bool)
    apart[order[1:]] = index.pointers[order[1:]] >= ends[order[:-1]]
    _require_all(path, apart, "overlaps another image")


def _check_images(path: Path, index: BetonIndex, num_classes: int | None) -> None:
    _require_all(path, (index.heights > 0) & (index.widths > 0), "is 0 px high or wide")
    raw = index.modes == RAW
    _require_all(path, raw | (index.modes == JPEG), "is neither a JPEG nor raw")
    raw_bytes = index.heights.astype(np.int64) * index.widths * 3
    _require_all(path, ~raw | (index.sizes == raw_bytes), "does not have height x width x 3 bytes")
    _require_all(path, raw | (index.sizes >= 4), "is too short for a JPEG")
    _require_all(path, index.labels >= 0, "has a negative label")
    if num_classes is not None:
        _require_all(path, index.labels < num_classes, f"has a label beyond the {num_classes} classes")


def _check_jpegs(path: Path, file: BinaryIO, index: BetonIndex) -> None:
    """FF D8 at the start and FF D9 at the end, looked at in the order of the file: 2 s for a million JPEGs.

    A memory map would be faster, but a file that shrinks meanwhile would end the process (SIGBUS).
    """
    jpegs = np.flatnonzero(index.modes == JPEG)
    jpegs = jpegs[np.argsort(index.pointers[jpegs])]
    sound = np.ones(len(index), bool)
    for first in range(0, len(jpegs), _BLOCK):
        block = jpegs[first : first + _BLOCK]
        starts = index.pointers[block]
        places = np.column_stack([starts, starts + index.sizes[block] - 2])
        content = b"".join(os.pread(file.fileno(), 2, place) for place in places.ravel().tolist())
        _require(path, len(content) == 4 * len(block), SHRUNK)
        sound[block] = np.frombuffer(content, "S4") == b"\xff\xd8\xff\xd9"
    _require_all(path, sound, "is not a whole JPEG (FF D8 ... FF D9)")


def sample_digest(header: bytes, stored: bytes | memoryview) -> bytes:
    """Returns the SHA-256 of one image: SAMPLE's bytes, then the bytes as stored."""
    digest = hashlib.sha256(header)
    digest.update(stored)
    return digest.digest()


def checksum_of(digests: bytes | bytearray) -> str:
    """Computes the content checksum from all images' digests, in their order."""
    return f"sha256:{hashlib.sha256(digests).hexdigest()}"


def content_checksum(path: Path, index: BetonIndex, threads: int | None = None) -> str:
    """Computes the SHA-256 over each image's SHA-256 of (label, height, width, mode, stored bytes), in their order.

    Does not depend on where the bytes lie: FFCV's layout changes with the timing of the writing processes. Reads with
    pread, not through a memory map: a file that shrinks meanwhile is an error, not a SIGBUS.
    """
    headers = np.empty(len(index), SAMPLE)
    headers["label"], headers["mode"] = index.labels, index.modes
    headers["height"], headers["width"] = index.heights, index.widths
    header_bytes = headers.tobytes()
    digests = bytearray(32 * len(index))
    order = np.argsort(index.pointers)
    borders = np.flatnonzero(np.diff(index.pointers[order] // READ_SIZE)) + 1
    descriptor = os.open(path, os.O_RDONLY)
    pool = ThreadPoolExecutor(threads or usable_cpus(), thread_name_prefix="checksum")

    def hash_together(images: np.ndarray) -> None:
        start = int(index.pointers[images[0]])
        end = int(index.pointers[images[-1]] + index.sizes[images[-1]])
        content = memoryview(_pread(path, descriptor, end - start, start))
        places = np.column_stack([images, index.pointers[images] - start, index.sizes[images]])
        for image, place, size in places.tolist():
            header = header_bytes[SAMPLE.itemsize * image : SAMPLE.itemsize * (image + 1)]
            digests[32 * image : 32 * image + 32] = sample_digest(header, content[place : place + size])

    parts = np.split(order, borders)
    progress = LongTask(f"verifying {path.name}, once", os.fstat(descriptor).st_size / 1e9, "GB")
    try:
        for done, _ in enumerate(pool.map(hash_together, parts), 1):
            progress.update(os.fstat(descriptor).st_size / 1e9 * done / len(parts))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)  # Ctrl-C does not wait for the rest of the file
        os.close(descriptor)
    return checksum_of(digests)


def _pread(path: Path, descriptor: int, size: int, offset: int) -> bytearray:
    content = bytearray(size)
    done = 0
    while done < size:
        read = os.preadv(descriptor, [memoryview(content)[done:]], offset + done)
        _require(path, read > 0, SHRUNK)
        done += read
    return content


def verify(path: Path, manifest: Manifest, threads: int | None = None, check_content: bool = True) -> BetonIndex:
    """Checks every byte of a file against its manifest and returns its index. Raises UserError if they differ.

    The content is hashed once: the stamp train.beton.verified remembers length, time and checksum, and is trusted while
    they match. Where the folder cannot be written to, every start hashes it again. `check_content` is not needed where
    another process of this machine has just done it.
    """
    stamp = stamp_now(path, manifest.checksum)
    known = not check_content or read_stamp(path) == stamp
    index = read_index(path, len(manifest.classes), check_jpegs=not known)
    counts = np.bincount(index.labels, minlength=len(manifest.classes)).tolist()
    sizes = index.extremes(os.stat(path).st_size)
    _require(path, counts == manifest.class_counts, "the classes of its images are not as its manifest counts them")
    _require(path, sizes == manifest.sizes, f"it has {sizes}, but its manifest says {manifest.sizes}")
    if not known:
        found = content_checksum(path, index, threads)
        _require(path, found == manifest.checksum, f"damaged: its content is {found}, not {manifest.checksum}")
        _require(path, stamp_now(path, found) == stamp, "the file changed while it was read")
        write_stamp(path, stamp)
    return index


def read_contents(path: Path) -> Contents:
    """Reads what the file holds from its manifest and index; its content is not checked. Needs no FFCV."""
    manifest = read_manifest(path)
    return contents_of(manifest, verify(path, manifest, check_content=False))


def contents_of(manifest: Manifest, index: BetonIndex) -> Contents:
    stored = [(name, index.modes == mode) for name, mode in (("raw", RAW), ("JPEG", JPEG))]
    return Contents(
        count=manifest.count,
        classes=len(manifest.classes),
        heights=index.heights,
        widths=index.widths,
        file_bytes=manifest.sizes.bytes,
        stored=tuple(Stored(name, int(mode.sum()), int(index.sizes[mode].sum())) for name, mode in stored),
    )


def _require(path: Path, held: bool, otherwise: str) -> None:
    if not held:
        raise UserError(f"{path}: {otherwise}; {WRITE_AGAIN}")


def _require_all(path: Path, held: np.ndarray, otherwise: str) -> None:
    """Raises UserError, naming the first image for which `held` is False."""
    if not held.all():
        wrong = np.flatnonzero(~held)
        others = f" (and {counted(len(wrong) - 1, 'other')})" if len(wrong) > 1 else ""
        raise UserError(f"{path}: image {wrong[0]}{others} {otherwise}; {WRITE_AGAIN}")
