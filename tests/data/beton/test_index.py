"""Damaged .beton files are refused, each with one line; FFCV would read wrong images from them."""

import multiprocessing
import os
import shutil
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest

from tests.support.processes import TIMEOUT
from trainer.data.beton import index as beton_index
from trainer.data.beton.images import Images
from trainer.data.beton.index import BetonIndex, content_checksum, read_index, verify
from trainer.data.beton.manifest import DataOrigin, Encoding, Manifest, read_manifest, read_stamp, stamp_path
from trainer.data.beton.writer import write_beton
from trainer.errors import UserError

COUNT, CLASSES = 40, ["a", "b", "c"]


def noise(count: int, side: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 images of 12 x 12 px in 3 classes, about half as JPEG."""
    path = tmp_path_factory.mktemp("beton") / "train.beton"
    pixels = noise(COUNT, 12)
    both, here = multiprocessing.get_context("fork").Barrier(2), list[int]()

    def load(image: int) -> np.ndarray:
        if not here:  # both workers have a part of it, and with it a page
            both.wait(TIMEOUT)
        here.append(image)
        return np.array(pixels[image])

    images = Images(
        classes=CLASSES,
        labels=np.arange(COUNT) % 3,
        names=[str(image) for image in range(COUNT)],
        source=DataOrigin(kind="folder", name="noise"),
        load=load,
    )
    write_beton(path, images, Encoding(write_mode="proportion", max_resolution=12), workers=2)
    return path


@pytest.fixture
def beton(written: Path, tmp_path: Path) -> Path:
    """A copy to damage, with its manifest, without a stamp."""
    for path in (written, written.with_name("train.beton.json")):
        shutil.copy(path, tmp_path)
    return tmp_path / "train.beton"


def overwrite(path: Path, offset: int, content: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(content)


def refuse(path: Path, match: str | None = None) -> None:
    with pytest.raises(UserError, match=match) as caught:
        read_index(path, len(CLASSES))
    assert str(path) in str(caught.value) and "python -m trainer prepare" in str(caught.value)
    assert "\n" not in str(caught.value)


def same(one: BetonIndex, other: BetonIndex) -> bool:
    return all(np.array_equal(value, getattr(other, name)) for name, value in vars(one).items())


def metadata_at(image: int) -> int:
    return beton_index.METADATA_START + image * beton_index.METADATA.itemsize


def table_at(path: Path, image: int) -> int:
    table_start = path.stat().st_size - COUNT * beton_index.ALLOCATION.itemsize
    return table_start + image * beton_index.ALLOCATION.itemsize


@pytest.mark.slow
def test_layout_is_ffcvs() -> None:
    from ffcv import types
    from ffcv.fields import IntField, RGBImageField

    assert types.CURRENT_VERSION == beton_index.VERSION
    for ours, theirs in (
        (beton_index.HEADER, types.HeaderType),
        (beton_index.FIELD, types.FieldDescType),
        (beton_index.ALLOCATION, types.ALLOC_TABLE_TYPE),
        (beton_index.METADATA, types.get_metadata_type([RGBImageField(), IntField()])),
    ):
        assert ours.itemsize == theirs.itemsize
        assert ours.fields == theirs.fields
    assert types.TYPE_ID_HANDLER[2] is RGBImageField and types.TYPE_ID_HANDLER[1] is IntField
    assert [kind for _, kind in beton_index.FIELDS] == [2, 1]


@pytest.mark.slow
def test_index_is_what_ffcvs_reader_reads(written: Path) -> None:
    from ffcv.reader import Reader

    reader, index = Reader(str(written)), read_index(written, len(CLASSES))
    assert list(reader.handlers) == ["image", "label"]
    assert index.labels.tolist() == reader.metadata["f1"].tolist() == [image % 3 for image in range(COUNT)]
    for ours, theirs in (("heights", "height"), ("widths", "width"), ("modes", "mode"), ("pointers", "data_ptr")):
        assert getattr(index, ours).tolist() == reader.metadata["f0"][theirs].tolist()
    sizes = dict(zip(reader.alloc_table["ptr"].tolist(), reader.alloc_table["size"].tolist(), strict=True))
    assert index.sizes.tolist() == [sizes[pointer] for pointer in index.pointers.tolist()]
    kinds = {name: str(value.dtype) for name, value in vars(index).items()}
    assert kinds == {
        "labels": "int64", "heights": "int32", "widths": "int32",
        "modes": "uint8", "pointers": "int64", "sizes": "int64",
    }  # fmt: skip


@pytest.mark.slow
def test_file_of_ffcvs_own_writer_is_accepted(tmp_path: Path) -> None:
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    pixels = noise(30, 10)
    path = tmp_path / "theirs.beton"
    writer = DatasetWriter(str(path), {"image": RGBImageField(), "label": IntField()}, 2 << 20, num_workers=2)
    writer.from_indexed_dataset([(image, number % 3) for number, image in enumerate(pixels)], chunksize=5)
    index = read_index(path, 3)
    assert index.labels.tolist() == [number % 3 for number in range(30)]
    content = path.read_bytes()
    for image in range(30):
        start = index.pointers[image]
        assert content[start : start + index.sizes[image]] == pixels[image].tobytes()


def test_content_checksum_is_what_it_says(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib

    monkeypatch.setattr(beton_index, "READ_SIZE", 4096)  # the images lie in several of these parts
    index, content = read_index(written), written.read_bytes()
    digests = b""
    for image in range(COUNT):
        head = struct.pack("<qiiB", index.labels[image], index.heights[image], index.widths[image], index.modes[image])
        stored = content[index.pointers[image] : index.pointers[image] + index.sizes[image]]
        digests += hashlib.sha256(head + stored).digest()
    expected = "sha256:" + hashlib.sha256(digests).hexdigest()
    assert expected == read_manifest(written).checksum
    assert expected == content_checksum(written, index, 1) == content_checksum(written, index, 3)


def test_index_every_truncation_is_refused(beton: Path) -> None:
    length = beton.stat().st_size
    table_start = table_at(beton, 0)
    data_start = metadata_at(COUNT)
    in_the_data = np.random.default_rng(1).integers(data_start, table_start, 500).tolist()
    lengths = sorted({*range(data_start + 1), *in_the_data, *range(table_start, length)}, reverse=True)
    assert len(lengths) > 4000
    for shorter in lengths:
        os.truncate(beton, shorter)
        with pytest.raises(UserError, match="prepare"):
            read_index(beton, len(CLASSES))


def test_index_longer_file_is_refused(beton: Path) -> None:
    with open(beton, "ab") as file:
        file.write(b"\0")
    refuse(beton, "truncated")


@pytest.mark.slow
def test_index_any_changed_byte_is_refused_or_without_effect(beton: Path) -> None:
    manifest, original, content = read_manifest(beton), read_index(beton), beton.read_bytes()
    spans = list(zip(original.pointers.tolist(), original.sizes.tolist(), strict=True))
    random = np.random.default_rng(2)
    in_images = [start + int(random.integers(size)) for start, size in spans for _ in range(3)]
    offsets = [*range(beton_index.HEADER.itemsize + 40), *range(metadata_at(0), metadata_at(COUNT)), *in_images]
    offsets += range(table_at(beton, 0), len(content))
    refused = 0
    for offset in offsets:
        for changed in {content[offset] ^ 0xFF, content[offset] ^ (1 << int(random.integers(8)))}:
            overwrite(beton, offset, bytes([changed]))
            stamp_path(beton).unlink(missing_ok=True)
            try:
                index = verify(beton, manifest, threads=1)
            except UserError as error:
                assert str(beton) in str(error)
                refused += 1
            else:
                assert offset not in in_images, f"a changed byte of an image at {offset}"
                assert same(index, original), f"another index by the byte at {offset}"
        overwrite(beton, offset, content[offset : offset + 1])
    assert refused > 3000
    verify(beton, manifest)


@pytest.mark.parametrize("length", [0, 1, 23, 24, 2105, 2106, 3000, 100_000])
def test_index_foreign_bytes_are_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "train.beton"
    for content in (os.urandom(length), bytes(length), b"\xff" * length, b"\x02\0" * (length // 2)):
        path.write_bytes(content)
        refuse(path)


def test_index_no_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"does not exist.*prepare"):
        read_index(tmp_path / "none.beton")
    with pytest.raises(UserError, match="cannot be read"):
        read_index(tmp_path)


def test_index_huge_count_in_the_header_allocates_nothing(beton: Path) -> None:
    for count in (2**20, 2**40, 2**63, 2**64 - 1):
        overwrite(beton, 8, struct.pack("<Q", count))
        refuse(beton, "truncated")
    overwrite(beton, 8, struct.pack("<Q", 0))
    refuse(beton, "no images")


@pytest.mark.parametrize(
    ("offset", "content", "says"),
    [
        (0, b"\x03", "no .beton file of version 2"),
        (2, b"\xff", "no .beton file of version 2"),
        (4, struct.pack("<I", 0), "page size of 0 bytes"),
        (4, struct.pack("<I", 3 << 20), "page size of 3145728 bytes is not a power of 2"),
        (24, b"\x01", r"0 fields of type RGBImageField.*: image \(int\), label \(int\)"),  # the first field's type
        (24 + 1041, b"\x00", "0 fields of type IntField"),
        (24, b"\x09", "its field 'image' of type 9 is of no type of FFCV"),
    ],
)
def test_index_different_kind_of_file_is_named(beton: Path, offset: int, content: bytes, says: str) -> None:
    overwrite(beton, offset, content)
    refuse(beton, says)


def test_index_empty_file_is_too_short(tmp_path: Path) -> None:
    (tmp_path / "train.beton").write_bytes(b"")
    refuse(tmp_path / "train.beton", "0 bytes are too short")


def jpegs(path: Path) -> list[int]:
    found = np.flatnonzero(read_index(path).modes == beton_index.JPEG).tolist()
    assert 10 < len(found) < 30
    return found


def zero_a_jpeg(path: Path, index: BetonIndex, image: int) -> None:
    overwrite(path, index.pointers[image], bytes(index.sizes[image]))


def lose_the_end_of_a_jpeg(path: Path, index: BetonIndex, image: int) -> None:
    overwrite(path, index.pointers[image] + index.sizes[image] - 2, b"\0\0")


@pytest.mark.parametrize("damage", [zero_a_jpeg, lose_the_end_of_a_jpeg])
def test_index_damaged_jpeg_is_named(beton: Path, damage: Callable[[Path, BetonIndex, int], None]) -> None:
    image = jpegs(beton)[5]
    damage(beton, read_index(beton), image)
    refuse(beton, f"image {image} is not a whole JPEG")


def test_index_file_that_shrinks_while_its_jpegs_are_looked_at_is_an_error(
    beton: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And ends no process: behind the end of a file, a memory map is a SIGBUS."""
    check = beton_index._check_jpegs

    def shrink_and_check(path: Path, file: BinaryIO, index: BetonIndex) -> None:
        os.truncate(path, int(index.pointers[index.modes == beton_index.JPEG].max()))
        check(path, file, index)

    monkeypatch.setattr(beton_index, "_check_jpegs", shrink_and_check)
    refuse(beton, "the file became shorter while it was read")


def test_index_looks_at_the_jpegs_of_a_large_file_in_little_memory(tmp_path: Path) -> None:
    """Of 14 million images at once, Python objects would take 4 GB."""
    count = 100_000
    (tmp_path / "jpeg").write_bytes(b"\xff\xd8\xff\xd9")
    zeros = np.zeros(count, np.int64)
    index = BetonIndex(labels=zeros, heights=zeros, widths=zeros, modes=zeros, pointers=zeros, sizes=zeros + 4)
    tracemalloc.start()
    with open(tmp_path / "jpeg", "rb") as file:
        beton_index._check_jpegs(tmp_path, file, index)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 80 * count


def test_swapped_pointers_are_named(beton: Path) -> None:
    index = read_index(beton)
    for image, other in ((3, 7), (7, 3)):
        overwrite(beton, metadata_at(image) + 5, struct.pack("<Q", index.pointers[other]))
    refuse(beton, r"image 3 \(and 1 other\) has another place")


def test_index_images_swapped_everywhere_are_found_by_the_checksum(beton: Path) -> None:
    """Two raw images of one class change places in metadata and table: the structure is whole."""
    index = read_index(beton)
    raw = [image for image in range(0, COUNT, 3) if index.modes[image] == beton_index.RAW][:2]
    table = np.frombuffer(beton.read_bytes()[table_at(beton, 0) :], beton_index.ALLOCATION)
    places = {int(entry["sample_id"]): number for number, entry in enumerate(table)}
    for image, other in ((raw[0], raw[1]), (raw[1], raw[0])):
        pointer = struct.pack("<Q", index.pointers[other])
        overwrite(beton, metadata_at(image) + 5, pointer)
        overwrite(beton, table_at(beton, places[image]) + 8, pointer)
    changed = read_index(beton, len(CLASSES))
    assert not np.array_equal(changed.pointers, index.pointers)
    with pytest.raises(UserError, match="damaged: its content is"):
        verify(beton, read_manifest(beton))


@pytest.mark.parametrize("label", [-1, 3, 2**40, -(2**63)])
def test_label_out_of_range_is_named(beton: Path, label: int) -> None:
    overwrite(beton, metadata_at(11) + 16, struct.pack("<q", label))
    refuse(beton, "image 11 has a (negative label|label beyond the 3 classes)")


@pytest.mark.parametrize(
    ("offset", "content", "says"),
    [
        (0, b"\x02", "neither a JPEG nor raw"),
        (1, b"\0\0", "0 px"),
        (3, b"\0\0", "0 px"),
        (5, struct.pack("<Q", 0), "another place"),
        (5, struct.pack("<Q", 2**64 - 1), "another place"),
    ],
)
def test_index_impossible_metadata_is_named(beton: Path, offset: int, content: bytes, says: str) -> None:
    overwrite(beton, metadata_at(4) + offset, content)
    refuse(beton, f"image 4 .*{says}")


def test_sizes_that_do_not_fit_the_image_are_named(beton: Path) -> None:
    index, content = read_index(beton), beton.read_bytes()
    raw = int(np.flatnonzero(index.modes == beton_index.RAW)[3])
    overwrite(beton, metadata_at(raw) + 3, struct.pack("<H", 11))
    refuse(beton, f"image {raw} does not have height x width x 3 bytes")
    overwrite(beton, 0, content)
    table = np.frombuffer(content[table_at(beton, 0) :], beton_index.ALLOCATION)
    jpeg = jpegs(beton)[3]
    overwrite(beton, table_at(beton, table["sample_id"].tolist().index(jpeg)) + 16, struct.pack("<Q", 3))
    refuse(beton, f"image {jpeg} is too short for a JPEG")


def test_index_impossible_places_are_named(beton: Path) -> None:
    index = read_index(beton)
    content = beton.read_bytes()
    table = np.frombuffer(content[table_at(beton, 0) :], beton_index.ALLOCATION)
    entry, image = 9, int(table["sample_id"][9])
    for pointer, size, says in (
        (0, 10, "does not lie"),
        (2**64 - 1, 10, "does not lie"),
        (table_at(beton, 0) - 5, 10, "reaches beyond"),
        (int(index.pointers[image]), 0, "does not lie"),
        (int(index.pointers[image]), 2**64 - 1, "does not lie"),
        ((2 << 20) - 4, 8, "crosses"),
        (int(index.pointers[(image + 1) % COUNT]), int(index.sizes[(image + 1) % COUNT]), "overlaps"),
    ):
        overwrite(beton, table_at(beton, entry) + 8, struct.pack("<QQ", pointer, size))
        overwrite(beton, metadata_at(image) + 5, struct.pack("<Q", pointer))
        refuse(beton, f"image [0-9]+ {says}")
    overwrite(beton, 0, content)
    overwrite(beton, table_at(beton, entry), struct.pack("<Q", (image + 1) % COUNT))
    refuse(beton, "no entry of its own")


def test_index_different_files_manifest_is_refused(beton: Path) -> None:
    from dataclasses import replace

    manifest = read_manifest(beton)
    counts = [manifest.class_counts[0] + 1, manifest.class_counts[1] - 1, manifest.class_counts[2]]
    other: list[tuple[Manifest, str]] = [
        (replace(manifest, class_counts=counts), "classes of its images"),
        (replace(manifest, classes=CLASSES[:2], class_counts=[14, 26]), "beyond the 2 classes"),
        (replace(manifest, sizes=replace(manifest.sizes, bytes=1)), "its manifest says"),
        (replace(manifest, checksum="sha256:" + "0" * 64), "damaged"),
    ]
    for wrong, says in other:
        with pytest.raises(UserError, match=says):
            verify(beton, wrong)
    assert read_stamp(beton) is None


def test_verified_file_is_remembered_until_it_changes(beton: Path) -> None:
    manifest, index = read_manifest(beton), read_index(beton)
    verify(beton, manifest)
    assert read_stamp(beton) is not None
    place = int(index.pointers[0] + index.sizes[0] // 2)
    status, byte = beton.stat(), beton.read_bytes()[place]
    overwrite(beton, place, bytes([byte ^ 1]))
    os.utime(beton, ns=(status.st_atime_ns, status.st_mtime_ns))
    verify(beton, manifest)  # same length, same time: the stamp is trusted, and nothing is hashed
    os.utime(beton, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    with pytest.raises(UserError, match="damaged"):
        verify(beton, manifest)
    overwrite(beton, place, bytes([byte]))
    verify(beton, manifest)


def test_folder_that_cannot_be_written_to_is_no_error(beton: Path) -> None:
    stamp_path(beton).mkdir()  # holds for root too, whom a read-only folder does not stop
    assert len(verify(beton, read_manifest(beton))) == COUNT


@pytest.mark.slow
def test_million_images_take_about_a_second(tmp_path: Path) -> None:
    """Raw images of 1 x 1 px, so that it is the index that is measured; a generous limit for a busy machine."""
    import time

    count, page = 1_000_000, 1 << 22
    header = np.zeros(1, beton_index.HEADER)
    start = -(-(beton_index.METADATA_START + count * beton_index.METADATA.itemsize) // page) * page
    places = start + np.arange(count, dtype=np.uint64) * 4
    header["version"], header["num_fields"], header["page_size"], header["num_samples"] = 2, 2, page, count
    header["alloc_table_ptr"] = start + 4 * count
    fields = np.zeros(2, beton_index.FIELD)
    for field, (name, kind) in zip(fields, beton_index.FIELDS, strict=True):
        field["type_id"], field["name"][:5] = kind, list(name.encode())
    metadata = np.zeros(count, beton_index.METADATA)
    metadata["f0"]["mode"], metadata["f0"]["width"], metadata["f0"]["height"] = beton_index.RAW, 1, 1
    metadata["f0"]["data_ptr"] = places
    metadata["f0"]["mode"][::2] = beton_index.JPEG
    table = np.zeros(count, beton_index.ALLOCATION)
    table["sample_id"], table["ptr"], table["size"] = np.arange(count), places, 3
    table["size"][::2] = 4
    path = tmp_path / "million.beton"
    with open(path, "wb") as file:
        for content in (header, fields, metadata):
            file.write(content.tobytes())
        file.write(bytes(start - file.tell()) + b"\xff\xd8\xff\xd9" * count + table.tobytes())
    began = time.process_time()
    assert len(read_index(path, 1)) == count
    assert time.process_time() - began < 5
