"""CSV and TSV files with a path and a label a line."""

import unicodedata
from pathlib import Path

import pytest

from tests.data.sources.miniatures import RAW, assert_holds, changed_by_replacing, pixels, png
from trainer.data.sources.csv_list import CsvOptions, prepare
from trainer.errors import UserError


def options(**changes: object) -> CsvOptions:
    return CsvOptions(**{**RAW, **changes})  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for number in range(8):
        (tmp_path / "images" / f"{number}.png").write_bytes(png(number))
    return tmp_path


def write(folder: Path, text: str, name: str = "list.csv") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


SPLIT = "split,path,label\n" + "".join(
    f"{'train' if number % 3 else 'val'},images/{number}.png,{'ca t' if number % 2 else 'ünit'}\n"
    for number in range(8)
)


def test_csv_with_a_split_column_is_written_in_the_order_of_its_lines(folder: Path) -> None:
    manifests = prepare(write(folder, SPLIT), folder / "out", options())
    assert manifests["val"].classes == ["ca t", "ünit"] and manifests["val"].source.kind == "csv"
    for split, numbers in (("val", (0, 3, 6)), ("train", (1, 2, 4, 5, 7))):
        expected = [((number + 1) % 2, pixels(number)) for number in numbers]
        assert_holds(folder / "out" / f"{split}.beton", expected)


def test_csv_image_that_is_replaced_changes_its_stamp(folder: Path) -> None:
    replaced = folder / "images" / "4.png"
    found = changed_by_replacing(replaced, lambda: prepare(write(folder, SPLIT), folder / "out", options()))
    assert found == {"train": [number == 4 for number in (1, 2, 4, 5, 7)], "val": [False] * 3}


def test_csv_images_for_testing_are_left_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = SPLIT.replace("train,images/7", "test,images/7")
    assert prepare(write(folder, rows), folder / "out", options())["train"].count == 4
    assert "left out 1 image of split test, such as images/7.png\n" in capsys.readouterr().out


