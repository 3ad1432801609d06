"""ImageNet's official files in miniature: the same file comes out as from the class folders that they unpack to."""

import gzip
import io
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tests.data.sources.miniatures import AS_IT_IS, changed_by_replacing, contents, jpeg
from trainer.data.beton.prepare import prepare_folder
from trainer.data.sources import imagenet
from trainer.data.sources.imagenet import DEVKIT, KAGGLE, META, SOLUTION, SYNSETS, TRAIN, TRUTH, VAL, prepare
from trainer.errors import UserError

WNIDS = ["n01440764", "n01443537", "n02119789"]
IDS = {1: "n02119789", 2: "n01440764", 3: "n01443537"}  # the development kit numbers the classes in an order of its own
VALIDATION = [2, 1, 3, 3, 1, 2, 2]  # the kit's number of each validation image


def tar_of(files: dict[str, bytes], mode: str = "w") -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode=mode) as tar:  # type: ignore[call-overload]
        for name, stored in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(stored)
            tar.addfile(member, io.BytesIO(stored))
    return content.getvalue()


def metadata() -> bytes:
    """As meta.mat of the kit: inner nodes of WordNet's tree besides the classes."""
    from scipy.io import savemat

    kinds = [("ILSVRC2012_ID", "i4"), ("WNID", "O"), ("words", "O"), ("num_children", "i4")]
    rows = [(number, wnid, "fish, fishes", 0) for number, wnid in IDS.items()] + [(4, "n00001740", "entity", 3)]
    content = io.BytesIO()
    savemat(content, {"synsets": np.array(rows, kinds).reshape(-1, 1)})
    return content.getvalue()


def train_images() -> dict[str, dict[str, bytes]]:
    return {
        wnid: {f"{wnid}_{9 - number}.JPEG": jpeg(10 * place + number) for number in range(3)}
        for place, wnid in enumerate(WNIDS)
    }


def val_images() -> dict[str, bytes]:
    return {f"ILSVRC2012_val_{number:08}.JPEG": jpeg(100 + number) for number in range(1, len(VALIDATION) + 1)}


@pytest.fixture
def downloads(tmp_path: Path) -> Path:
    """The three files; the classes lie in the tar in an order of their own, as do the validation images."""
    src = tmp_path / "downloads"
    src.mkdir()
    tars = {f"{wnid}.tar": tar_of(images) for wnid, images in reversed(train_images().items())}
    (src / TRAIN).write_bytes(tar_of(tars))
    (src / VAL).write_bytes(tar_of(dict(reversed(val_images().items()))))
    truth = "".join(f"{number}\n" for number in VALIDATION).encode()
    kit = {f"{DEVKIT}/data/{META}": metadata(), f"{DEVKIT}/data/{TRUTH}": truth, f"{DEVKIT}/readme.txt": b""}
    (src / f"{DEVKIT}.tar.gz").write_bytes(tar_of(kit, "w:gz"))
    return src


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """The same photographs in class folders."""
    src = tmp_path / "folders"
    for wnid, images in train_images().items():
        for name, stored in images.items():
            put(src / "train" / wnid / name, stored)
    for (name, stored), number in zip(val_images().items(), VALIDATION, strict=True):
        put(src / "val" / IDS[number] / name, stored)
    return src


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def assert_same(ours: Path, theirs: Path) -> None:
    for split in ("train", "val"):
        labels, images = contents(ours / f"{split}.beton")
        expected_labels, expected = contents(theirs / f"{split}.beton")
        assert labels == expected_labels
        assert all(np.array_equal(one, other) for one, other in zip(images, expected, strict=True))


def test_imagenet_downloads_give_what_their_class_folders_give(
    downloads: Path, folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.rglob("*"))
    manifests = prepare(downloads, tmp_path / "ours", AS_IT_IS)
    prepare_folder(folders, tmp_path / "theirs", AS_IT_IS)
    assert_same(tmp_path / "ours", tmp_path / "theirs")
    for manifest, count in ((manifests["train"], 9), (manifests["val"], len(VALIDATION))):
        assert manifest.classes == WNIDS and manifest.count == count and manifest.source.kind == "imagenet"
    written = [path for path in tmp_path.rglob("*") if path.suffix != ".beton" and path not in before]
    assert not [path for path in written if path.suffix == ".JPEG"], "nothing is unpacked"
    assert f"index of {TRAIN}: 3 of 3 classes" in capsys.readouterr().out


