"""WebDataset shards as .beton files; the files that patterns stand for."""

import subprocess
from pathlib import Path

import pytest

from tests.data.sources.miniatures import RAW, assert_holds, changed_by_replacing, pixels, png
from tests.data.test_webdataset import write_shard
from trainer.data.sources.files import _braces, expand, split_files
from trainer.data.sources.options import FilesOptions
from trainer.data.sources.webdataset import prepare
from trainer.errors import UserError


def options(**changes: object) -> FilesOptions:
    return FilesOptions(**{**RAW, **changes})  # type: ignore[arg-type]


def shard(path: Path, numbers: range) -> Path:
    """Samples NNN.png, NNN.cls and a file of metadata; the class is the number modulo 3."""
    files = [(f"{number:03}", number) for number in numbers]
    return write_shard(
        path,
        [
            part
            for key, number in files
            for part in ((f"{key}.png", png(number)), (f"{key}.cls", b"%d" % (number % 3)), (f"{key}.json", b"{}"))
        ],
    )


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    folder = tmp_path / "shards"
    for name, numbers in (("train-000", range(4)), ("train-001", range(4, 9)), ("val-000", range(9, 13))):
        shard(folder / f"{name}.tar", numbers)
    (folder / "classes.txt").write_text("cat\ndog\nemu\n")
    return folder


@pytest.mark.parametrize(
    "given",
    [
        (["train-{000..001}.tar"], ["val-000.tar"]),
        (["train-00?.tar"], ["val-*.tar"]),
        (["*.tar"], []),
        (["{train-000,train-001,val-000}.tar"], []),
        (["."], []),
    ],
)
def test_webdataset_shards_are_written_in_their_order(shards: Path, tmp_path: Path, given: tuple) -> None:
    patterns, val = ([f"{shards}/{pattern}" for pattern in patterns] for patterns in given)
    manifests = prepare(patterns, tmp_path / "out", options(val=tuple(val), workers=2))
    assert manifests["train"].classes == ["cat", "dog", "emu"] and manifests["val"].source.kind == "webdataset"
    assert_holds(tmp_path / "out" / "train.beton", [(number % 3, pixels(number)) for number in range(9)])
    assert_holds(tmp_path / "out" / "val.beton", [(number % 3, pixels(number)) for number in range(9, 13)])


def test_webdataset_shards_without_validation_images_hold_some_out(shards: Path, tmp_path: Path) -> None:
    patterns = [f"{shards}/train-{{000..001}}.tar"]
    with pytest.raises(UserError, match="shards has no validation images: pass --val-fraction"):
        prepare(patterns, tmp_path / "out", options())
    assert prepare(patterns, tmp_path / "out", options(val_fraction=0.34))["val"].class_counts == [1, 1, 1]


def test_webdataset_bad_image_is_named_or_skipped(shards: Path, tmp_path: Path) -> None:
    write_shard(shards / "val-000.tar", [("a.png", b"no image"), ("a.cls", b"0"), ("b.png", png(9)), ("b.cls", b"1")])
    with pytest.raises(UserError, match=r"'val-000.tar: a.png'\) cannot be stored"):
        prepare([str(shards)], tmp_path / "out", options())
    manifest = prepare([str(shards)], tmp_path / "out", options(skip_bad=True))["val"]
    assert manifest.skipped == ["val-000.tar: a.png"] and manifest.count == 1
    assert_holds(tmp_path / "out" / "val.beton", [(1, pixels(9))])


def test_webdataset_shard_that_is_replaced_changes_the_stamps_of_its_images(shards: Path, tmp_path: Path) -> None:
    replaced = shards / "train-001.tar"
    found = changed_by_replacing(replaced, lambda: prepare([str(shards)], tmp_path / "out", options()))
    assert found == {"train": [False] * 4 + [True] * 5, "val": [False] * 4}


