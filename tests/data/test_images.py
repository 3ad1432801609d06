"""One way to open an image: class folders, shards and .beton files have the same pixels and refuse the same files."""

import io
import os
import re
import shutil
import socket
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.support import odd_images
from tests.support.odd_images import class_folders
from tests.support.processes import start
from trainer.data.beton.encoded_image import decoded
from trainer.data.beton.index import read_index
from trainer.data.beton.manifest import read_manifest
from trainer.data.beton.prepare import PrepareOptions, prepare_folder
from trainer.data.content import Content, Stamp, read_content
from trainer.data.crop import CropFn, eval_view, train_view
from trainer.data.formats import open_dataset, open_source
from trainer.data.image_folder import ImageFolderSource
from trainer.data.images import BadImageError, has_orientation, read_bytes, upright
from trainer.data.loader import Loader, Source
from trainer.errors import LocalError
from trainer.recipe import CenterCrop, RandomResizedCrop

AS_IT_IS = PrepareOptions(write_mode="raw", workers=1)


def whole(source: Source, side: int = 40) -> list[np.ndarray]:
    """Every image of side x side px, as training reads it."""
    with Loader(source, workers=1) as loader:
        view = eval_view(CenterCrop(resolution=side, crop_ratio=1.0))
        return [
            batch.images[0].permute(1, 2, 0).numpy()
            for batch in loader.batches(np.arange(len(loader))[:, None], view, side)
        ]


def modes(folder: Path) -> None:
    """One image of every kind of pixels, as PNG or TIFF."""
    ramp = np.linspace(0, 65535, 1600).reshape(40, 40)
    eight = Image.fromarray((ramp / 257).astype(np.uint8))
    palette = eight.convert("P")
    palette.putpalette([value % 256 for value in range(768)])
    saved: dict[str, Image.Image] = {
        "gray16.png": Image.fromarray(ramp.astype(np.uint16)),
        "gray16.pgm": Image.fromarray(ramp.astype(np.uint16)),
        "float.tif": Image.fromarray((ramp / 65535).astype(np.float32)),
        "gray.png": eight,
        "bit.png": eight.convert("1"),
        "alpha.png": eight.convert("RGBA"),
        "gray_alpha.png": eight.convert("LA"),
        "palette.png": palette,
        "cmyk.tif": eight.convert("CMYK"),
        "rgb.png": eight.convert("RGB"),
    }
    for name, image in saved.items():
        image.save(folder / name)


def test_class_folders_and_shards_have_the_pixels_that_prepare_stores(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / "src" / split / "a").mkdir(parents=True)
        modes(tmp_path / "src" / split / "a")
    prepare_folder(tmp_path / "src", tmp_path / "out", AS_IT_IS)
    stored = whole(open_dataset(str(tmp_path / "out"), "train", num_classes=1, resolution=40))
    folders = ImageFolderSource(tmp_path / "src" / "train")
    read = whole(folders)
    assert len(stored) == len(read) == 10
    for image, (ours, theirs) in enumerate(zip(stored, read, strict=True)):
        assert np.array_equal(ours, theirs), folders.where(image)
    names = [Path(folders.where(image)).name for image in range(10)]
    for name in ("gray16.png", "gray16.pgm"):
        gray16 = read[names.index(name)]
        assert gray16.min() == 0 and gray16.max() == 255 and 120 < gray16.mean() < 135