def test_csv_with_a_file_of_validation_images_trains_on_lines_of_train_alone(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = SPLIT.replace("train,images/7", "test,images/7")
    val = write(folder, "path,label\nimages/0.png,ünit\nimages/3.png,ca t\n", "val.csv")
    assert prepare(write(folder, rows), folder / "out", options(val=val))["train"].count == 4
    assert "left out 4 images of split test and val, such as images/0.png\n" in capsys.readouterr().out
    test = write(folder, "split,path,label\ntest,images/1.png,ca t\n", "test.csv")
    with pytest.raises(UserError, match=r"test\.csv lists no validation images"):
        prepare(folder / "list.csv", folder / "none", options(val=test))


@pytest.mark.parametrize(
    ("label", "answer"), [("ünit", "lists images/0.png twice"), ("ca t", "two labels, ünit and ca t")]
)
def test_csv_image_is_for_training_or_for_validation(folder: Path, label: str, answer: str) -> None:
    val = write(folder, f"path,label\nimages/3.png,ca t\nimages/0.png,{label}\n", "val.csv")
    lines = "path,label\nimages/0.png,ünit\nimages/1.png,ca t\n"
    with pytest.raises(UserError, match=answer):
        prepare(write(folder, lines), folder / "out", options(val=val))


@pytest.mark.parametrize("split", ["", "train"])
def test_csv_without_validation_images_may_have_them_drawn(folder: Path, split: str) -> None:
    rows = "path,label,split\n" + "".join(f"images/{number}.png,{number % 2},{split}\n" for number in range(8))
    found = prepare(write(folder, rows), folder / "out", options(val_fraction=0.25))
    assert (found["train"].count, found["val"].count) == (6, 2)


def test_csv_names_that_unicode_composes_differently_are_one_class(folder: Path) -> None:
    rows = "path,label\n" + "".join(
        f"images/{number}.png,{unicodedata.normalize('NFD' if number % 2 else 'NFC', 'café')}\n" for number in range(8)
    )
    assert prepare(write(folder, rows), folder / "out", options(val_fraction=0.25))["train"].classes == ["café"]


@pytest.mark.parametrize(
    ("header", "name", "mark", "changes"),
    [
        (("Image", "Category"), "list.tsv", "\t", {}),
        (("\ufeffpath", "label"), "list.csv", ",", {}),
        (("name", "what"), "list.csv", ";", {"path_column": "name", "label_column": "what"}),
        ((), "list.csv", ",", {}),
    ],
)
def test_csv_columns_are_found(folder: Path, header: tuple[str, ...], name: str, mark: str, changes: dict) -> None:
    def table(numbers: range) -> str:
        rows = [(f"images/{number}.png", str(10 - number % 3)) for number in numbers]
        return "".join(mark.join(row) + "\n" for row in ([header] if header else []) + rows)

    val = write(folder, table(range(3, 5)), f"val-{name}")
    manifests = prepare(write(folder, table(range(7, 4, -1)), name), folder / "out", options(val=val, **changes))
    assert manifests["train"].classes == ["8", "9", "10"], "in the order of the numbers"
    assert_holds(folder / "out" / "train.beton", [(1, pixels(7)), (2, pixels(6)), (0, pixels(5))])
    assert_holds(folder / "out" / "val.beton", [(2, pixels(3)), (1, pixels(4))])


def test_csv_paths_may_be_relative_to_another_folder(folder: Path) -> None:
    rows = "path,label\n" + "".join(f"{number}.png,{number % 2}\n" for number in range(8))
    found = prepare(write(folder, rows), folder / "out", options(root=folder / "images", val_fraction=0.25))
    assert (found["train"].count, found["val"].count) == (6, 2)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("", "is empty"),
        ("path,label\n", "lists no training images"),
        ("a,b\nimages/0.png,x\n", "does not name the columns path and label: pass --path-column"),
        ("path,file,label\n", "has the columns path and file"),
        ("path,label\nimages/0.png\n", "line 2: 1 columns instead of 2"),
        ("path,label\nimages/0.png,\n", "line 2: the path or the label is empty"),
        ("path,label\nimages/0.png,a\nimages/0.png,b\n", "lists images/0.png with two labels, a and b"),
        ("path,label\nimages/0.png,a\nimages/0.png,a\n", "lists images/0.png twice"),
        ("path,label,split\nimages/0.png,a,trian\n", "line 2: the split 'trian' is not train, val or test"),
        (
            "path,label,split\nimages/0.png,a,train\nimages/1.png,a,\n",
            "images/1.png has no split, but images/0.png has",
        ),
        ("path,label,split\nimages/0.png,a,train\n", "lists no validation images"),
        ("path,label,split\nimages/0.png,a,train\nimages/1.png,b,val\n", "no training images: 'b'"),
        (
            f"path,label\nimages/0.png,{'1' * 5000}\nimages/1.png,2\n",
            r"the label 1{20}\.\.\. has 5,000 digits: use at most",
        ),
        ("path,label\nimages/0.png,a\nimages/1.png,b\n", "has no validation images: pass --val-fraction 0.1"),
    ],
)
def test_csv_mistake_is_named(folder: Path, text: str, answer: str) -> None:
    with pytest.raises(UserError, match=answer):
        prepare(write(folder, text), folder / "out", options())
    assert not (folder / "out").exists()


def test_csv_missing_image_is_named(folder: Path) -> None:
    rows = "path,label\nimages/none.png,a\nimages/1.png,a\n"
    with pytest.raises(UserError, match=r"'images/none.png'\) cannot be"):
        prepare(write(folder, rows), folder / "out", options(val_fraction=0.5))
    with pytest.raises(UserError, match="cannot be read as CSV"):
        prepare(folder / "none.csv", folder / "out", options())
