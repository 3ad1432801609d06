"""Files of FFCV's own writer are used as they are: checked once, with a manifest beside them."""

import hashlib
import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from trainer.__main__ import main
from trainer.data.beton.index import METADATA, METADATA_START, BetonIndex, content_checksum, read_index
from trainer.data.beton.layout import layout_of
from trainer.data.beton.manifest import read_manifest
from trainer.data.crop import eval_view
from trainer.data.formats import open_source
from trainer.data.loader import Loader
from trainer.recipe import CenterCrop

# not importorskip(): importing it compiles for seconds, in every worker that collects the tests
pytestmark = [pytest.mark.slow, pytest.mark.skipif(find_spec("ffcv") is None, reason="needs ffcv")]
SIDE = 32


def pixels(count: int) -> list[np.ndarray]:
    return [np.full((SIDE, SIDE, 3), 20 * number, np.uint8) for number in range(count)]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train.beton and val.ffcv by FFCV: other names, other fields before, between and behind, write_mode smart."""
    from ffcv.fields import BytesField, FloatField, IntField, JSONField, NDArrayField, RGBImageField
    from ffcv.writer import DatasetWriter

    folder = tmp_path_factory.mktemp("theirs")
    vector = NDArrayField(np.dtype("<f4"), (3,))
    several = {"about": JSONField(), "score": FloatField(), "picture": RGBImageField(write_mode="smart")}
    fields = {
        "train.beton": {**several, "vector": vector, "target": IntField(), "raw": BytesField()},
        "val.ffcv": {"x": RGBImageField(write_mode="jpg"), "y": IntField()},
    }
    for name, kinds in fields.items():
        rows = [
            ({"n": n}, 0.5, image, np.zeros(3, np.float32), n % 3, np.arange(n % 3, dtype=np.uint8))
            if len(kinds) > 2
            else (image, n % 3)
            for n, image in enumerate(pixels(12))
        ]
        DatasetWriter(str(folder / name), kinds, 2 << 20, num_workers=1).from_indexed_dataset(rows, chunksize=4)
    (folder / "names.txt").write_text("cat\ndog\nemu\n", encoding="utf-8")
    return folder


@pytest.mark.slow
def test_adopted_files_are_read_as_they_are(theirs: Path, capfd: pytest.CaptureFixture[str]) -> None:
    files = [theirs / "train.beton", theirs / "val.ffcv"]
    before = [hashlib.sha256(file.read_bytes()).digest() for file in files]
    with pytest.raises(Exception, match=r"prepare adopt .*train\.beton --classes NAMES"):
        open_source(str(theirs), "train", num_classes=3, resolution=SIDE)
    words = ["prepare", "adopt", *map(str, files), "--classes", str(theirs / "names.txt")]
    assert main(words) == 0
    assert capfd.readouterr().out.count("12 images of 3 classes") == 2
    assert [hashlib.sha256(file.read_bytes()).digest() for file in files] == before
    for split in ("train", "val"):
        source = open_source(str(theirs), split, num_classes=3, resolution=SIDE)  # type: ignore[arg-type]
        assert source.classes == ["cat", "dog", "emu"] and source.labels.tolist() == [n % 3 for n in range(12)]
        with Loader(source, workers=1) as loader:
            view = eval_view(CenterCrop(resolution=SIDE, crop_ratio=1.0))
            (batch,) = loader.batches([np.arange(12)], view, SIDE)
        expected = np.stack(pixels(12)).astype(int)
        assert np.abs(batch.images.permute(0, 2, 3, 1).numpy().astype(int) - expected).max() <= 2
    assert read_manifest(theirs / "train.beton").source.kind == "ffcv"
    assert main(words) == 2
    assert "is there already: pass --overwrite" in capfd.readouterr().err
    assert main([*words, "--overwrite"]) == 0


def test_adopt_takes_names_from_class_folders_and_refuses_too_few(
    theirs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from tests.support.odd_images import class_folders

    file = tmp_path / "val.ffcv"
    file.write_bytes((theirs / "val.ffcv").read_bytes())
    folder = class_folders(tmp_path / "two", ("a", "b"), train=1, val=1) / "train"
    words = ["prepare", "adopt", str(file), "--classes"]
    assert main([*words, str(folder)]) == 2
    assert "labels go up to 2, but --classes names 2: name 3" in capfd.readouterr().err
    assert main([*words, str(class_folders(tmp_path / "three", train=1, val=1) / "train")]) == 0
    assert read_manifest(file).classes == ["a", "b", "c"]
    (tmp_path / "twice.txt").write_text("a\nb\na\n", encoding="utf-8")
    for bad, says in (("twice.txt", "names 'a' twice"), ("none.txt", "cannot be read (No such file or directory)")):
        assert main([*words, str(tmp_path / bad), "--overwrite"]) == 2
        assert says in (err := capfd.readouterr().err) and err.count("\n") == 1


def test_adopt_checks_every_byte_once(theirs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "val.ffcv"
    file.write_bytes((theirs / "val.ffcv").read_bytes())
    assert main(["prepare", "adopt", str(file), "--classes", str(theirs / "names.txt")]) == 0
    changed = bytearray(file.read_bytes())
    changed[int(read_index(file).pointers[3])] ^= 1  # the first byte of a JPEG
    file.write_bytes(changed)
    capfd.readouterr()
    assert main(["look", str(file), "--out", str(tmp_path / "sheet.png")]) == 2
    assert "image 3 is not a whole JPEG" in capfd.readouterr().err
    assert main(["prepare", "adopt", str(file), "--classes", str(theirs / "names.txt"), "--overwrite"]) == 2
    assert "image 3 is not a whole JPEG" in capfd.readouterr().err
    place = int(read_index(theirs / "val.ffcv").pointers[3])
    changed = bytearray((theirs / "val.ffcv").read_bytes())
    changed[place + 4 : place + 200] = bytes(196)  # between FF D8 and FF D9
    file.write_bytes(changed)
    (tmp_path / "val.ffcv.json").unlink()
    assert main(["prepare", "adopt", str(file), "--classes", str(theirs / "names.txt")]) == 2
    assert "image 3 cannot be decoded: write the file again" in capfd.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["val.ffcv"]
    flipped = bytearray((theirs / "val.ffcv").read_bytes())
    flipped[METADATA_START + 3 * METADATA.itemsize + METADATA["f0"].fields["width"][1]] ^= 64  # 32 px become 96
    file.write_bytes(flipped)
    assert read_index(file).widths.tolist() == [SIDE] * 3 + [96] + [SIDE] * 8
    assert main(["prepare", "adopt", str(file), "--classes", str(theirs / "names.txt")]) == 2
    assert "image 3 cannot be decoded: write the file again" in capfd.readouterr().err
    file.write_bytes(changed[:-24])
    assert main(["prepare", "adopt", str(file), "--classes", str(theirs / "names.txt"), "--overwrite"]) == 2
    assert "is it truncated?" in capfd.readouterr().err


def test_adopt_notices_a_file_that_is_written_to_while_it_is_read(
    theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "val.ffcv"
    file.write_bytes((theirs / "val.ffcv").read_bytes())

    def read_and_touch(path: Path, index: BetonIndex) -> str:
        checksum = content_checksum(path, index)
        os.utime(path, ns=(0, 0))
        return checksum

    monkeypatch.setattr("trainer.data.beton.adopt.content_checksum", read_and_touch)
    assert main(["prepare", "adopt", str(file), "--classes", str(theirs / "names.txt")]) == 2
    assert "val.ffcv was written to while it was read: try again when it is complete" in capfd.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["val.ffcv"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ([("a", 2), ("b", 2), ("label", 1)], r"2 fields of type RGBImageField.*: a \(image\), b \(image\), "),
        ([("x", 2)], "0 fields of type IntField"),
        ([("x", 2), ("y", 1), ("z", 1)], "2 fields of type IntField, and needs one, or one called label"),
        ([("x", 2), ("y", 255)], "its field 'y' of type 255 is of no type of FFCV"),
    ],
)  # fmt: skip
def test_fields_without_an_obvious_choice_are_named(fields: list[tuple[str, int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layout_of(fields)


def test_fields_called_image_and_label_are_chosen_among_several() -> None:
    found = layout_of([("mask", 2), ("image", 2), ("id", 1), ("label", 1)])
    assert (found.image, found.label, found.only_images) == ("f1", "f3", False)
    assert layout_of([("image", 2), ("label", 1), ("weight", 0)]).only_images
