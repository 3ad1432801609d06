"""WebDataset shards give the labels, sizes and crops of the class folders they were made from; what is not one is
refused with its name."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.processes import weights
from trainer.__main__ import main
from trainer.data.contents import Stored
from trainer.data.crop import eval_view, train_view
from trainer.data.formats import Beton, ClassFolders, WebDataset, find_dataset, find_split, open_dataset, open_source
from trainer.data.image_folder import ImageFolderSource
from trainer.data.loader import Loader
from trainer.data.webdataset import WebDatasetSource
from trainer.errors import LocalError, UserError
from trainer.recipe import CenterCrop, RandomResizedCrop, ScaleJitterCrop

File = tuple[str, bytes]


def write_shard(path: Path, files: list[File], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture(scope="module")
def shards(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photographs in their folders' order, 20 in a shard, with a file of metadata for each."""
    folder = tmp_path_factory.mktemp("shards")
    for split in ("train", "val"):
        source = ImageFolderSource(photos / split)
        samples: list[list[File]] = []
        for image, label in enumerate(source.labels):
            content = Path(source.where(image)).read_bytes()
            key = f"{split}/{image:05}"
            samples.append([(f"{key}.cls", b"%d" % label), (f"{key}.json", b"{}"), (f"{key}.jpg", content)])
        for start in range(0, len(samples), 20):
            files = [file for sample in samples[start : start + 20] for file in sample]
            write_shard(folder / f"photos-{split}-{start // 20:04}.tar", files)
    return folder


def jpeg(size: tuple[int, int] = (9, 7)) -> bytes:
    content = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(noise).save(content, "JPEG")
    return content.getvalue()


@pytest.mark.parametrize("split", ["train", "val"])
def test_webdataset_has_the_images_and_labels_of_the_class_folders(photos: Path, shards: Path, split: str) -> None:
    ours, theirs = open_source(str(shards), split, num_classes=4, resolution=48), ImageFolderSource(photos / split)  # type: ignore[arg-type]
    assert isinstance(ours, WebDatasetSource)
    assert len(ours.labels) == {"train": 64, "val": 24}[split]
    assert np.array_equal(ours.labels, theirs.labels)
    images = np.random.default_rng(0).permutation(len(ours.labels))
    assert np.array_equal(np.stack(ours.sizes(images)), np.stack(theirs.sizes(images)))
    for view in (
        train_view(RandomResizedCrop(resolution=48), True, 0, 0),
        train_view(RandomResizedCrop(resolution=16, scaled_decoding=True), True, 0, 1),
        train_view(ScaleJitterCrop(resolution=32, short_side=(32, 64)), True, 1, 0),
        eval_view(CenterCrop(resolution=40, crop_ratio=0.9)),
    ):
        with Loader(ours, workers=2) as one, Loader(theirs, workers=1) as other:
            for mine, its in zip(one.batches([images], view, 48), other.batches([images], view, 48), strict=True):
                assert all((a == b).all() for a, b in zip(mine, its, strict=True))


def test_webdataset_contents_count_images_and_bytes_by_encoding(photos: Path, shards: Path) -> None:
    source = open_source(str(shards), "train", num_classes=4, resolution=48)
    found = source.contents(10)
    assert (found.count, found.classes, found.file_bytes) == (64, 4, None)
    assert found.heights is not None and len(found.heights) == 10
    written = sum(path.stat().st_size for path in (photos / "train").rglob("*.jpg"))
    assert found.stored == (Stored("jpg", 64, written),)


