"""Our reader of .beton files against FFCV's own Loader, against torchvision, and against damage."""

import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.processes import TIMEOUT
from trainer.data.beton.index import RAW, read_index
from trainer.data.beton.source import BetonSource
from trainer.data.crop import CropFn, eval_view, train_view
from trainer.data.formats import open_source
from trainer.data.loader import Loader
from trainer.errors import LocalError
from trainer.recipe import CenterCrop, PaddedCrop, RandomResizedCrop

CENTER = CenterCrop(resolution=48, crop_ratio=0.875)


def read_all(folder: Path, view: CropFn, resolution: int, classes: int = 4, split: str = "train") -> torch.Tensor:
    source = open_source(str(folder), split, num_classes=classes, resolution=resolution)  # type: ignore[arg-type]
    with Loader(source, workers=2) as loader:
        return torch.cat([batch.images for batch in loader.batches([np.arange(len(loader))], view, resolution)])


@pytest.mark.slow
def test_centre_crops_are_bit_equal_to_those_of_ffcvs_own_loader(photo_betons: Path, tmp_path: Path) -> None:
    code = f"""
        import numpy as np
        from ffcv.fields.basics import IntDecoder
        from ffcv.fields.rgb_image import CenterCropRGBImageDecoder
        from ffcv.loader import Loader, OrderOption
        from ffcv.transforms import Squeeze, ToTensor, ToTorchImage
        loader = Loader(
            {str(photo_betons / "train.beton")!r}, batch_size=16, num_workers=1, order=OrderOption.SEQUENTIAL,
            drop_last=False, pipelines={{
                "image": [CenterCropRGBImageDecoder((48, 48), 0.875), ToTensor(), ToTorchImage()],
                "label": [IntDecoder(), ToTensor(), Squeeze(1)],
            }})
        batches = [(images.numpy().copy(), labels.numpy().copy()) for images, labels in loader]
        np.savez({str(tmp_path / "ffcv.npz")!r}, images=np.concatenate([images for images, _ in batches]),
                 labels=np.concatenate([labels for _, labels in batches]))
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], timeout=TIMEOUT, check=True)
    theirs = np.load(tmp_path / "ffcv.npz")
    assert theirs["images"].shape == (64, 3, 48, 48)
    assert np.array_equal(read_all(photo_betons, eval_view(CENTER), 48).numpy(), theirs["images"])
    assert np.array_equal(BetonSource(photo_betons / "train.beton").labels, theirs["labels"])


@pytest.mark.parametrize(
    "view",
    [eval_view(CENTER), train_view(RandomResizedCrop(resolution=48), True, 0, 3)],
    ids=["centre", "random resized"],
)
def test_class_folders_give_the_same_crops_within_the_encoders_tolerance(
    view: CropFn, photos: Path, photo_betons: Path
) -> None:
    """Half of the .beton is compressed once more."""
    from_beton, from_folder = (read_all(folder, view, 48).float() for folder in (photo_betons, photos))
    difference = (from_beton - from_folder).abs().mean(dim=(1, 2, 3))
    assert difference.max() < 6
    assert difference.mean() < 2
    wrong_pair = (from_beton - from_folder.roll(1, dims=0)).abs().mean(dim=(1, 2, 3))
    assert wrong_pair.min() > 3 * difference.max()


@pytest.mark.slow
def test_padded_crops_of_raw_images_are_bit_equal_to_those_of_the_class_folders(digits: Path, tmp_path: Path) -> None:
    """Pixels that are only copied have no tolerance."""
    from PIL import Image

    whole = read_all(digits, eval_view(CenterCrop(resolution=16, crop_ratio=1.0)), 16, classes=10, split="val")
    labels = BetonSource(digits / "val.beton").labels
    for image, label in enumerate(labels):
        target = tmp_path / "val" / str(label) / f"{image:04}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(whole[image].permute(1, 2, 0).numpy()).save(target)
    in_folder_order = np.argsort(labels, kind="stable")  # folders are read class by class
    crop = PaddedCrop(resolution=32, padding=4, fill=(1, 2, 3))
    crops = train_view(crop, True, 5, 6)(np.arange(360), np.full(360, 32), np.full(360, 32))

    def cut(folder: Path, images: np.ndarray) -> np.ndarray:
        source = open_source(str(folder), "val", num_classes=10, resolution=32)
        out = np.empty((360, 32, 32, 3), np.uint8)
        source.read(images, crops, out)
        return out

    from_beton = cut(digits, in_folder_order)
    assert np.array_equal(from_beton, cut(tmp_path, np.arange(360)))
    outside = from_beton[(crops.boxes[:, 0] < 0) & ~crops.flips][:, 0]
    assert len(outside) > 50
    assert (outside == [1, 2, 3]).all()


def copy_of(folder: Path, tmp_path: Path) -> Path:
    for file in folder.glob("train.beton*"):
        shutil.copy(file, tmp_path)
    return tmp_path / "train.beton"


def read_one(source: BetonSource, image: int) -> None:
    images = np.array([image])
    crops = eval_view(CENTER)(images, *source.sizes(images))
    source.read(images, crops, np.empty((1, 48, 48, 3), np.uint8))


def test_jpeg_damaged_while_the_file_is_open_is_named(photo_betons: Path, tmp_path: Path) -> None:
    """FFCV ignores the decoder's return code and hands out another image's pixels under this label."""
    path = copy_of(photo_betons, tmp_path)
    index = read_index(path)
    image = int(np.flatnonzero(index.modes != RAW)[0])
    source = BetonSource(path)
    read_one(source, image)
    with path.open("r+b") as file:
        file.seek(int(index.pointers[image]))
        file.write(bytes(int(index.sizes[image])))
    with pytest.raises(LocalError, match=rf"train.beton: image {image} is a damaged JPEG"):
        read_one(source, image)


def test_file_cut_short_while_it_is_open_is_an_error_not_a_dead_process(photo_betons: Path, tmp_path: Path) -> None:
    path = copy_of(photo_betons, tmp_path)
    index = read_index(path)
    last = int(np.argmax(index.pointers))
    source = BetonSource(path)
    with path.open("r+b") as file:
        file.truncate(int(index.pointers[last]) + 1)
    with pytest.raises(LocalError, match=rf"image {last} cannot be read: the file has become shorter"):
        read_one(source, last)
