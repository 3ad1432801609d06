"""Files that FFCV's own writer made get a manifest, without being written again."""

from collections import Counter
from pathlib import Path

import numpy as np

from trainer.data.beton import manifest as beside
from trainer.data.beton.index import JPEG, content_checksum, read_index
from trainer.data.beton.manifest import DataOrigin, Manifest
from trainer.data.content import in_threads
from trainer.data.crop import eval_view
from trainer.data.formats import open_beton
from trainer.data.images import reason
from trainer.data.listing import class_order_note, list_class_folders
from trainer.data.shards import read_names
from trainer.errors import LocalError, UserError
from trainer.recipe import CenterCrop
from trainer.settings import AdoptSettings

_SMALL = 32  # px, of the crops that only show whether an image can be decoded


def adopt(settings: AdoptSettings) -> None:
    """Checks each file once, every byte, and writes manifest and stamp beside it. The file itself is not changed.

    Raises UserError if a file is damaged, has fields that are not image and label, has labels that `classes` does
    not name, or has a manifest already.
    """
    classes = class_names(settings.classes)
    for note in class_order_note(classes):
        print(note)
    for file in settings.files:
        adopted = _adopt(file, classes, overwrite=settings.overwrite)
        print(f"{beside.manifest_path(file)}: {adopted.summary()}", flush=True)


def class_names(source: Path) -> list[str]:
    """Returns the names in a text file, one a line, or those of the class folders in a folder. Raises UserError."""
    if source.is_dir():
        return list_class_folders(source).classes
    try:
        names = read_names(source)
    except (OSError, ValueError) as error:
        raise UserError(
            f"--classes {source} cannot be read ({reason(error)}): give a text file with one name per line, or the "
            f"folder of class folders that the file was made from"
        ) from error
    if twice := next((name for name, count in Counter(names).items() if count > 1), None):
        raise UserError(f"--classes {source} names {twice!r} twice: one name per line, in the order of the labels")
    return names


def _adopt(file: Path, classes: list[str], *, overwrite: bool) -> Manifest:
    if beside.manifest_path(file).exists() and not overwrite:
        raise UserError(f"{beside.manifest_path(file)} is there already: pass --overwrite to replace it")
    stamp = beside.stamp_now(file, "")
    index = read_index(file)
    if (highest := int(index.labels.max())) >= len(classes):
        raise UserError(f"{file}: labels go up to {highest}, but --classes names {len(classes)}: name {highest + 1}")
    checksum = content_checksum(file, index)
    if beside.stamp_now(file, "") != stamp:
        raise UserError(f"{file} was written to while it was read: try again when it is complete")
    jpegs = float(np.mean(index.modes == JPEG))
    found = Manifest(
        count=len(index),
        classes=classes,
        class_counts=np.bincount(index.labels, minlength=len(classes)).tolist(),
        sizes=index.extremes(int(stamp["size"])),
        source=DataOrigin(kind="ffcv", name=file.absolute().parent.name),
        options=beside.Encoding(
            write_mode="jpg" if jpegs == 1 else "proportion" if jpegs else "raw",
            max_resolution=None,
            compress_probability=jpegs,
            jpeg_tiles=False,
        ),
        skipped=[],
        checksum=checksum,
        software={},
    )
    try:
        beside.write_manifest(found, file)
    except OSError as error:
        raise UserError(f"{beside.manifest_path(file)} cannot be written: {error.strerror}") from error
    beside.write_stamp(file, {**stamp, "checksum": checksum})
    try:
        _decode_all(file, len(index))
    except BaseException:
        for written in (beside.manifest_path(file), beside.stamp_path(file)):
            written.unlink(missing_ok=True)
        raise
    return found


def _decode_all(file: Path, count: int) -> None:
    """Decodes every image, for FFCV's files have no checksum. Raises UserError with the first that cannot be."""
    view = eval_view(CenterCrop(resolution=_SMALL, crop_ratio=1.0))
    source = open_beton(file, check_content=False)

    def problem_of(image: int) -> str:
        images = np.array([image])
        try:
            source.read(images, view(images, *source.sizes(images)), np.empty((1, _SMALL, _SMALL, 3), np.uint8))
        except LocalError:
            return f"image {image}"
        return ""

    try:
        problems = in_threads(problem_of, count, f"decoding {file.name} once, to find bad images")
        bad = [problem for problem in problems if problem]
    finally:
        source.close()
    if bad:
        more = f" and {len(bad) - 1} others" if len(bad) > 1 else ""
        raise UserError(f"{file}: {bad[0]}{more} cannot be decoded: write the file again from the original images")
