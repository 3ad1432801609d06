"""Images from disk to the model: the choice of format.

Reading order: random.py (draws) - order.py (which image when) - crop.py (which part of it) - loader.py (batches, read
ahead) - beton.py, decode.py, image_folder.py, synthetic.py (where images come from) - augment.py, operations.py,
device.py (to the model) - stream.py (all of it) - resolution.py, mixing.py - prepare.py, writer.py, jpeg.py.
"""

from pathlib import Path
from typing import Literal

from trainer.data.loader import Source
from trainer.data.synthetic import SyntheticSource
from trainer.errors import UserError

Split = Literal["train", "val"]
FOLDERS: dict[str, tuple[str, ...]] = {"val": ("val", "validation", "test"), "train": ("train",)}
"""what people call the folder of a split"""
SYNTHETIC = "synthetic:"  # --data synthetic:50000


def open_source(data: str, split: Split, *, num_classes: int, resolution: int, check_content: bool = True) -> Source:
    """Opens DATA/train.beton or DATA/val.beton; without them the class folders DATA/train/ or DATA/val/.

    `check_content`: compare every byte with the manifest's checksum, where nobody has done so yet.
    Raises UserError where there is neither, where the file is damaged, or where it has another number of classes.
    """
    source = _open(data, split, num_classes, resolution, check_content)
    if len(source.classes) != num_classes:
        source.close()
        raise UserError(
            f"the recipe has num_classes={num_classes}, but {split} in {data} has {len(source.classes)} classes: "
            f"use --num-classes {len(source.classes)}, or other data"
        )
    return source


def _open(data: str, split: Split, num_classes: int, resolution: int, check_content: bool) -> Source:
    if data.startswith(SYNTHETIC):
        count = data.removeprefix(SYNTHETIC)
        if not count.isdecimal() or not int(count):
            raise UserError(f"--data {data} names no number of images: write synthetic:50000")
        return SyntheticSource(int(count) if split == "train" else max(1, int(count) // 10), num_classes, resolution)
    folder = Path(data)
    beton = folder / f"{split}.beton"
    if beton.exists():
        return open_beton(beton, check_content)
    for name in FOLDERS[split]:
        if (folder / name).is_dir():
            from trainer.data.image_folder import ImageFolderSource

            return ImageFolderSource(folder / name)
    folders = " or ".join(f"{name}/" for name in FOLDERS[split])
    raise UserError(
        f"--data {data} has neither {split}.beton nor the folder {folders}: write it with python -m trainer prepare"
    )


def open_beton(path: Path, check_content: bool) -> Source:
    """One .beton file; see open_source. Raises UserError where it is damaged, or where FFCV is not installed."""
    try:
        from trainer.data.beton.source import BetonSource
    except ImportError as error:
        raise UserError(
            f"{path} needs FFCV: pip install 'shortcut-trainer[ffcv]' (or give the folder of the original images)"
        ) from error
    return BetonSource(path, check_content)
