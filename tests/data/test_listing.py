"""Which images class folders hold, and with which labels: every command lists them by one function."""

import errno
import os
import unicodedata
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import ImageFolder

from tests.support.odd_images import CLASSES, class_folders, picture
from tests.support.small_recipe import recipe as small
from trainer.data.beton.prepare import PrepareOptions, prepare_folder
from trainer.data.formats import find_split, open_dataset, open_source
from trainer.data.listing import class_order_of, list_class_folders, list_images, require_same_classes
from trainer.distributed import process_group
from trainer.errors import SharedError, UserError
from trainer.settings import TrainSettings
from trainer.setup.loaders import open_loaders


def test_listing_is_what_torchvisions_image_folder_sees(tmp_path: Path) -> None:
    folder = class_folders(tmp_path) / "train"
    (folder / "a" / "inner").mkdir()
    picture(0, 9).save(folder / "a" / "inner" / "9.png")
    oracle = ImageFolder(str(folder))
    found = list_class_folders(folder)
    assert found.classes == oracle.classes and found.labels.tolist() == oracle.targets
    assert [str(folder / file) for file in found.files] == [path for path, _ in oracle.samples]
    assert found.notes == ()


@pytest.mark.parametrize("target", ["..", "../..", "../a", "../b"])
def test_listing_walks_a_folder_once_whatever_links_lead_to_it(tmp_path: Path, target: str) -> None:
    folder = class_folders(tmp_path) / "train"
    os.symlink(target, folder / "a" / "loop")
    found = list_class_folders(folder)
    assert found.counts() == dict.fromkeys(CLASSES, 4)
    assert found.notes == (f"{folder}: ignored 1 link to a folder that is listed already, 'a/loop'",)


def test_listing_follows_a_link_to_a_folder_elsewhere(tmp_path: Path) -> None:
    folder = class_folders(tmp_path) / "train"
    (folder / "a").rename(tmp_path / "store")
    os.symlink(tmp_path / "store", folder / "a")
    assert list_class_folders(folder).counts() == dict.fromkeys(CLASSES, 4)


def test_listing_refuses_two_classes_that_are_one_folder(tmp_path: Path) -> None:
    folder = class_folders(tmp_path) / "train"
    os.symlink("a", folder / "d")
    with pytest.raises(UserError, match="d and a are one folder, by a link: remove the link"):
        list_class_folders(folder)
    (folder / "d").unlink()
    assert list_class_folders(folder).classes == list(CLASSES)


def test_listing_skips_what_systems_leave_and_counts_it_in_one_line(tmp_path: Path) -> None:
    folder = class_folders(tmp_path) / "train"
    (folder / "a" / "._000.png").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        ")
    (folder / "a" / ".DS_Store").write_bytes(b"")
    for name in (".ipynb_checkpoints", "__MACOSX", "@eaDir"):
        (folder / name).mkdir()
        picture(0, 0).save(folder / name / "0.png")
    found = list_class_folders(folder)
    assert found.counts() == dict.fromkeys(CLASSES, 4)
    assert found.notes == (f"{folder}: ignored 5 hidden or system files and folders, such as '.ipynb_checkpoints'",)


def test_classes_of_both_splits_are_compared_in_linear_time() -> None:
    """ImageNet-21k has 21,841 of them."""
    hashed = 0

    class Name(str):
        def __hash__(self) -> int:
            nonlocal hashed
            hashed += 1
            return super().__hash__()

    names = [Name(number) for number in range(100)]
    require_same_classes("data", names, names)
    assert 0 < hashed <= 4 * len(names)


def test_list_images_finds_those_of_the_class_folders_and_says_what_it_skips(tmp_path: Path) -> None:
    folder = class_folders(tmp_path / "photos") / "train"
    class_folders(tmp_path / "store", ("x",))
    for name in (".cache", "folder.jpg", "empty"):
        (folder / "a" / name).mkdir()
    for name in ("a/._000.png", "a/.cache/0.png", "a/folder.jpg/0.jpg", "b/text.txt", ".verified"):
        (folder / name).write_bytes(b"")
    os.symlink(tmp_path / "store", folder / "a" / "linked")
    os.symlink("..", folder / "a" / "loop")
    listed = list_class_folders(folder)
    found, notes = list_images(folder)
    assert found == [folder / file for file in listed.files] and len(found) == 12 + 1 + 6
    assert notes == listed.notes and len(notes) == 3
    assert list_images(folder / "a" / "empty") == ([], ())


def test_list_images_has_a_folder_that_cannot_be_read_in_place_of_its_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = class_folders(tmp_path) / "train"
    scandir, locked = os.scandir, folder / "b"

    def denied(path: Path) -> object:
        if path == locked:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    expected = [file for file in list_images(folder)[0] if locked not in file.parents]
    monkeypatch.setattr(os, "scandir", denied)
    found, _ = list_images(folder)
    assert [path for path in found if path != locked] == expected and len(found) == 8 + 1
    with pytest.raises(UserError, match="b cannot be read: Permission denied"):
        list_class_folders(folder)