def test_webdataset_what_is_no_shard_is_named(shards: Path, tmp_path: Path) -> None:
    (shards / "train-001.tar").write_bytes(b"no tar" * 1000)
    with pytest.raises(UserError, match=r"train-001\.tar is not an uncompressed tar file"):
        prepare([str(shards)], tmp_path / "out", options())
    with pytest.raises(UserError, match=r"train-002\.tar: there is no such file"):
        prepare([f"{shards}/train-{{000..002}}.tar"], tmp_path / "out", options())


def test_files_patterns_are_expanded_as_bash_does(tmp_path: Path) -> None:
    for name in ("a-08", "a-09", "a-10", "b-7", "b-8", "b-11", ".c"):
        (tmp_path / f"{name}.tar").write_bytes(b"")

    def names(*patterns: str) -> list[str]:
        return [path.stem for path in expand([f"{tmp_path}/{pattern}" for pattern in patterns], ".tar")]

    assert names("a-{08..10}.tar") == ["a-08", "a-09", "a-10"]
    assert names("b-{7..8}.tar") == ["b-7", "b-8"]
    assert names("{b-11,a-08}.tar", "a-{09,10}.tar") == ["b-11", "a-08", "a-09", "a-10"]
    assert names("b-*.tar") == ["b-11", "b-7", "b-8"]
    assert names("") == ["a-08", "a-09", "a-10", "b-11", "b-7", "b-8"]
    for pattern, answer in (
        ("c-*.tar", "no such file"),
        ("b-{7..9}.tar", "b-9.tar: there is no such file"),
        ("b-{9..7}.tar", "b-9.tar: there is no such file"),
        ("b-{1..999999999999999999}.tar", "b-1.tar: there is no such file"),
        (f"{{{'1' * 19}..2}}", "no such file"),
    ):
        with pytest.raises(UserError, match=answer):
            names("a-08.tar", pattern)
    with pytest.raises(UserError, match=r"a-08\.tar is given twice"):
        names("a-08.tar", "a-*.tar")


@pytest.mark.parametrize(
    "pattern",
    ["{3..1}", "{7..11}", "{5..5}", "{0..10}", "{01..100}", "{1..010}", "{010..8}", "{b,a}-{2..1}", "{1}-{a"],
)
def test_files_braces_are_what_bash_makes_of_them(pattern: str) -> None:
    said = subprocess.run(["bash", "-c", f"printf '%s\\n' {pattern}"], capture_output=True, text=True, check=True)
    assert list(_braces(pattern)) == said.stdout.splitlines()


@pytest.mark.parametrize(
    ("names", "train", "val"),
    [
        (["train-0", "validation-0"], ["train-0"], ["validation-0"]),
        (["imagenet1k-train-0", "imagenet1k-val-0", "imagenet1k-test-0"], ["imagenet1k-train-0"], ["imagenet1k-val-0"]),
        (["train/0", "val/0"], ["train/0"], ["val/0"]),
        (["trainer-0", "values-1"], ["trainer-0", "values-1"], None),
        (["train-0", "test-0"], ["train-0"], None),
    ],
)
def test_files_splits_are_told_apart_by_names(
    tmp_path: Path, names: list[str], train: list[str], val: list[str] | None
) -> None:
    root = tmp_path / "neutral"  # pytest's own folders are called after the test
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / f"{name}.tar").write_bytes(b"")
    found = split_files([f"{root}/{name}.tar" for name in names], ".tar", options())
    expected = [None if part is None else tuple(root / f"{name}.tar" for name in part) for part in (train, val)]
    assert list(found) == expected


def test_files_of_which_only_some_name_their_split_are_refused(tmp_path: Path) -> None:
    for name in ("train-0", "other"):
        (tmp_path / f"{name}.tar").write_bytes(b"")
    with pytest.raises(UserError, match=r"other\.tar does not: pass --val"):
        split_files([f"{tmp_path}/train-0.tar", f"{tmp_path}/other.tar"], ".tar", options())
    with pytest.raises(UserError, match="is given for training and with --val"):
        split_files([f"{tmp_path}/other.tar"], ".tar", options(val=(f"{tmp_path}/other.tar",)))
    with pytest.raises(UserError, match="give one of them"):
        options(val=("a.tar",), val_fraction=0.1)