def test_imagenet_flat_validation_folder_is_labelled_by_the_development_kit(
    downloads: Path, folders: Path, tmp_path: Path
) -> None:
    (downloads / VAL).unlink()
    for name, stored in val_images().items():
        put(downloads / "val" / name, stored)
    with tarfile.open(downloads / f"{DEVKIT}.tar.gz") as kit:
        kit.extractall(downloads, filter="data")
    (downloads / f"{DEVKIT}.tar.gz").unlink()
    prepare(downloads, tmp_path / "ours", AS_IT_IS)
    prepare_folder(folders, tmp_path / "theirs", AS_IT_IS)
    assert_same(tmp_path / "ours", tmp_path / "theirs")


def test_imagenet_list_of_wnids_stands_in_for_the_development_kit(
    downloads: Path, folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "scipy.io", None)
    with pytest.raises(UserError, match=f"pip install scipy, or put {SYNSETS} into"):
        prepare(downloads, tmp_path / "ours", AS_IT_IS)
    (downloads / SYNSETS).write_text("".join(f"{IDS[number]}\n" for number in VALIDATION))
    prepare(downloads, tmp_path / "ours", AS_IT_IS)
    prepare_folder(folders, tmp_path / "theirs", AS_IT_IS)
    assert_same(tmp_path / "ours", tmp_path / "theirs")


@pytest.mark.parametrize(("name", "of_split"), [(TRAIN, "train"), (VAL, "val")])
def test_imagenet_tar_that_is_replaced_changes_the_stamps_of_its_images(
    downloads: Path, tmp_path: Path, name: str, of_split: str
) -> None:
    found = changed_by_replacing(downloads / name, lambda: prepare(downloads, tmp_path / "out", AS_IT_IS))
    assert found == {split: [split == of_split] * count for split, count in (("train", 9), ("val", len(VALIDATION)))}


@pytest.mark.slow
def test_imagenet_class_folders_need_no_development_kit(folders: Path, tmp_path: Path) -> None:
    prepare(folders, tmp_path / "ours", AS_IT_IS)
    prepare_folder(folders, tmp_path / "theirs", AS_IT_IS)
    assert_same(tmp_path / "ours", tmp_path / "theirs")


@pytest.mark.slow
def test_imagenet_copy_of_kaggle_is_labelled_by_its_table(folders: Path, tmp_path: Path) -> None:
    src = tmp_path / "kaggle"
    shutil.copytree(folders / "train", src / KAGGLE / "train")
    for name, stored in val_images().items():
        put(src / KAGGLE / "val" / name, stored)
    with pytest.raises(UserError, match=f"lacks {DEVKIT}.tar.gz"):
        prepare(src, tmp_path / "ours", AS_IT_IS)
    rows = [
        f"{Path(name).stem},{IDS[kind]} 85 1 499 272 \n" for name, kind in zip(val_images(), VALIDATION, strict=True)
    ]
    for wrong in (rows[1:], ["ILSVRC2012_val_00000001,tench\n"], ["\0"]):
        (src / SOLUTION).write_text("ImageId,PredictionString\n" + "".join(wrong))
        with pytest.raises(UserError, match=f"{SOLUTION} (has 6 images|is not Kaggle's table).*download it again"):
            prepare(src, tmp_path / "ours", AS_IT_IS)
    (src / SOLUTION).write_text("ImageId,PredictionString\n" + "".join(reversed(rows)))
    prepare(src, tmp_path / "ours", AS_IT_IS)
    prepare_folder(folders, tmp_path / "theirs", AS_IT_IS)
    assert_same(tmp_path / "ours", tmp_path / "theirs")


def test_imagenet_all_that_is_missing_is_named_with_where_it_comes_from(downloads: Path, tmp_path: Path) -> None:
    for name in (TRAIN, f"{DEVKIT}.tar.gz"):
        (downloads / name).rename(tmp_path / name)
    with pytest.raises(UserError, match=rf"lacks {TRAIN} .*, {DEVKIT}.tar.gz .*: download from image-net\.org"):
        prepare(downloads, tmp_path / "out", AS_IT_IS)
    with pytest.raises(UserError, match=f"lacks {TRAIN} .*, {VAL}"):
        prepare(tmp_path / "nowhere", tmp_path / "out", AS_IT_IS)


