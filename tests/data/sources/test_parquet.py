"""Parquet files in the layouts of Hugging Face's data sets."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.data.sources.miniatures import RAW, assert_holds, changed_by_replacing, pixels, png
from trainer.__main__ import main
from trainer.data.sources.parquet import ParquetOptions, prepare
from trainer.errors import UserError

pyarrow = pytest.importorskip("pyarrow")


def options(**changes: object) -> ParquetOptions:
    return ParquetOptions(**{**RAW, **changes})  # type: ignore[arg-type]


def write(path: Path, columns: dict[str, list], features: dict[str, Any] | None = None) -> Path:
    """Three rows in a row group, with the metadata that the library `datasets` writes."""
    from pyarrow import parquet

    table = pyarrow.table(columns)
    if features:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path, row_group_size=3)
    return path


FEATURES = {
    "img": {"_type": "Image"},
    "thumb": {"dtype": "binary", "_type": "Value"},
    "fine": {"names": ["cat", "dog", "emu"], "_type": "ClassLabel"},
}


def rows(numbers: range) -> dict[str, list]:
    return {
        "thumb": [b"no image" for _ in numbers],
        "img": [{"bytes": png(number), "path": f"{number}.png"} for number in numbers],
        "fine": [number % 3 for number in numbers],
    }


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """data/{train-00000-of-00002,train-00001-of-00002,validation-00000-of-00001}.parquet"""
    folder = tmp_path / "data"
    for name, numbers in (("train-00000-of-00002", range(7)), ("train-00001-of-00002", range(7, 11)),
                          ("validation-00000-of-00001", range(11, 16))):  # fmt: skip
        write(folder / f"{name}.parquet", rows(numbers), FEATURES)
    return folder


@pytest.mark.parametrize("workers", [1, 2])
def test_parquet_columns_and_classes_come_from_the_metadata(files: Path, tmp_path: Path, workers: int) -> None:
    manifests = prepare([str(files)], tmp_path / "out", options(workers=workers))
    assert manifests["train"].classes == ["cat", "dog", "emu"] and manifests["val"].source.kind == "parquet"
    assert_holds(tmp_path / "out" / "train.beton", [(number % 3, pixels(number)) for number in range(11)])
    assert_holds(tmp_path / "out" / "val.beton", [(number % 3, pixels(number)) for number in range(11, 16)])


def test_parquet_file_that_is_replaced_changes_the_stamps_of_its_images(files: Path, tmp_path: Path) -> None:
    replaced = files / "train-00001-of-00002.parquet"
    found = changed_by_replacing(replaced, lambda: prepare([str(files)], tmp_path / "out", options()))
    assert found == {"train": [False] * 7 + [True] * 4, "val": [False] * 5}


@pytest.mark.parametrize("kind", ["text", "struct"])
def test_parquet_image_at_a_path_that_is_replaced_changes_its_stamp(tmp_path: Path, kind: str) -> None:
    """In row groups of three, of which the second holds bytes only; a path beside bytes is not read."""
    for number in range(9):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    paths = [f"{number}.png" for number in range(9)]
    stored = [{"bytes": png(number) if number in (1, 3, 4, 5) else None, "path": paths[number]} for number in range(9)]
    file = write(tmp_path / "train.parquet", {"image": paths if kind == "text" else stored, "label": [0] * 9})
    val = write(tmp_path / "val.parquet", {"image": [png(9)], "label": [0]})
    chosen = options(val=(str(val),), image_column="image")
    for number in (0, 2, 4, 8):
        replaced = tmp_path / paths[number]
        found = changed_by_replacing(replaced, lambda: prepare([str(file)], tmp_path / "out", chosen))
        changed = [image == number and (kind == "text" or number != 4) for image in range(9)]
        assert found == {"train": changed, "val": [False]}
    found = changed_by_replacing(file, lambda: prepare([str(file)], tmp_path / "out", chosen))
    assert found == {"train": [True] * 9, "val": [False]}


def test_parquet_bad_image_is_named_by_file_and_row(files: Path, tmp_path: Path) -> None:
    columns = rows(range(7, 13))
    columns["img"][4]["bytes"] = b"no image"
    columns["img"][5] = {"bytes": None, "path": None}
    columns["img"][3] = {"bytes": None, "path": "link.png"}
    (files / "link.png").symlink_to("nowhere.png")
    write(files / "train-00001-of-00002.parquet", columns, FEATURES)
    found = prepare([str(files)], tmp_path / "out", options(skip_bad=True))["train"]
    assert found.skipped == [f"train-00001-of-00002.parquet[{row}]" for row in (3, 4, 5)] and found.count == 10


@pytest.mark.parametrize(
    ("names", "answer"),
    [
        (["cat", "dog", "fox"], "class 2 is 'fox' here and 'emu' in the first file"),
        (["cat", "dog"], "class 2 is not there here and 'emu' in the first file"),
        (["cat", "dog", "emu", "fox"], "class 3 is 'fox' here and not there in the first file"),
    ],
)
def test_parquet_files_must_name_the_same_classes(files: Path, tmp_path: Path, names: list[str], answer: str) -> None:
    other = {**FEATURES, "fine": {"names": names, "_type": "ClassLabel"}}
    write(files / "validation-00000-of-00001.parquet", rows(range(11, 16)), other)
    with pytest.raises(UserError, match=rf"validation-.* has other classes: {answer}"):
        prepare([str(files)], tmp_path / "out", options())


def test_parquet_files_all_name_their_classes_or_none_does(files: Path, tmp_path: Path) -> None:
    write(files / "train-00000-of-00002.parquet", rows(range(7)), {"img": FEATURES["img"]})
    with pytest.raises(UserError, match="names its classes, which have no names in the first file"):
        prepare([str(files)], tmp_path / "out", options(label_column="fine"))


@pytest.mark.parametrize("stored", [b"{", b"[1]", b'{"info": {"features": [1]}}'])
def test_parquet_metadata_that_cannot_be_read_is_none(tmp_path: Path, stored: bytes) -> None:
    from pyarrow import parquet

    table = pyarrow.table({"image": [png(0), png(1)], "label": [0, 0]})
    parquet.write_table(table.replace_schema_metadata({"huggingface": stored}), tmp_path / "a.parquet")
    manifests = prepare([str(tmp_path / "a.parquet")], tmp_path / "out", options(val_fraction=0.5))
    assert manifests["train"].classes == ["0"]


@pytest.mark.slow
def test_parquet_images_may_be_bytes_or_paths_and_labels_text(tmp_path: Path) -> None:
    for number in range(6):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    stored = {
        "bytes": [png(number) for number in range(6)],
        "paths": [{"bytes": None, "path": f"{number}.png"} for number in range(6)],
        "text": [f"{number}.png" for number in range(6)],
    }
    for name, images in stored.items():
        file = write(tmp_path / f"{name}.parquet", {"image": images, "label": ["b", "a"] * 3})
        changes = {"image_column": "image"} if name == "text" else {}
        val = write(tmp_path / f"{name}-v.parquet", {"image": images[:1], "label": ["a"]})
        manifests = prepare([str(file)], tmp_path / name, options(val=(str(val),), **changes))
        assert manifests["train"].classes == ["a", "b"]
        assert_holds(tmp_path / name / "train.beton", [((number + 1) % 2, pixels(number)) for number in range(6)])


@pytest.mark.parametrize(
    ("columns", "features", "answer"),
    [
        ({"image": [b"a"], "target": [0]}, None, "no label column among image, target: choose one with --label-column"),
        ({"a": [b"a"], "b": [b"b"], "label": [0]}, None, "several image columns, a, b: choose one with --image-column"),
        ({"label": [0]}, None, "no image column among label"),
        ({"image": [b"a"], "label": [-1]}, {"label": {"names": ["x"], "_type": "ClassLabel"}}, "labels are -1 to -1"),
        ({"image": [b"a"], "label": ["x"]}, {"label": {"names": ["x"], "_type": "ClassLabel"}}, "label holds string"),
        ({"image": [b"a"], "label": [0.7]}, {"label": {"names": ["x"], "_type": "ClassLabel"}}, "label holds double"),
        ({"image": [b"a", b"b"], "label": [0, None]}, None, "1 row without label: every image needs one"),
    ],
)
def test_parquet_mistake_is_named(tmp_path: Path, columns: dict, features: dict | None, answer: str) -> None:
    file = write(tmp_path / "a.parquet", columns, features)
    with pytest.raises(UserError, match=answer):
        prepare([str(file)], tmp_path / "out", options(val_fraction=0.5))


def test_parquet_damaged_file_is_named(files: Path, tmp_path: Path) -> None:
    path = files / "train-00001-of-00002.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"train-00001-of-00002\.parquet is not a whole parquet file"):
        prepare([str(files)], tmp_path / "out", options())


@pytest.mark.parametrize("damaged", ["fine", "img.path"])
def test_parquet_damaged_column_is_one_line(
    damaged: str, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from pyarrow.parquet import ParquetFile

    columns = rows(range(7, 10))
    columns["img"][0]["bytes"] = None  # so that its path is looked at
    path = write(files / "train-00001-of-00002.parquet", columns, FEATURES)
    group = ParquetFile(path).metadata.row_group(0)
    (column,) = (group.column(place) for place in range(4) if group.column(place).path_in_schema == damaged)
    content, start = bytearray(path.read_bytes()), column.dictionary_page_offset or column.data_page_offset
    content[start : start + column.total_compressed_size] = bytes(column.total_compressed_size)
    path.write_bytes(content)
    assert main(["prepare", "parquet", str(files), "--out", str(tmp_path / "out")]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: {path} is not a whole parquet file: ") and "\\n" not in line


def test_parquet_without_pyarrow_says_what_to_install(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"pip install pyarrow"):
        prepare([str(files)], tmp_path / "out", options())


def test_parquet_files_are_not_read_in_a_random_order(tmp_path: Path) -> None:
    files = write(tmp_path / "train-0.parquet", rows(range(6)), FEATURES)
    with pytest.raises(UserError, match=r"--shuffle would read a whole row group .* WebDataset shards"):
        prepare([str(files)], tmp_path / "out", options(shuffle=True))
    assert not (tmp_path / "out").exists()