def test_webdataset_checksum_depends_on_bytes_and_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on those of the last image, which another thread reads than the first."""
    monkeypatch.setattr("trainer.data.content.CHUNK", 4)
    before = [file for key in "0123" for file in ((f"{key}.jpg", jpeg()), (f"{key}.cls", b"0"))]
    one = [("4.jpg", jpeg()), ("4.cls", b"0")]
    changed = [
        [("4.jpg", jpeg()[:-1] + b"0"), ("4.cls", b"0")],
        [("4.jpg", jpeg()), ("4.cls", b"1")],
        [("4.jpg", jpeg((90, 9))), one[1]],
    ]
    checksums = {
        WebDatasetSource((write_shard(tmp_path / f"{n}" / "a.tar", before + files),)).checksum
        for n, files in enumerate([one, *changed])
    }
    assert len(checksums) == 4
    assert WebDatasetSource((write_shard(tmp_path / "again" / "a.tar", before + one),)).checksum in checksums


def test_webdataset_refuses_a_shard_that_a_link_names_again(tmp_path: Path) -> None:
    write_shard(tmp_path / "train-0.tar", [("0.jpg", jpeg()), ("0.cls", b"0")])
    (tmp_path / "train-1.tar").symlink_to("train-0.tar")
    with pytest.raises(UserError, match=r"train-1\.tar and .*train-0\.tar are one file, by a link: remove the link"):
        open_source(str(tmp_path), "train", num_classes=1, resolution=8)


def test_webdataset_classes_are_named_by_a_file_beside_the_shards(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "a.tar", [("0.jpg", jpeg()), ("0.cls", b" 1\n")])
    assert WebDatasetSource((shard,)).classes == ["0", "1"]
    (tmp_path / "classes.txt").write_text("cat\ndog\nfox\n")
    assert WebDatasetSource((shard,)).classes == ["cat", "dog", "fox"]
    (tmp_path / "classes.txt").write_bytes(b"\xef\xbb\xbfcat\r\n dog\r\n\r\n")  # as an editor of Windows writes it
    assert WebDatasetSource((shard,)).classes == ["cat", "dog"]
    (tmp_path / "classes.txt").write_text("cat\n")
    with pytest.raises(UserError, match=r"classes\.txt names 1 class, but labels go up to 1"):
        WebDatasetSource((shard,))


@pytest.mark.parametrize(("text", "line"), [("cat\n\ndog\n", 2), ("\ncat\ndog\n", 1), ("cat\ndog\n \n\nfox", 3)])
def test_webdataset_classes_have_no_gaps(tmp_path: Path, text: str, line: int) -> None:
    """A gap that was left out would give the later labels the names of others."""
    shard = write_shard(tmp_path / "a.tar", [("0.jpg", jpeg()), ("0.cls", b"1")])
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(UserError, match=rf"classes\.txt is empty in line {line}: write one name per line"):
        WebDatasetSource((shard,))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-12_000])


SMALL = [file for key in "345" for file in ((f"{key}.jpg", b"image"), (f"{key}.cls", b"0"))]  # 1,024 bytes a file


def change_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[2048] ^= 1  # of the header of 4.jpg
    path.write_bytes(content)


REFUSED: dict[str, tuple[list[File], str, Callable[[Path], object] | None, str]] = {
    "no label": ([("7.jpg", jpeg())], "w", None, r"sample 7 has 1 image and 0 \.cls files: write one of each"),
    "no image": ([("7.cls", b"0")], "w", None, r"sample 7 has 0 images and 1 \.cls file: write"),
    "two images": ([("7.jpg", jpeg()), ("7.png", jpeg()), ("7.cls", b"0")], "w", None, r"sample 7 has 2 images"),
    "apart": (
        [("7.jpg", jpeg()), ("7.cls", b"0"), ("8.jpg", jpeg()), ("8.cls", b"0"), ("7.cls", b"0")],
        "w",
        None,
        r"the files of sample 7 are not adjacent: sort the shard",
    ),
    "a label in words": ([("7.jpg", jpeg()), ("7.cls", b"cat")], "w", None, r"7\.cls holds b'cat': write the number"),
    "compressed": ([("7.jpg", jpeg()), ("7.cls", b"0")], "w:gz", None, r"is not an uncompressed tar file"),
    "truncated": ([("7.cls", b"0"), ("7.jpg", bytes(20_000))], "w", truncate, r"truncated|is damaged"),
    "damaged header": (SMALL, "w", change_bit, r"is damaged, .* at byte 2,048"),
    "zeros in place of a sample": (
        SMALL,
        "w",
        lambda path: path.write_bytes(path.read_bytes()[:2048] + bytes(2048) + path.read_bytes()[4096:]),
        r"is damaged, .* at byte 2,048",
    ),
    "cut between two samples": (
        SMALL,
        "w",
        lambda path: path.write_bytes(path.read_bytes()[:4096]),
        r"truncated: it ends at byte 4,096",
    ),
    "cut in a header": (
        SMALL,
        "w",
        lambda path: path.write_bytes(path.read_bytes()[:4200]),
        r"truncated: it ends at byte 4,096",
    ),
    "two in one file": (
        SMALL,
        "w",
        lambda path: path.write_bytes(2 * path.read_bytes()),
        r"or several archives in one file",
    ),
    "a label that is no class": (
        [("7.jpg", jpeg()), ("7.cls", b"99999999999999999999")],
        "w",
        None,
        r"write the number of the class, from 0 to",
    ),
    "no tar": ([], "w", lambda path: path.write_bytes(b"no tar" * 200), r"is not an uncompressed tar file"),
    "empty": ([], "w", None, r"1 shard without an image"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_webdataset_refuses_a_shard_in_one_line(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files, mode, change, answer = REFUSED[kind]
    shard = write_shard(tmp_path / "train.tar", files, mode)
    if change:
        change(shard)
    with pytest.raises(UserError, match=answer) as caught:
        WebDatasetSource((shard,))
    assert str(shard) in str(caught.value)
    assert main(["look", str(tmp_path), "--out", str(tmp_path / "sheet.png")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_webdataset_names_the_image_that_cannot_be_decoded(tmp_path: Path) -> None:
    files = [("0.cls", b"0"), ("0.jpg", jpeg((90, 90))[:-400]), ("1.cls", b"0"), ("1.jpg", b"no image")]
    source = WebDatasetSource((write_shard(tmp_path / "a.tar", files),))
    with Loader(source, workers=1) as loader:
        view = eval_view(CenterCrop(resolution=8, crop_ratio=1.0))
        for image, done in ((0, "decoded"), (1, "opened")):
            with pytest.raises(LocalError, match=rf"a\.tar: {image}: image {image} cannot be {done}"):
                list(loader.batches([np.array([image])], view, 8))


def test_webdataset_notices_a_shard_that_is_written_to(tmp_path: Path) -> None:
    files = [("0.cls", b"0"), ("0.jpg", jpeg())]
    source = WebDatasetSource((write_shard(tmp_path / "a.tar", files),))
    write_shard(tmp_path / "a.tar", [*files, *files])
    with pytest.raises(LocalError, match=r"written to since the start"):
        source.sizes(np.array([0]))


# --------------------------------------------------------------------------------------------------- which format it is


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def test_find_takes_imagenets_downloads_for_no_shards(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "ILSVRC2012_img_train.tar",
        "ILSVRC2012_img_val.tar",
        "._val-0.tar",
        "train/cat/0.jpg",
        "val/cat/0.jpg",
    )
    for split in ("train", "val"):
        assert find_split(str(tmp_path), split) == find_dataset(str(tmp_path), split) == ClassFolders(tmp_path / split)


def test_find_says_how_to_convert_imagenets_downloads(tmp_path: Path) -> None:
    touch(tmp_path, "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")
    for found in (find_split, find_dataset):
        with pytest.raises(UserError, match=r"as they are downloaded: .* prepare imagenet .* --out DIR"):
            found(str(tmp_path), "train")


def test_find_takes_own_shards_of_imagenet_whatever_their_names_begin_with(tmp_path: Path) -> None:
    touch(tmp_path, "ILSVRC2012_img_train.tar", "ILSVRC2012_img_train-0.tar")
    shards = WebDataset((tmp_path / "ILSVRC2012_img_train-0.tar",))
    assert find_split(str(tmp_path), "train") == find_dataset(str(tmp_path), "train") == shards


@pytest.mark.parametrize("other", ["train/cat/0.jpg", "train-0.tar"])
def test_find_mixes_no_prepared_split_with_images_that_are_not(tmp_path: Path, other: str) -> None:
    touch(tmp_path, "val.beton", other)
    for found in (find_split, find_dataset):
        with pytest.raises(UserError, match=r"has val\.beton, but no train\.beton: was prepare interrupted"):
            found(str(tmp_path), "train")
        assert found(str(tmp_path), "val") == Beton(tmp_path / "val.beton")


def test_find_prefers_beton_then_shards_then_class_folders(tmp_path: Path) -> None:
    everything = touch(tmp_path / "all", "train.beton", "train-0.tar", "train/0.tar", "train/cat/0.jpg")
    assert find_split(str(everything), "train") == Beton(everything / "train.beton")
    (everything / "train.beton").unlink()
    assert find_split(str(everything), "train") == WebDataset((everything / "train-0.tar",))
    (everything / "train-0.tar").unlink()
    assert find_split(str(everything), "train") == WebDataset((everything / "train" / "0.tar",))
    (everything / "train" / "0.tar").unlink()
    assert find_split(str(everything), "train") == ClassFolders(everything / "train")


def test_find_tells_the_splits_of_shards_apart_by_whole_words(tmp_path: Path) -> None:
    names = ["imagenet1k-train-0001.tar", "imagenet1k-train-0000.tar", "imagenet1k-validation-00.tar", "trainer.tar"]
    folder = touch(tmp_path, *names, "test-0.tar")
    assert find_split(str(folder), "train") == WebDataset((folder / names[1], folder / names[0]))
    assert find_split(str(folder), "val") == WebDataset((folder / names[2],))


def test_find_anywhere_takes_one_shard_and_a_folder_of_shards(tmp_path: Path) -> None:
    folder = touch(tmp_path, "b.tar", "a.tar")
    assert find_dataset(str(folder / "b.tar"), "val") == WebDataset((folder / "b.tar",))
    assert find_dataset(str(folder), "val") == WebDataset((folder / "a.tar", folder / "b.tar"))
    other = touch(tmp_path / "other", "train-0.tar")
    with pytest.raises(UserError, match=r"has neither val\.beton nor the folder .* nor shards of val"):
        find_dataset(str(other), "val")


@pytest.mark.slow
def test_webdataset_every_command_reads_webdataset_shards(
    shards: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """look and plan here; training from them ends with the weights of training from the class folders."""
    assert main(["look", str(shards), "--out", str(tmp_path / "sheet.png")]) == 0
    out = capsys.readouterr().out
    assert "3 shards" not in out and "4 shards from photos-train-0000.tar" in out
    assert "100.0% jpg (" in out
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "from dataclasses import replace\nfrom tests.support.small_recipe import recipe as small\n"
        "from trainer.recipe import RandomResizedCrop, CenterCrop\n"
        "recipe = replace(small, name='photos', num_classes=4, epochs=1, global_batch_size=32,\n"
        "    train_crop=RandomResizedCrop(resolution=32), eval_crop=CenterCrop(resolution=32, crop_ratio=1.0))\n"
    )
    assert main(["plan", str(recipe), "--data", str(shards)]) == 0
    assert "64 training images, 24 validation images" in capsys.readouterr().out
    runs = [tmp_path / "shards", tmp_path / "folders"]
    for run_dir, data in zip(runs, (shards, photos), strict=True):
        assert main(["train", str(recipe), "--data", str(data), "--run-dir", str(run_dir)]) == 0
    ours, theirs = (
        {name: value for name, value in weights(run_dir).items() if name.startswith("/model/")} for run_dir in runs
    )
    assert len(ours) > 20
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert open_dataset(str(shards), "val", num_classes=1, resolution=1).classes == ["0", "1", "2", "3"]