def test_classes_that_differ_only_in_unicode_composition_are_equal(tmp_path: Path) -> None:
    """Decomposed in train, as macOS writes it, and composed in val; and both in one split."""
    decomposed, composed = (unicodedata.normalize(form, "café") for form in ("NFD", "NFC"))
    class_folders(tmp_path, (composed, "b"))
    (tmp_path / "train" / composed).rename(tmp_path / "train" / decomposed)
    sources = [open_source(str(tmp_path), split, num_classes=2, resolution=32) for split in ("train", "val")]  # type: ignore[arg-type]
    assert sources[0].classes == sources[1].classes == ["b", composed]
    (tmp_path / "train" / composed).mkdir()
    picture(0, 77).save(tmp_path / "train" / composed / "77.png")
    assert list_class_folders(tmp_path / "train").counts() == {"b": 4, composed: 5}


def test_class_order_is_that_of_text_and_said_or_that_of_numbers(tmp_path: Path) -> None:
    class_folders(tmp_path, tuple(str(number) for number in range(12)), train=1, val=1)
    text = open_source(str(tmp_path), "train", num_classes=12, resolution=32)
    assert text.classes[:4] == ["0", "1", "10", "11"]
    assert any("order of text: 0, 1, 10, 11, 2" in note and "--class-order numeric" in note for note in text.notes)
    numeric = open_source(str(tmp_path), "train", num_classes=12, resolution=32, class_order="numeric")
    assert numeric.classes == [str(number) for number in range(12)] and numeric.notes == ()
    assert np.array_equal(numeric.labels, np.arange(12))
    for known in (text.classes, numeric.classes):  # evaluate finds the order of the weights by itself
        assert open_dataset(str(tmp_path), "val", num_classes=1, resolution=1, like=known).classes == known
    assert class_order_of(numeric.classes) == "numeric" and class_order_of(text.classes) == "text"
    assert class_order_of(["0", "1", "2"]) == class_order_of(["cat", "dog"]) == "text"


def test_splits_that_were_prepared_in_different_class_orders_are_refused(tmp_path: Path) -> None:
    class_folders(tmp_path / "src", tuple(str(number) for number in range(11)), train=1, val=1)
    for order in ("text", "numeric"):
        options = PrepareOptions(write_mode="raw", workers=1, class_order=order)  # type: ignore[arg-type]
        prepare_folder(tmp_path / "src", tmp_path / order, options)
    for path in (tmp_path / "numeric").glob("val*"):
        path.replace(tmp_path / "text" / path.name)
    settings = TrainSettings(data=str(tmp_path / "text"), run_dir=tmp_path / "run", workers=1)
    with (
        process_group.initialize("cpu", timeout_minutes=15) as world,
        ExitStack() as stack,
        pytest.raises(SharedError, match="train and val have their classes in different orders: prepare them together"),
    ):
        open_loaders(replace(small, num_classes=11), settings, world, stack)


def test_class_order_numeric_needs_numbers(tmp_path: Path) -> None:
    class_folders(tmp_path)
    with pytest.raises(UserError, match="class 'a', which is not a number: use text"):
        list_class_folders(tmp_path / "train", "numeric")
    list_class_folders(tmp_path / "train", "text")


@pytest.mark.parametrize("name", ["val", "validation", "valid"])
def test_validation_is_never_the_test_folder_beside_it(tmp_path: Path, name: str) -> None:
    """Roboflow writes train/ valid/ test/."""
    class_folders(tmp_path)
    (tmp_path / "val").rename(tmp_path / name)
    class_folders(tmp_path / "more", train=1, val=1)
    (tmp_path / "more" / "val").rename(tmp_path / "test")
    source = open_source(str(tmp_path), "val", num_classes=3, resolution=32)
    assert source.name.endswith(f", {name}") and len(source.labels) == 6 and source.notes == ()


def test_validation_by_the_test_folder_alone_is_said(tmp_path: Path) -> None:
    class_folders(tmp_path)
    (tmp_path / "val").rename(tmp_path / "test")
    source = open_source(str(tmp_path), "val", num_classes=3, resolution=32)
    assert source.name.endswith(", test")
    assert any("the images of test are used for validation" in note for note in source.notes)


def test_validation_folder_is_preferred_to_shards_of_the_test_split(tmp_path: Path) -> None:
    class_folders(tmp_path)
    (tmp_path / "my-test-000.tar").write_bytes(b"")
    assert open_source(str(tmp_path), "val", num_classes=3, resolution=32).name.endswith(", val")


def test_two_validation_folders_are_the_users_choice(tmp_path: Path) -> None:
    class_folders(tmp_path)
    class_folders(tmp_path / "more")
    (tmp_path / "more" / "val").rename(tmp_path / "valid")
    with pytest.raises(UserError, match=r"has val and valid: which are the val images\? Rename or move the other"):
        find_split(str(tmp_path), "val")
    (tmp_path / "valid").rename(tmp_path / "unused")
    assert find_split(str(tmp_path), "val")


def test_one_validation_folder_with_two_names_by_a_link_is_no_choice(tmp_path: Path) -> None:
    class_folders(tmp_path)
    os.symlink("val", tmp_path / "valid")
    assert find_split(str(tmp_path), "val")
