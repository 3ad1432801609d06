"""What is prepared: folders, CIFAR-10 and the digits, and what their images become."""

import os
import pickle
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trainer.data.beton import prepare
from trainer.data.beton.images import Images, shuffled
from trainer.data.beton.index import read_index, verify
from trainer.data.beton.manifest import DataOrigin, read_manifest
from trainer.data.beton.pixels import shrink
from trainer.data.beton.placing import CHUNK
from trainer.data.beton.prepare import (
    IMAGENET,
    SMALL_IMAGES,
    PrepareOptions,
    prepare_cifar10,
    prepare_digits,
    prepare_folder,
    write_splits,
)
from trainer.data.images import BadImageError, to_rgb
from trainer.data.order import epoch_order
from trainer.errors import UserError

AS_IT_IS = PrepareOptions(write_mode="raw", max_resolution=64, workers=1)  # larger than the images of most tests
random = np.random.default_rng(0)


def stored(path: Path) -> list[np.ndarray]:
    """The raw images of a file, after its content was verified."""
    index, content = verify(path, read_manifest(path)), path.read_bytes()
    return [
        np.frombuffer(content, np.uint8, index.sizes[image], index.pointers[image]).reshape(
            index.heights[image], index.widths[image], 3
        )
        for image in range(len(index))
    ]


def picture(height: int, width: int) -> np.ndarray:
    return random.integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """pets/{train,val}/{cat,Dog,emu}: some images in deeper folders, of several kinds; some files are no images."""
    src = tmp_path / "pets"
    for split, count in (("train", 4), ("val", 2)):
        for name in ("emu", "cat", "Dog"):
            folder = src / split / name
            (folder / "more").mkdir(parents=True)
            for number in range(count):
                inner = folder / "more" if number % 2 else folder
                suffix = ("png", "PNG", "bmp", "ppm")[number]
                Image.fromarray(picture(10 + number, 7)).save(inner / f"{9 - number}.{suffix}")
        (src / split / "cat" / "readme.txt").write_text("not an image")
        (src / split / ".cache").mkdir()
        (src / split / "list.csv").write_text("")
    return src