def test_imagenet_incomplete_download_is_named(downloads: Path, tmp_path: Path) -> None:
    def says(text: str) -> None:
        with pytest.raises(UserError, match=text):
            prepare(downloads, tmp_path / "out", AS_IT_IS)
        assert not (tmp_path / "out").exists()

    train, val = (downloads / TRAIN).read_bytes(), (downloads / VAL).read_bytes()
    (downloads / TRAIN).write_bytes(train[: len(train) // 2])
    says(f"{TRAIN} is (truncated|not a whole tar file).*download it again")
    (downloads / TRAIN).write_bytes(b"<html>please log in</html>" * 100)
    says(f"{TRAIN} is not a whole tar file")
    (downloads / TRAIN).write_bytes(tar_of(train_images()[WNIDS[0]]))
    says("and not one tar file for each class")
    (downloads / TRAIN).write_bytes(tar_of({f"{wnid}.tar": tar_of(train_images()[wnid]) for wnid in WNIDS[:2]}))
    says("1 class with validation images and no training images, such as n02119789")
    tars = {f"{wnid}.tar": tar_of(train_images()[wnid]) for wnid in WNIDS}
    whole = tars[f"{WNIDS[1]}.tar"]
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        second = tar.getmembers()[1].offset
    tars[f"{WNIDS[1]}.tar"] = whole[:second] + b"?" + whole[second + 1 :]
    (downloads / TRAIN).write_bytes(tar_of(tars))
    says(f"{TRAIN}, {WNIDS[1]}.tar is damaged, .* at byte {second:,} .*download it again")
    (downloads / TRAIN).write_bytes(train)
    (downloads / VAL).write_bytes(tar_of(dict(list(val_images().items())[1:])))
    says(f"{VAL} holds 6 files, and not the 7 images ILSVRC2012_val_00000001.JPEG to 00000007")
    (downloads / VAL).write_bytes(val[: len(val) // 2 + 100])
    says(f"{VAL} (is truncated|is not a whole tar file|holds)")
    (downloads / VAL).write_bytes(val)
    kit = {f"{DEVKIT}/data/{META}": b"MATLAB 5.0", f"{DEVKIT}/data/{TRUTH}": b"1\n"}
    (downloads / f"{DEVKIT}.tar.gz").write_bytes(tar_of(kit, "w:gz"))
    says(f"{META} and {TRUTH} do not fit together")
    (downloads / f"{DEVKIT}.tar.gz").write_bytes(tar_of({"readme.txt": b""}, "w:gz"))
    says(f"has no {META}")


def test_imagenet_list_of_wnids_that_is_no_text_is_named(downloads: Path, tmp_path: Path) -> None:
    (downloads / SYNSETS).write_bytes(b"n01440764\n\xff\xfe\n")
    with pytest.raises(UserError, match=f"{SYNSETS} holds .*, and not one WNID per line"):
        prepare(downloads, tmp_path / "out", AS_IT_IS)


def test_imagenet_development_kit_is_read_to_its_checksum(downloads: Path, tmp_path: Path) -> None:
    """A wrong digit of the labels, where the compressed stream itself is sound: gzip's blocks may be stored as is."""
    path = downloads / f"{DEVKIT}.tar.gz"
    stored = gzip.compress(gzip.decompress(path.read_bytes()), compresslevel=0)
    truth = "".join(f"{number}\n" for number in VALIDATION).encode()
    assert stored.count(truth) == 1
    path.write_bytes(stored.replace(truth, b"1" + truth[1:]))
    with pytest.raises(UserError, match=f"{path.name} cannot be read .*CRC check failed.*: download it again"):
        prepare(downloads, tmp_path / "out", AS_IT_IS)


def test_imagenet_damage_anywhere_in_the_development_kit_is_named(downloads: Path) -> None:
    path = downloads / f"{DEVKIT}.tar.gz"
    large = np.random.default_rng(0).integers(97, 110, 100_000, np.uint8).tobytes()  # more than is read at once
    whole = tar_of({f"{DEVKIT}/data/{META}": large, f"{DEVKIT}/data/{TRUTH}": b"1\n"}, "w:gz")
    path.write_bytes(whole)
    assert imagenet._of_devkit(downloads, META) == large and imagenet._of_devkit(downloads, TRUTH) == b"1\n"
    damaged = range(10, len(whole), 401)  # after gzip's header (RFC 1952)
    for place in damaged:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        with pytest.raises(UserError, match=f"{path.name} .*download it again"):
            imagenet._of_devkit(downloads, META)
    assert len(damaged) > 100


def test_imagenet_is_not_written_among_its_class_folders(folders: Path) -> None:
    for split in ("train", "val"):
        with pytest.raises(UserError, match=f"is inside .*{split}, whose folders are classes"):
            prepare(folders, folders / split / "data", AS_IT_IS)
        assert not (folders / split / "data").exists()
