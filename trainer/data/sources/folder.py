"""Class folders, also without validation images."""

from pathlib import Path

from trainer.data.beton.manifest import DataOrigin, Manifest
from trainer.data.beton.prepare import prepare_folder, write_splits
from trainer.data.formats import FOLDERS, TEST
from trainer.data.listing import class_order_note, list_class_folders, require_outside
from trainer.data.sources.options import SplitOptions
from trainer.data.sources.splits import of_files, splits_of
from trainer.errors import UserError


def prepare(src: Path, out: Path, options: SplitOptions) -> dict[str, Manifest]:
    """Converts SRC/train/CLASS/... and SRC/val/CLASS/..., see prepare_folder.

    With --val-fraction the validation images are drawn from SRC/train/CLASS/..., or from SRC/CLASS/... where SRC has no
    folder train. SRC/test is not touched then. Raises UserError if SRC has validation images, and if OUT is among
    the class folders.
    """
    if options.val_fraction is None:
        if (src / "train").is_dir() and not any((src / name).is_dir() for name in (*FOLDERS["val"], TEST)):
            raise UserError(
                f"{src} has no folder {' or '.join(FOLDERS['val'])}: add validation images, or draw them from the "
                f"training images with --val-fraction 0.1"
            )
        return prepare_folder(src, out, options)
    if found := [name for name in FOLDERS["val"] if (src / name).is_dir()]:
        raise UserError(f"{src / found[0]} has validation images: leave out --val-fraction, or give {src / 'train'}")
    folder = src / "train" if (src / "train").is_dir() else src
    require_outside(out, folder)
    listed = list_class_folders(folder, options.class_order)
    for note in (*listed.notes, *class_order_note(listed.classes)):
        print(note)
    images = of_files([folder / name for name in listed.files], listed.labels, listed.files)
    inner = folder.name if folder != src else ""
    origin = DataOrigin(kind="folder", name=src.resolve().name, folder=inner, class_order=options.class_order)
    return write_splits(out, splits_of(images, None, listed.classes, origin, options), options)
