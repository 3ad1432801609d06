"""Images wherever they are: besides a folder as for training, one .beton file, or one folder of class folders."""

from pathlib import Path

from trainer.data import FOLDERS, SYNTHETIC, Split, open_beton, open_source
from trainer.data.loader import Source
from trainer.errors import UserError


def open_dataset(data: str, split: Split, *, num_classes: int, resolution: int, check_content: bool = True) -> Source:
    """The images of `data`: a .beton file or a folder of class folders, whole; of a folder that holds splits, `split`.

    `num_classes` and `resolution` (px) are those of synthetic:COUNT; other images have as many classes as they have.
    `check_content`: see open_source. Raises UserError where there are no images, or where they are damaged.
    """
    folder = Path(data)
    if data.startswith(SYNTHETIC):
        return open_source(data, split, num_classes=num_classes, resolution=resolution)
    if beton := beton_file(data, split):
        return open_beton(beton, check_content)
    names = " or ".join(f"{name}/" for name in FOLDERS[split])
    if not folder.exists():
        raise UserError(f"{data}: there is no such file or folder")
    if not folder.is_dir():
        raise UserError(f"{data} is neither a .beton file nor a folder: write it with python -m trainer prepare")
    other = next((name for name in ("train", "val") if name != split and (folder / f"{name}.beton").exists()), None)
    within = [folder / name for name in FOLDERS[split] if (folder / name).is_dir()]
    has_classes = any(entry.is_dir() for entry in folder.iterdir()) and not (folder / FOLDERS["train"][0]).is_dir()
    if other or not (within or has_classes):
        raise UserError(
            f"{data} has neither {split}.beton nor the folder {names}, and is no .beton file or folder of class folders"
        )
    from trainer.data.image_folder import ImageFolderSource

    return ImageFolderSource(within[0] if within else folder)


def beton_file(data: str, split: Split) -> Path | None:
    """The .beton file that `data` is, or that it holds for this split; None where there is none."""
    path = Path(data)
    if path.suffix == ".beton" and not path.is_dir():
        return path
    return path / f"{split}.beton" if (path / f"{split}.beton").exists() else None
