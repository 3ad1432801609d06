"""The small files beside a .beton: manifest and stamp."""

import dataclasses
import json
import os
from pathlib import Path

import pytest

from trainer.atomic import atomic_write
from trainer.data.beton.manifest import (
    DataOrigin,
    Encoding,
    Manifest,
    Sizes,
    manifest_path,
    read_manifest,
    read_stamp,
    stamp_now,
    write_manifest,
    write_stamp,
)
from trainer.errors import UserError

MANIFEST = Manifest(
    count=3,
    classes=["cat", "dög"],
    class_counts=[1, 2],
    sizes=Sizes(min_height=1, max_height=2, min_width=3, max_width=4, bytes=5000),
    source=DataOrigin(kind="folder", name="pets"),
    options=Encoding(write_mode="jpg", max_resolution=None, jpeg_quality=95, compress_probability=1),
    skipped=["train/cat/\udcff.jpg"],  # a name that is not UTF-8, as Python reads it from the disk
    checksum="sha256:" + "0123456789abcdef" * 4,
    software={"ffcv": "1.0.2"},
)


def test_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    beton = tmp_path / "train.beton"
    write_manifest(MANIFEST, beton)
    assert [path.name for path in tmp_path.iterdir()] == ["train.beton.json"]
    assert read_manifest(beton) == MANIFEST


def test_manifest_missing_manifest_says_what_writes_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train\.beton\.json is missing.*python -m trainer prepare"):
        read_manifest(tmp_path / "train.beton")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"null", b'"text"', b"[" * 100_000, b"1e999"])
def test_manifest_what_is_not_a_manifest_is_one_clear_line(tmp_path: Path, content: bytes) -> None:
    beton = tmp_path / "train.beton"
    manifest_path(beton).write_bytes(content)
    with pytest.raises(UserError, match="python -m trainer prepare") as caught:
        read_manifest(beton)
    assert str(manifest_path(beton)) in str(caught.value)


CHANGES = {
    "format_version": [3, 0, "1", "2", None, 1.0, 2.0, True],
    "count": ["3", 3.0, None, 4, -3, True, 2**70],
    "classes": ["cat", [1, 2], ["cat"], None, {}],
    "class_counts": [[1, 1], [3], [1, "2"], [-1, 4], [1.0, 2.0]],
    "sizes": [None, [], {}, {"min_height": 1}],
    "source": [{"kind": "elsewhere", "name": "x"}, {"kind": "folder"}, {"kind": "folder", "name": 1}],
    "options": [{"write_mode": "smart", "max_resolution": 1, "jpeg_quality": 1, "compress_probability": 1}, None],
    "skipped": [None, [None], "none"],
    "checksum": ["sha256:", "md5:" + "0" * 64, "sha256:" + "g" * 64, "sha256:" + "0" * 65, None],
    "software": [None, {"ffcv": 1}, []],
    "exif_oriented": [None, "none", 1.0],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in CHANGES.items() for value in values])
def test_manifest_wrong_value_is_refused(tmp_path: Path, name: str, value: object) -> None:
    beton = tmp_path / "train.beton"
    data = dataclasses.asdict(MANIFEST)
    assert set(CHANGES) == set(data), "every setting is tried"
    data[name] = value
    manifest_path(beton).write_text(json.dumps(data))
    with pytest.raises(UserError, match="prepare"):
        read_manifest(beton)


def test_manifest_missing_and_an_unknown_setting_are_named(tmp_path: Path) -> None:
    beton = tmp_path / "train.beton"
    data = dataclasses.asdict(MANIFEST)
    manifest_path(beton).write_text(json.dumps(data | {"colour": 1}))
    with pytest.raises(UserError, match="unknown 'colour'"):
        read_manifest(beton)
    del data["options"]["jpeg_quality"]
    manifest_path(beton).write_text(json.dumps(data))
    with pytest.raises(UserError, match="options has no 'jpeg_quality'"):
        read_manifest(beton)


@pytest.mark.parametrize(
    "setting",
    [{"write_mode": "smart"}, {"max_resolution": 0}, {"max_resolution": 70_000}, {"jpeg_quality": 0},
     {"jpeg_quality": 101}, {"compress_probability": -0.1}, {"compress_probability": float("nan")}],
)  # fmt: skip
def test_manifest_impossible_encoding_is_refused_by_name(setting: dict) -> None:
    with pytest.raises(UserError, match=next(iter(setting))):
        Encoding(**setting)


def test_page_holds_the_largest_raw_image_and_suits_ffcv() -> None:
    assert Encoding(max_resolution=500).page_size == 8 << 20, "FFCV's default"
    assert Encoding(max_resolution=32).page_size == 2 << 20, "FFCV's least"
    for side in (None, 1, 100, 499, 600, 1673, 5000, 26_000):
        page = Encoding(max_resolution=side).page_size
        assert page & (page - 1) == 0 and 2 << 20 <= page < 1 << 32
        assert page >= 3 * (side or 4729) ** 2


def test_share_of_jpegs_is_the_probability() -> None:
    for probability in (0.0, 0.1, 0.5, 1.0):
        encoding = Encoding(write_mode="proportion", compress_probability=probability)
        share = sum(encoding.is_jpeg(image) for image in range(10_000)) / 10_000
        assert abs(share - probability) < 0.02  # four standard deviations at 0.5
    assert Encoding(write_mode="jpg").is_jpeg(0) and not Encoding(write_mode="raw").is_jpeg(0)


def test_file_that_is_not_finished_never_has_its_name(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with atomic_write(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_manifest_two_writers_of_one_file_are_refused(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "file") as partial:
        partial.write_text("first")
        with pytest.raises(UserError, match="being written"), atomic_write(tmp_path / "file"):
            pass
    assert (tmp_path / "file").read_text() == "first"


def test_stamp_says_length_time_and_checksum(tmp_path: Path) -> None:
    beton = tmp_path / "train.beton"
    beton.write_bytes(b"12345")
    assert read_stamp(beton) is None
    stamp = stamp_now(beton, MANIFEST.checksum)
    write_stamp(beton, stamp)
    assert read_stamp(beton) == stamp == stamp_now(beton, MANIFEST.checksum)
    os.utime(beton, ns=(0, stamp_now(beton, "")["mtime_ns"] + 1))
    assert read_stamp(beton) != stamp_now(beton, MANIFEST.checksum)
    (tmp_path / "train.beton.verified").write_bytes(b"\xff{")
    assert read_stamp(beton) is None
    write_stamp(tmp_path / "no folder" / "train.beton", stamp)  # cannot be written: no error