@pytest.mark.slow
def test_folder_is_what_torchvisions_image_folder_sees(pets: Path, tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    manifests = prepare_folder(pets, tmp_path / "out", AS_IT_IS)
    assert list(manifests) == ["val", "train"]
    for split, manifest in manifests.items():
        os.rmdir(pets / split / ".cache")  # ImageFolder takes it for a class
        oracle = ImageFolder(str(pets / split))
        path = tmp_path / "out" / f"{split}.beton"
        assert manifest.classes == oracle.classes == ["Dog", "cat", "emu"]
        assert read_index(path).labels.tolist() == oracle.targets
        for ours, (theirs, _) in zip(stored(path), oracle, strict=True):
            assert np.array_equal(ours, np.asarray(theirs))
    assert manifests["train"].count == 12 and manifests["train"].class_counts == [4, 4, 4]
    assert manifests["train"].sizes.max_height == 13 and manifests["train"].sizes.max_width == 7
    assert manifests["train"].source.kind == "folder" and manifests["train"].source.name == "pets"


@pytest.mark.slow
def test_validation_may_have_other_names(pets: Path, tmp_path: Path) -> None:
    for name in ("validation", "test"):
        next(path for path in pets.iterdir() if path.name != "train").rename(pets / name)
        assert prepare_folder(pets, tmp_path / name, AS_IT_IS)["val"].count == 6


def test_prepare_what_is_wrong_with_a_folder_is_reported(pets: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def says(text: str) -> None:
        with pytest.raises(UserError, match=text):
            prepare_folder(pets, out, AS_IT_IS)
        assert not out.exists()

    (pets / "train" / "fox").mkdir()
    says(r"fox holds no images \(\.jpg .*\)")
    Image.new("RGB", (3, 3)).save(pets / "train" / "fox" / "1.png")
    says("1 class of train missing from val: 'fox'")
    (pets / "val" / "fox").mkdir()
    says("fox holds no images")
    Image.new("RGB", (3, 3)).save(pets / "val" / "fox" / "1.png")
    Image.new("RGB", (3, 3)).save(pets / "val" / "1.png")
    (pets / "val").rename(pets / "validate")
    says("pets has no folder val or validation or valid")
    (pets / "val").mkdir()
    says("val has no folders, one for each class")
    with pytest.raises(UserError, match="no folder"):
        prepare_folder(tmp_path / "nowhere", out)


@pytest.mark.parametrize("split", ["train", "val"])
def test_prepare_folder_is_not_written_among_its_class_folders(pets: Path, split: str) -> None:
    with pytest.raises(UserError, match=f"is inside .*{split}, whose folders are classes"):
        prepare_folder(pets, pets / split / "data", AS_IT_IS)
    assert not (pets / split / "data").exists()


def test_prepare_validation_folder_that_is_a_link_to_the_training_folder_is_refused(pets: Path, tmp_path: Path) -> None:
    shutil.rmtree(pets / "val")
    (pets / "valid").symlink_to("train")
    with pytest.raises(UserError, match=r"train and .*valid are one folder, by a link: remove .* --val-fraction 0.1"):
        prepare_folder(pets, tmp_path / "out", AS_IT_IS)
    assert not (tmp_path / "out").exists()


def test_folder_that_cannot_be_read_is_an_error_not_fewer_images(pets: Path, tmp_path: Path) -> None:
    deeper = os.open(pets / "train" / "cat", os.O_RDONLY)
    for _ in range(25):  # to a path longer than Linux takes (4096), which stops root too
        os.mkdir("x" * 200, dir_fd=deeper)
        above, deeper = deeper, os.open("x" * 200, os.O_RDONLY, dir_fd=deeper)
        os.close(above)
    os.close(deeper)
    with pytest.raises(UserError, match="cannot be read: File name too long"):
        prepare_folder(pets, tmp_path / "out", AS_IT_IS)


@pytest.mark.slow
def test_prepare_what_is_there_is_replaced_only_with_overwrite(pets: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    before = prepare_folder(pets, out, AS_IT_IS)
    with pytest.raises(UserError, match=r"val\.beton is there already: pass --overwrite"):
        prepare_folder(pets, out, AS_IT_IS)
    after = prepare_folder(pets, out, replace(AS_IT_IS, overwrite=True, write_mode="jpg"))
    assert after["train"].checksum != before["train"].checksum
    verify(out / "train.beton", after["train"])


def test_prepare_broken_file_is_named_or_skipped(
    pets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (pets / "train" / "cat" / "9.png").read_bytes()
    bad = ["train/cat/empty.png", "train/cat/half.png", "train/emu/text.jpg"]
    for name, content in zip(bad, (b"", whole[: len(whole) // 2], b"hello"), strict=True):
        (pets / name).write_bytes(content)
    with pytest.raises(UserError, match=r"image [0-9]+ \('train/cat/empty.png'\) cannot be stored: cannot identify"):
        prepare_folder(pets, tmp_path / "out", AS_IT_IS)
    assert sorted(path.name for path in (tmp_path / "out").glob("train*")) == []
    manifest = prepare_folder(pets, tmp_path / "out", replace(AS_IT_IS, skip_bad=True, overwrite=True))["train"]
    assert manifest.skipped == bad and manifest.count == 12
    printed = capsys.readouterr().out
    assert all(f"skipped {name!r}: " in printed for name in bad)
    assert "ignored 1 file without an image's extension, '" in printed


def test_shuffled_training_images_are_the_same_ones_in_a_random_order(pets: Path, tmp_path: Path) -> None:
    """The file has an order of its own, always the same, which is not that of an epoch."""
    plain = prepare_folder(pets, tmp_path / "plain", AS_IT_IS)
    mixed = prepare_folder(pets, tmp_path / "mixed", replace(AS_IT_IS, shuffle=True))
    again = prepare_folder(pets, tmp_path / "again", replace(AS_IT_IS, shuffle=True, workers=2))
    assert mixed["train"].checksum == again["train"].checksum != plain["train"].checksum
    assert mixed["val"] == plain["val"]
    assert mixed["train"].source == replace(plain["train"].source, shuffled=True)

    labels = {name: read_index(tmp_path / name / "train.beton").labels.tolist() for name in ("plain", "mixed")}
    assert labels["plain"] == sorted(labels["plain"]) == sorted(labels["mixed"]) != labels["mixed"]
    images = {name: stored(tmp_path / name / "train.beton") for name in labels}
    pairs = {name: sorted((pixels.tobytes(), label) for pixels, label in zip(images[name], labels[name], strict=True))
             for name in labels}  # fmt: skip
    assert pairs["mixed"] == pairs["plain"]
    order = [next(place for place, one in enumerate(images["plain"]) if np.array_equal(one, pixels))
             for pixels in images["mixed"]]  # fmt: skip
    assert order != epoch_order(0, 0, len(order)).tolist()


def test_shuffled_file_that_was_interrupted_continues_to_the_same_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The image that cannot be read is the last one in the file, so that whole chunks are stored before it."""
    for split, count in (("train", 3 * CHUNK), ("val", 1)):
        (tmp_path / "src" / split / "gray").mkdir(parents=True)
        for number in range(count):
            exif = Image.Exif()
            if number % 3 == 0:
                exif[274] = 6  # EXIF's orientation
            image = Image.new("RGB", (4, 4), (number, number, number))
            image.save(tmp_path / "src" / split / "gray" / f"{number:02}.png", exif=exif)
    shuffle = replace(AS_IT_IS, shuffle=True)
    whole = prepare_folder(tmp_path / "src", tmp_path / "whole", shuffle)["train"]
    assert whole.exif_oriented == CHUNK
    last = tmp_path / "src" / "train" / "gray" / f"{stored(tmp_path / 'whole' / 'train.beton')[-1][0, 0, 0]:02}.png"
    content, times = last.read_bytes(), (last.stat().st_atime_ns, last.stat().st_mtime_ns)
    last.write_bytes(b"no image")
    with pytest.raises(UserError, match=last.name):
        prepare_folder(tmp_path / "src", tmp_path / "stopped", shuffle)
    last.write_bytes(content)
    os.utime(last, ns=times)
    capsys.readouterr()
    assert prepare_folder(tmp_path / "src", tmp_path / "stopped", shuffle)["train"] == whole
    assert f"continues after {2 * CHUNK} of {3 * CHUNK} images" in capsys.readouterr().out
    assert (tmp_path / "stopped" / "train.beton").read_bytes() == (tmp_path / "whole" / "train.beton").read_bytes()


def test_shuffled_order_stays_what_it_was() -> None:
    """An interrupted file is continued by newer code. These numbers have no other source than this code."""
    assert shuffled(made(100)).labels[:10].tolist() == [88, 28, 18, 5, 42, 82, 12, 4, 60, 25]


def made(count: int, bad: int = -1) -> Images:
    """Images of an array in memory, each a class of its own. Nothing says whether such a source has changed."""

    def load(image: int) -> np.ndarray:
        if image == bad:
            raise ValueError("no image")
        return np.full((4, 4, 3), image, np.uint8)

    return Images(
        classes=[str(image) for image in range(count)],
        labels=np.arange(count),
        names=[f"array[{image}]" for image in range(count)],
        source=DataOrigin(kind="digits", name="made"),
        load=load,
    )


@pytest.mark.parametrize("overwrite", [False, True])
def test_prepare_arrays_of_which_one_is_bad_leave_no_val_behind(tmp_path: Path, overwrite: bool) -> None:
    """Else the same command would be told that val.beton is there already."""
    options = replace(AS_IT_IS, overwrite=overwrite)
    if overwrite:
        write_splits(tmp_path, {"val": made(3), "train": made(3)}, options)
    (tmp_path / "val.txt").write_text("of somebody else")
    others = {path.name for path in tmp_path.iterdir() if not path.name.startswith("val.beton")}
    with pytest.raises(UserError, match=r"image 1 \('array\[1\]'\) cannot be stored"):
        write_splits(tmp_path, {"val": made(2), "train": made(2, bad=1)}, options)
    assert {path.name for path in tmp_path.iterdir()} == others
    assert write_splits(tmp_path, {"val": made(2), "train": made(2)}, options)["val"].count == 2
    verify(tmp_path / "val.beton", read_manifest(tmp_path / "val.beton"))


def test_prepare_class_whose_training_images_are_all_skipped_is_named(tmp_path: Path) -> None:
    splits = {"val": made(3), "train": made(3, bad=1)}
    with pytest.raises(UserError, match="1 class with validation images and no training images: '1': add training"):
        write_splits(tmp_path, splits, replace(AS_IT_IS, skip_bad=True))
    splits = {"val": made(3, bad=1), "train": made(3)}  # a class that is not validated is the user's matter
    assert write_splits(tmp_path, splits, replace(AS_IT_IS, skip_bad=True, overwrite=True))["val"].count == 2


def test_defaults_are_ffcvs_for_imagenet() -> None:
    assert (IMAGENET.max_resolution, IMAGENET.write_mode) == (500, "proportion")
    assert (IMAGENET.compress_probability, IMAGENET.jpeg_quality) == (0.5, 90)
    with pytest.raises(UserError, match="workers=0"):
        PrepareOptions(workers=0)


def test_prepare_every_mode_becomes_rgb() -> None:
    colour = Image.fromarray(picture(6, 5))
    modes = ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "LA", "PA", "RGBX", "RGBa", "La"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for mode in modes:
            if mode == "La":
                image = colour.convert("LA").convert("La")
            elif mode in ("LAB", "PA"):
                image = Image.new(mode, (5, 6))
            else:
                image = colour.convert("RGBA").convert("RGBa") if mode == "RGBa" else colour.convert(mode)
            rgb = to_rgb(image)
            assert image.mode == mode and rgb.shape == (6, 5, 3) and rgb.dtype == np.uint8, mode
            if mode in ("RGB", "RGBA", "RGBX", "RGBa"):
                assert np.array_equal(rgb, np.asarray(colour))
            elif mode in ("CMYK", "P", "L", "YCbCr", "HSV", "1"):
                assert np.array_equal(rgb, np.asarray(image.convert("RGB"))), "as torchvision's loader"
        transparent = Image.new("P", (2, 2))
        transparent.info["transparency"] = bytes(256)
        assert to_rgb(transparent).shape == (2, 2, 3)


def test_sixteen_bits_and_floats_keep_their_range() -> None:
    sixteen = np.array([[0, 255, 256], [32768, 65280, 65535]], np.uint16)
    expected = np.array([[0, 0, 1], [128, 255, 255]])
    for image in (Image.fromarray(sixteen), sixteen):
        assert np.array_equal(to_rgb(image), np.stack([expected] * 3, axis=2))
    floats = np.array([[0, 0.5, 1]], np.float32)
    for image in (Image.fromarray(floats), floats):
        assert to_rgb(image)[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize(
    "wrong",
    [np.array([[0, 256.0]]), np.array([[np.nan]]), np.array([[-0.1]]), np.array([[-1]], np.int32),
     np.array([[200]], np.int32), Image.new("I", (2, 2), 200), np.array([[True]]), np.zeros((2, 2, 2), np.uint8),
     np.zeros(3, np.uint8), np.zeros((2, 2), np.int64), np.zeros((1, 2, 2, 3), np.uint8), np.array([[1j]])],
)  # fmt: skip
def test_pixels_without_a_meaning_are_refused(wrong: np.ndarray | Image.Image) -> None:
    with pytest.raises(BadImageError, match="is not 8 or 16 bits"):
        to_rgb(wrong)


def test_prepare_files_of_every_mode_go_through_the_writer(pets: Path, tmp_path: Path) -> None:
    colour = Image.fromarray(picture(9, 9))
    folder = pets / "train" / "Dog"
    expected = {}
    for name, image in {
        "a-gray.png": colour.convert("L"), "b-bits.png": colour.convert("1"), "c-palette.png": colour.convert("P"),
        "d-alpha.png": colour.convert("RGBA"), "e-cmyk.tiff": colour.convert("CMYK"),
        "f-sixteen.png": Image.fromarray(np.full((9, 9), 65535, np.uint16)),
        "g-float.tiff": Image.fromarray(np.full((9, 9), 0.5, np.float32)),
    }.items():  # fmt: skip
        image.save(folder / name)
        expected[name] = to_rgb(Image.open(folder / name))
    prepare_folder(pets, tmp_path / "out", AS_IT_IS)
    images = stored(tmp_path / "out" / "train.beton")[2:9]  # behind 7.bmp and 9.png
    for image, wanted in zip(images, expected.values(), strict=True):
        assert np.array_equal(image, wanted)
    assert images[5].min() == 255 and images[6].min() == 128


def test_exif_orientation_is_ignored(pets: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.fromarray(picture(8, 20)).save(pets / "val" / "cat" / "a.jpg", exif=exif)
    prepare_folder(pets, tmp_path / "out", AS_IT_IS)
    assert (8, 20) in {image.shape[:2] for image in stored(tmp_path / "out" / "val.beton")}


@pytest.mark.slow
def test_prepare_images_are_shrunk_as_ffcv_does() -> None:
    from ffcv.fields.rgb_image import resizer

    found = 0
    for height, width in [(500, 375), (501, 375), (1001, 333), (333, 1001), (2048, 1536), (500, 500), (640, 3), (7, 5)]:
        for side in (500, 333, 64):
            image = picture(height, width)
            if max(height, width) * 1 <= side or side * min(height, width) >= max(height, width):
                assert np.array_equal(shrink(image, side), resizer(image, side))
                found += 1
    assert found > 20
    assert shrink(picture(640, 3), None).shape == (640, 3, 3)


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width"), [(1, 3000), (3000, 1), (2, 5001), (2, 2)])
def test_prepare_extreme_shapes_keep_at_least_one_pixel(pets: Path, tmp_path: Path, height: int, width: int) -> None:
    Image.fromarray(picture(height, width)).save(pets / "val" / "Dog" / "0.png")
    prepare_folder(pets, tmp_path / "out", replace(IMAGENET, workers=1))
    index = read_index(tmp_path / "out" / "val.beton")
    expected = (2, 2) if (height, width) == (2, 2) else (500 if height > 500 else 1, 500 if width > 500 else 1)
    assert (index.heights[0], index.widths[0]) == expected


def test_side_beyond_jpegs_limit_is_refused() -> None:
    image = np.zeros((1, 70_000, 3), np.uint8)
    with pytest.raises(BadImageError, match="1 x 70000 px is more than 65500"):
        shrink(image, None)
    assert shrink(image, 500).shape == (1, 500, 3)


NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@pytest.fixture
def batches(tmp_path: Path) -> Path:
    """As CIFAR-10's own, only 20 images in each."""
    folder = tmp_path / "cifar" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name in [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]:
        data = random.integers(0, 256, (20, 3072), np.uint8)
        save(folder / name, {"data": data, "labels": [row % 10 for row in range(20)]})
    save(folder / "batches.meta", {"label_names": NAMES})
    return folder.parent


def save(path: Path, content: object) -> None:
    path.write_bytes(pickle.dumps(content, protocol=4))


@pytest.mark.slow
@pytest.mark.parametrize("inner", [True, False])
def test_cifar_batches_are_written_image_by_image(batches: Path, tmp_path: Path, inner: bool) -> None:
    src = batches / "cifar-10-batches-py"
    manifests = prepare_cifar10(src if inner else batches, tmp_path / "out")
    assert manifests["train"].count == 100 and manifests["val"].count == 20
    assert manifests["train"].classes == NAMES and manifests["train"].source.kind == "cifar10"
    images = stored(tmp_path / "out" / "train.beton")
    labels = read_index(tmp_path / "out" / "train.beton").labels
    for number in range(1, 6):
        batch = pickle.loads((src / f"data_batch_{number}").read_bytes())
        for row in range(20):
            image = images[(number - 1) * 20 + row]
            red, green, blue = batch["data"][row].reshape(3, 32, 32)
            assert np.array_equal(image, np.stack([red, green, blue], axis=2))
            assert labels[(number - 1) * 20 + row] == batch["labels"][row]


def test_pickles_of_python_2_are_read(batches: Path, tmp_path: Path) -> None:
    """Protocol 2 with strings of bytes, and numpy's old module name: what the published files hold."""
    data = bytes(range(256)) * 12
    old = (
        b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x01M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
        b"K\x00tb\x89T" + len(data).to_bytes(4, "little") + data + b"tbU\x06labels]K\x07au."
    )
    (batches / "cifar-10-batches-py" / "test_batch").write_bytes(old)
    prepare_cifar10(batches, tmp_path / "out")
    (image,) = stored(tmp_path / "out" / "val.beton")
    assert image[0, :, 0].tolist() == list(range(32)) and image[8, 0].tolist() == [0, 0, 0]


class _Evil:
    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call[0], self.call[1:]


@pytest.mark.parametrize(
    "call", [(os.system, "touch {}"), (open, "{}", "w"), (eval, "open('{}','w')"), (np.load, "{}"), (np.memmap, "{}")]
)
def test_malicious_pickle_is_refused_and_not_run(batches: Path, tmp_path: Path, call: tuple) -> None:
    proof = tmp_path / "proof"
    evil = _Evil(*(part.format(proof) if isinstance(part, str) else part for part in call))
    for name in ("batches.meta", "data_batch_3"):
        path = batches / "cifar-10-batches-py" / name
        good = path.read_bytes()
        save(path, {"data": evil, "label_names": evil})
        with pytest.raises(UserError, match=f"{name} is not a file of CIFAR-10: it wants .* no part of a numpy array"):
            prepare_cifar10(batches, tmp_path / "out")
        path.write_bytes(good)
    assert not proof.exists() and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"\x80", b"hello", pickle.dumps(None), pickle.dumps([]), pickle.dumps({}), pickle.dumps({"data": 1}),
     pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [0]}, 4),
     pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [10]}, 4),
     pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [-1]}, 4),
     pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [1.5]}, 4),
     pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": None}, 4),
     pickle.dumps({"data": np.zeros((1, 3072), np.float32), "labels": [0]}, 4),
     pickle.dumps({"data": np.zeros((1, 3071), np.uint8), "labels": [0]}, 4),
     pickle.dumps({"data": np.zeros((), np.uint8), "labels": []}, 4), pickle.dumps({1: 2})],
)  # fmt: skip
def test_prepare_wrong_batch_is_one_clear_line(batches: Path, tmp_path: Path, content: bytes) -> None:
    (batches / "cifar-10-batches-py" / "data_batch_5").write_bytes(content)
    with pytest.raises(UserError, match="data_batch_5 ") as caught:
        prepare_cifar10(batches, tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_prepare_missing_batch_is_named(batches: Path, tmp_path: Path) -> None:
    (batches / "cifar-10-batches-py" / "data_batch_2").unlink()
    with pytest.raises(UserError, match="data_batch_2 cannot be read"):
        prepare_cifar10(batches, tmp_path / "out")
    with pytest.raises(UserError, match=r"batches\.meta cannot be read"):
        prepare_cifar10(tmp_path / "nowhere", tmp_path / "out")


def test_cifar_batches_have_their_own_class_order(batches: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--class-order numeric is for class folders, and .* holds CIFAR-10's batches"):
        prepare_cifar10(batches, tmp_path / "out", replace(SMALL_IMAGES, class_order="numeric"))
    assert not (tmp_path / "out").exists()


def test_cifar_folders_are_taken_too(pets: Path, tmp_path: Path) -> None:
    (pets / "val").rename(pets / "test")
    manifests = prepare_cifar10(pets, tmp_path / "out")
    assert manifests["val"].count == 6 and manifests["train"].source.kind == "cifar10"
    assert manifests["train"].options.write_mode == "raw"


@pytest.mark.slow
def test_digits_are_all_there(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    manifests = prepare_digits(tmp_path)
    assert manifests["train"].count == 1437 and manifests["val"].count == 360
    assert manifests["train"].classes == [str(digit) for digit in range(10)]
    sizes = manifests["val"].sizes
    assert (sizes.min_height, sizes.max_height, sizes.min_width, sizes.max_width) == (16, 16, 16, 16)
    validation, train = iter(stored(tmp_path / "val.beton")), iter(stored(tmp_path / "train.beton"))
    labels = {split: iter(read_index(tmp_path / f"{split}.beton").labels.tolist()) for split in ("val", "train")}
    for number, original in enumerate(digits.images):
        image = next(validation if number % 5 == 0 else train)
        assert next(labels["val" if number % 5 == 0 else "train"]) == digits.target[number]
        assert np.array_equal(np.round(image[::2, ::2, 0] * (16 / 255)), original), "nothing is lost"
        assert np.array_equal(image, np.kron(image[::2, ::2, :1], np.ones((2, 2, 3), np.uint8)))


@pytest.mark.slow
def test_progress_is_a_plain_line_where_there_is_no_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "LINE_EVERY", 0.0)
    prepare_digits(tmp_path, replace(SMALL_IMAGES, workers=2))
    out, err = capfd.readouterr()
    assert "train.beton: 1,437 of 1,437 images" in out
    assert "train.beton: 1,437 images of 10 classes, up to 16 x 16 px" in out
    assert "\x1b" not in out + err and "\r" not in out + err


@pytest.mark.parametrize(
    ("seen", "line"),
    [
        ([(100.0, 360)], "x: 360 of 360 images\n"),  # all were done when the clock was started
        ([(100.0, 100), (100.05, 360)], "x: 360 of 360 images\n"),  # too short to be measured
        ([(100.0, 100), (102.0, 360)], "x: 360 of 360 images, 130 images/s\n"),
        ([(100.0, 359), (102.0, 360)], "x: 360 of 360 images, 0.5 images/s\n"),
    ],
)
def test_progress_states_no_rate_that_was_not_measured(
    seen: list[tuple[float, int]], line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(now for now, _ in seen)
    monkeypatch.setattr(prepare, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with prepare.show_progress("x", 360) as show:
        for _, done in seen:
            show(done)
    assert capsys.readouterr().out == line