@pytest.mark.slow
@pytest.mark.parametrize("view", [
    eval_view(CenterCrop(resolution=40, crop_ratio=0.875)), train_view(RandomResizedCrop(resolution=40), True, 0, 1),
    eval_view(CenterCrop(resolution=300, crop_ratio=1.0)),
], ids=["centre", "random resized", "enlarged"])  # fmt: skip
def test_class_folders_give_the_crops_of_a_file_that_stores_their_images_unshrunk(view: CropFn, tmp_path: Path) -> None:
    """JPEGs of all kinds and other formats: decoded, converted and resized by the same functions."""
    folder = tmp_path / "src" / "train" / "a"
    folder.mkdir(parents=True)
    coarse = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 11, 3), np.uint8))
    picture = coarse.resize((157, 101), Image.Resampling.BICUBIC)
    for sampling in (0, 1, 2):
        picture.save(folder / f"sampling{sampling}.jpg", quality=96, subsampling=sampling)
    picture.save(folder / "progressive.jpg", progressive=True)
    picture.save(folder / "restart.jpg", restart_marker_blocks=2)
    picture.convert("L").save(folder / "gray.jpg")
    picture.convert("CMYK").save(folder / "cmyk.jpg")
    picture.save(folder / "colours.jpg", keep_rgb=True)
    (folder / "trailing.jpg").write_bytes((folder / "gray.jpg").read_bytes() + b"more")
    for kind in ("png", "bmp", "webp", "tif"):
        picture.save(folder / f"other.{kind}")
    shutil.copytree(folder, tmp_path / "src" / "val" / "a")
    unshrunk = PrepareOptions(write_mode="raw", max_resolution=None, workers=1)
    prepare_folder(tmp_path / "src", tmp_path / "out", unshrunk)
    side = 300 if view(np.arange(1), np.array([101]), np.array([157])).boxes[0, 2] == 101 else 40
    read = []
    for data in (tmp_path / "src", tmp_path / "out"):
        with Loader(open_source(str(data), "train", num_classes=1, resolution=side), workers=2) as loader:
            (batch,) = loader.batches([np.arange(len(loader))], view, side)
            read.append(batch.images.numpy())
    assert read[0].shape == (13, 3, side, side)
    assert np.array_equal(*read)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "content"), [
    ("bomb.png", odd_images.bomb()), ("big_text.png", odd_images.big_text()), ("empty.jpg", b""),
    ("cut.jpg", odd_images.truncated_jpeg()), ("text.png", b"<html>"), ("link.png", "nowhere.png"),
    ("loop.png", "loop.png"),
])  # fmt: skip
def test_whatever_a_decoder_raises_is_one_line_with_file_index_and_remedy(
    tmp_path: Path, name: str, content: bytes | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.data.content.CHUNK", 4)  # the bad image is not among the first
    folder = class_folders(tmp_path) / "train"
    if isinstance(content, str):
        os.symlink(content, folder / "b" / name)
    else:
        (folder / "b" / name).write_bytes(content)
    source = ImageFolderSource(folder)
    index = [Path(source.where(image)).name for image in range(13)].index(name)
    with pytest.raises(
        LocalError, match=rf"b/{name}: image {index} cannot be (opened|decoded|read): .*--skip-bad"
    ) as caught:
        whole(source, 32)
    assert "\n" not in str(caught.value)
    assert [line.startswith(str(folder / "b" / name)) for line in source.bad_images()] == [True]
    # what the line advises: leave it out, or remove it
    manifests = prepare_folder(tmp_path, tmp_path / "out", PrepareOptions(write_mode="raw", workers=1, skip_bad=True))
    assert manifests["train"].count == 12 and manifests["train"].skipped == [f"train/b/{name}"]
    (folder / "b" / name).unlink()
    assert len(whole(ImageFolderSource(folder), 32)) == 12


def test_named_pipe_among_images_is_one_line_and_keeps_nobody_waiting(tmp_path: Path) -> None:
    os.mkfifo(class_folders(tmp_path) / "train" / "b" / "pipe.png")
    process = start(["look", str(tmp_path), "--check", "--out", str(tmp_path / "sheet.png")])
    said, error = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "b/pipe.png: image 8 cannot be read: it is no regular file: repair or remove it" in said
    assert "1 of 13 images cannot be decoded" in error and error.count("\n") == 1


@pytest.mark.parametrize("kind", ["folder", "socket", "device"])
def test_images_that_are_no_regular_files_are_bad_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Which --skip-bad leaves out, unlike those that a disk does not give."""
    path = tmp_path / "x.jpg"
    if kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")  # would be read until the memory is full
    else:
        monkeypatch.chdir(tmp_path)  # the path of a socket may have 107 bytes
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)
    with pytest.raises(BadImageError, match=r"^it is no regular file$"):
        read_bytes(path)


def test_image_folder_notices_an_image_that_is_replaced(tmp_path: Path) -> None:
    folder = class_folders(tmp_path) / "train"
    source = ImageFolderSource(folder)
    (folder / "b" / "001.png").write_bytes((folder / "c" / "001.png").read_bytes())
    os.utime(folder / "b" / "001.png", ns=(0, 0))
    source.sizes(np.array([4]))
    with pytest.raises(LocalError, match=r"b/001\.png was written to since the start: run the same command again"):
        source.sizes(np.array([5]))


def test_bad_images_of_shards_are_named_by_shard_and_sample(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "train.tar", "w") as tar:
        for name, content in (("0.jpg", odd_images.truncated_jpeg()), ("0.cls", b"0"), ("._0.jpg", b"Mac OS X")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    source = open_source(str(tmp_path), "train", num_classes=1, resolution=32)
    (line,) = source.bad_images()
    assert re.search(r"train\.tar: 0: image 0 cannot be decoded: .*: write the shard again without it", line)


def test_content_decides_about_the_checksum_and_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.data.content.CHUNK", 4)
    folder = class_folders(tmp_path, extension=".bmp") / "train"
    first = ImageFolderSource(folder).checksum
    assert (folder / ".verified").is_file()
    with monkeypatch.context() as patch:
        patch.setattr("trainer.data.image_folder.read_file", lambda path: pytest.fail("read again"))
        assert ImageFolderSource(folder).checksum == first
    (folder / "c" / "003.bmp").write_bytes((folder / "b" / "000.bmp").read_bytes())  # the same name and length
    second = ImageFolderSource(folder)
    assert second.checksum != first and second.notes == ()


def test_checksum_depends_on_the_order_of_classes_and_not_on_where_the_files_lie(tmp_path: Path) -> None:
    names = tuple(str(number) for number in range(11))
    one, other = (class_folders(tmp_path / where, names, train=1, val=1) / "train" for where in ("x", "y"))
    assert ImageFolderSource(one).checksum == ImageFolderSource(other).checksum
    assert ImageFolderSource(one, "numeric").checksum != ImageFolderSource(one).checksum


def test_stamp_lies_in_the_cache_folder_where_the_images_cannot_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = class_folders(tmp_path / "data") / "train"
    (folder / ".verified").mkdir()  # root may write everywhere: a folder of that name is what nobody can replace
    (folder / ".verified" / "x").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first = ImageFolderSource(folder).checksum
    assert len(list((tmp_path / "cache").rglob("*.json"))) == 1
    monkeypatch.setattr("trainer.data.image_folder.read_file", lambda path: pytest.fail("read again"))
    assert ImageFolderSource(folder).checksum == first


@pytest.mark.parametrize(
    "stored",
    [
        "{}",
        "null",
        "5",
        '"x"',
        "[]",
        '{"state": "now"}',
        '{"state": "now", "checksum": 5, "oriented": 1, "decoded": false}',
        '{"state": "now", "checksum": "c", "oriented": "x", "decoded": false}',
        '{"state": "now", "checksum": "c", "oriented": true, "decoded": false}',
        '{"state": "now", "checksum": "c", "oriented": 1, "decoded": false, "more": 1}',
        '{"state": "before", "checksum": "c", "oriented": 1, "decoded": false}',
    ],
)
def test_content_is_read_again_where_the_stamp_is_not_one_of_ours(stored: str, tmp_path: Path) -> None:
    (tmp_path / ".verified").write_text(stored)
    stamp, labels = Stamp(tmp_path / ".verified", "now"), np.zeros(1, np.int64)
    found = read_content(stamp, labels, lambda image: b"an image", "images")
    assert found == read_content(stamp, labels, lambda image: pytest.fail("read again"), "images")
    assert re.fullmatch("files-sha256:[0-9a-f]{64}", found.checksum) and found == Content(
        checksum=found.checksum, oriented=0
    )


@pytest.mark.parametrize(
    ("name", "width"), [("turned.jpg", 60), ("turned.png", 60), ("turned.webp", 60), ("turned.webp", 600)]
)
def test_exif_orientation_is_counted_and_said(
    tmp_path: Path, name: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.data.content.CHUNK", 4)
    folder = class_folders(tmp_path) / "train"
    odd_images.turned(folder / "c" / name, width=width)
    assert width == 60 or (folder / "c" / name).stat().st_size > 100_000  # the EXIF of a WebP comes last
    assert has_orientation((folder / "c" / name).read_bytes())
    assert not has_orientation((folder / "a" / "000.png").read_bytes())
    source = ImageFolderSource(folder)
    assert source.checksum
    assert any("1 of 13 images have an EXIF orientation, which is ignored: " in note for note in source.notes)
    assert ImageFolderSource(folder).checksum == source.checksum


@pytest.mark.slow
def test_prepare_turns_images_where_it_is_asked_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = class_folders(tmp_path / "src", train=1, val=1) / "train"
    odd_images.turned(folder / "a" / "001.jpg")
    upright = PrepareOptions(write_mode="raw", workers=1, apply_exif=True)
    for options, shape, said in ((AS_IT_IS, (40, 60), "--apply-exif turns them"), (upright, (60, 40), "turned by it")):
        out = tmp_path / ("upright" if options.apply_exif else "stored")
        prepare_folder(tmp_path / "src", out, options)
        index, manifest = read_index(out / "train.beton"), read_manifest(out / "train.beton")
        assert (index.heights[1], index.widths[1]) == shape
        assert manifest.exif_oriented == 1
        assert manifest.source.exif == ("applied" if options.apply_exif else "ignored")
        assert "1 image with an EXIF orientation" in (printed := capsys.readouterr().out) and said in printed


@pytest.mark.parametrize("extension", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright_turns_as_pil_does(orientation: int, extension: str, tmp_path: Path) -> None:
    path = tmp_path / f"turned.{extension}"
    odd_images.turned(path, orientation)
    with Image.open(path) as opened, Image.open(path) as again:
        assert np.array_equal(np.asarray(upright(opened)), np.asarray(ImageOps.exif_transpose(again)))


@pytest.mark.parametrize(
    ("tag", "kind", "count", "value"),
    [
        (0x011A, 2, 4, b"72d\0"),  # XResolution, a RATIONAL, as text
        (0x0128, 2, 3, b"in\0\0"),  # ResolutionUnit, a SHORT, as text
        (0x0128, 4, 1, (70000).to_bytes(4, "little")),  # as LONG
    ],
    ids=["text", "short text", "long"],
)
def test_prepare_turns_images_whatever_their_other_exif_tags_are(
    tag: int, kind: int, count: int, value: bytes, tmp_path: Path
) -> None:
    folder = class_folders(tmp_path / "src", train=1, val=1) / "train"
    odd_images.turned_with(folder / "a" / "001.jpg", tag, kind, count, value)
    encoded = (folder / "a" / "001.jpg").read_bytes()
    assert np.array_equal(decoded(encoded, apply_exif=True), np.rot90(decoded(encoded), -1))
    prepare_folder(tmp_path / "src", tmp_path / "out", replace(AS_IT_IS, apply_exif=True))
    index, manifest = read_index(tmp_path / "out" / "train.beton"), read_manifest(tmp_path / "out" / "train.beton")
    assert (index.heights[1], index.widths[1]) == (60, 40)
    assert (manifest.exif_oriented, manifest.count) == (1, 4)


def test_manifest_says_which_folder_and_which_order_of_classes(tmp_path: Path) -> None:
    class_folders(tmp_path / "src", tuple(str(number) for number in range(11)), train=1, val=1)
    (tmp_path / "src" / "val").rename(tmp_path / "src" / "valid")
    numeric = PrepareOptions(write_mode="raw", workers=1, class_order="numeric")
    manifest = prepare_folder(tmp_path / "src", tmp_path / "out", numeric)["val"]
    assert manifest.source.folder == "valid" and manifest.source.class_order == "numeric"
    assert manifest.classes == [str(number) for number in range(11)]
    assert open_dataset(str(tmp_path / "out"), "val", num_classes=1, resolution=1).notes == ()
