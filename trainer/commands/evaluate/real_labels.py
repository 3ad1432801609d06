"""Several correct labels per image: the table of Beyer et al. 2020 (arXiv:2006.07159) for ImageNet, or one like it."""

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainer.data.encoded import EncodedSource
from trainer.data.loader import Source
from trainer.errors import NOT_JSON, UserError, first_line
from trainer.evaluation.imagenet import real_labels_json

OF_TIMM = "timm"
"""in place of a file: the table that timm ships"""
_IMAGENET_NAME = re.compile(r"ILSVRC2012_val_(\d{8})")


class RealLabels(NamedTuple):
    """The correct labels of each image."""

    checksum: str
    right: Tensor
    """bool, shape (images, logits): an image without any is not counted"""


def read_real_labels(file: Path, source: Source, classes: int, positions: Sequence[int] | None) -> RealLabels:
    """The correct labels of the images of `source`, for a network of `classes` classes.

    The file is JSON: a list with a list of classes for each image of ImageNet's validation set by its number, or an
    object of such lists by file name. `positions`: see class_positions. Raises UserError for a file or for image names
    that do not fit.
    """
    try:
        content = real_labels_json() if str(file) == OF_TIMM else file.read_bytes()
        table = json.loads(content)
    except (OSError, *NOT_JSON) as error:
        raise UserError(
            f"--real {file} cannot be read as JSON: {first_line(error)}; --real {OF_TIMM} is the table of ImageNet"
        ) from error
    if not isinstance(source, EncodedSource):
        raise UserError(
            f"--real {file} needs the images' file names, and {source.name} has none: give --data the folder of the "
            f"original class folders"
        )
    right = torch.zeros(len(source.labels), classes, dtype=torch.bool)
    for image in range(len(source.labels)):
        name = Path(source.where(image)).name
        for label in _entry(table, name, file):
            if type(label) is not int or not 0 <= label < classes:
                raise UserError(f"--real {file}: {name} has the class {label!r}, and the network {classes} classes")
            right[image, label] = True
    if positions is not None:
        right = right[:, torch.tensor(positions)]
    if not right.any():
        among = "" if positions is None else " among their classes"
        raise UserError(f"--real {file} has no label for any of these images{among}")
    return RealLabels(f"sha256:{hashlib.sha256(content).hexdigest()}", right)


def _entry(table: Any, name: str, file: Path) -> list[Any]:
    """The entry of an image. Raises UserError if the table has none."""
    if isinstance(table, list):
        numbered = _IMAGENET_NAME.search(name)
        if not numbered:
            raise UserError(f"--real {file} is by ImageNet's numbers, and {name} is not named ILSVRC2012_val_00000001")
        place = int(numbered[1]) - 1
        found = table[place] if 0 <= place < len(table) else None
    else:
        found = table.get(name) if isinstance(table, dict) else None
    if not isinstance(found, list):
        raise UserError(f"--real {file} has no list of classes for {name}")
    return found
