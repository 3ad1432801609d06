"""The kinds of sources that `prepare` reads, and what reads each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.data.beton.prepare import IMAGENET, SMALL_IMAGES, PrepareOptions, prepare_cifar10, prepare_digits
from trainer.data.sources import csv_list, folder, imagenet, parquet, torchvision_set, webdataset
from trainer.data.sources.options import FilesOptions, SplitOptions


@dataclass(frozen=True)
class Kind:
    """What a kind of source looks like on the command line."""

    images: str  # what --help says is converted
    argument: str  # its name in the usage; empty: it has none
    type: Any  # of the argument
    help: str
    options: PrepareOptions  # the defaults
    prepare: Callable[[Any, Path, Any], object]  # called with argument, folder to write into, options
    without: tuple[str, ...] = ()  # options that do not apply to it


_OWN_ORDER = ("class_order",)  # of kinds without class folders, and of ImageNet, whose classes are WNIDs

KINDS = {
    "folder": Kind(
        "class folders", "SRC", Path, "folder with class folders below train/ and val/ (validation/, valid/, test/); "
        "with --val-fraction: below train/ only, or class folders themselves", SplitOptions(), folder.prepare,
    ),
    "csv": Kind(
        "the images of a CSV or TSV list", "FILE", Path, "CSV or TSV file with a path and a label on each line",
        csv_list.CsvOptions(), csv_list.prepare, _OWN_ORDER,
    ),
    "imagenet": Kind(
        "ImageNet", "SRC", Path, "folder with ImageNet's official files as they are downloaded", IMAGENET,
        imagenet.prepare, _OWN_ORDER,
    ),
    "webdataset": Kind(
        "WebDataset shards", "SHARDS", tuple[str, ...], "shards: 'train-{000..123}.tar', other patterns, or a folder",
        FilesOptions(), webdataset.prepare, _OWN_ORDER,
    ),
    "parquet": Kind(
        "parquet files", "FILES", tuple[str, ...], "parquet files: 'train-*.parquet', other patterns, or a folder",
        parquet.ParquetOptions(), parquet.prepare, _OWN_ORDER,
    ),
    "torchvision": Kind(
        "a data set of torchvision", "NAME", str, "class of torchvision.datasets, such as Food101",
        torchvision_set.TorchvisionOptions(), torchvision_set.prepare, _OWN_ORDER,
    ),
    "cifar10": Kind(
        "CIFAR-10", "SRC", Path, "CIFAR-10's folder of Python batches, or class folders below train/ and test/",
        SMALL_IMAGES, prepare_cifar10,
    ),
    "digits": Kind(
        "scikit-learn's handwritten digits", "", None, "", SMALL_IMAGES,
        lambda source, out, options: prepare_digits(out, options), _OWN_ORDER,
    ),
}  # fmt: skip


def default_options(kind: str, argv: Sequence[str]) -> PrepareOptions:
    """Returns the options' defaults; for torchvision's data sets they depend on NAME, the first argument."""
    if kind == "torchvision" and argv and argv[0] in torchvision_set.SMALL:
        return torchvision_set.TorchvisionOptions(write_mode="raw")
    return KINDS[kind].options
