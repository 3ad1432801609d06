"""Loaders side by side: the same photographs, random crop and flip, as many threads or processes each."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.table import Row, ratio_row
from trainer.commands.benchmark.peers import Job, Peer, ffcv_loader, image_folder, torchvision_pipeline
from trainer.data.beton.index import read_index
from trainer.data.beton.prepare import PrepareOptions, prepare_folder
from trainer.recipe import RandomResizedCrop

BATCH = 64


def our_loader(job: Job) -> Iterator[int]:
    """This project's, in training's order and with training's draws, from a .beton or from class folders."""
    from trainer.data.beton.source import BetonSource
    from trainer.data.crop import train_view
    from trainer.data.image_folder import ImageFolderSource
    from trainer.data.loader import Loader
    from trainer.data.order import epoch_order, train_batches

    assert isinstance(job.crop, RandomResizedCrop)
    in_folders = job.source.is_dir()
    source = ImageFolderSource(job.source) if in_folders else BetonSource(job.source, check_content=False)
    with Loader(source, workers=job.workers) as loader:
        for epoch in count():
            order = epoch_order(0, epoch, len(loader))
            samples = train_batches(
                order, first_step=0, micro_batch_size=job.batch_size, accumulation=1, rank=0, world_size=1
            )
            view = train_view(job.crop, job.flip, 0, epoch)
            for batch in loader.batches(samples, view, job.crop.resolution):
                yield len(batch.labels)


def our_loader_from_wheels(job: Job) -> Iterator[int]:
    """The same as it is without FFCV's library and Numba."""
    import sys

    sys.modules.update({"ffcv": None, "numba": None})  # type: ignore[dict-item]  # they cannot be imported then
    yield from our_loader(job)


def torchvision_io(job: Job) -> Iterator[int]:
    """torchvision.io's decoder and its transforms on tensors; uint8 batches."""
    from torchvision.io import ImageReadMode, decode_jpeg, read_file
    from torchvision.transforms import v2

    def load(path: str) -> Any:
        return decode_jpeg(read_file(path), mode=ImageReadMode.RGB)

    assert isinstance(job.crop, RandomResizedCrop)
    crop = v2.RandomResizedCrop(job.crop.resolution, job.crop.scale, job.crop.ratio, antialias=True)
    yield from image_folder(job, [crop, v2.RandomHorizontalFlip()], load)


def pil_uint8(job: Job) -> Iterator[int]:
    """PIL decodes, crops and resizes; uint8 batches."""
    from torchvision import transforms

    assert isinstance(job.crop, RandomResizedCrop)
    crop = transforms.RandomResizedCrop(job.crop.resolution, job.crop.scale, job.crop.ratio)
    yield from image_folder(job, [crop, transforms.RandomHorizontalFlip(), transforms.PILToTensor()])


def repeat_photos(photos: Path, folder: Path, repeats: int) -> None:
    """Links `photos`, class folders, `repeats` times into class folders of folder/train and once of folder/val."""
    for split, times in (("train", repeats), ("val", 1)):
        for image in sorted(photos.glob("*/*")):
            for number in range(times):
                link = folder / split / image.parent.name / f"{number}_{image.name}"
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(image.absolute())


def write_data(photos: Path, folder: Path, repeats: int) -> dict[str, Path]:
    """What each of the loaders reads: `photos` several times over, as an epoch of 196 would be its beginning only.

    Returns original (class folders), stored (class folders of the JPEGs in a .beton: at most 500 px, quality 90), plain
    (all JPEG, no tiles), tiles (all JPEG) and default (what prepare makes).
    """
    repeat_photos(photos, folder / "original", repeats)
    written = {
        "plain": PrepareOptions(write_mode="jpg", jpeg_tiles=False),
        "tiles": PrepareOptions(write_mode="jpg"),
        "default": PrepareOptions(),
    }
    for name, options in written.items():
        prepare_folder(folder / "original", folder / name, options)
    index = read_index(folder / "plain" / "train.beton")
    content = (folder / "plain" / "train.beton").read_bytes()
    for number, (start, size) in enumerate(zip(index.pointers, index.sizes, strict=True)):
        target = folder / "stored" / f"{index.labels[number]:05}" / f"{number:06}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content[start : start + size])
    return {
        "original": folder / "original" / "train",
        "stored": folder / "stored",
        **{name: folder / name / "train.beton" for name in written},
    }


def loader_rows(data: dict[str, Path], *, workers: int, rounds: int, seconds: float) -> list[Row]:
    job = Job(
        source=data["tiles"],
        batch_size=BATCH,
        workers=workers,
        crop=RandomResizedCrop(resolution=224),
        flip=True,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )
    readers: dict[str, tuple[Callable[[Job], Iterator[int]], str]] = {
        "ours": (our_loader, "tiles"),
        "ours, no tiles": (our_loader, "plain"),
        "ours, default": (our_loader, "default"),
        "ours, folders": (our_loader, "stored"),
        "ours, wheels": (our_loader_from_wheels, "tiles"),
        "ours, folders, wheels": (our_loader_from_wheels, "stored"),
        "FFCV": (ffcv_loader, "plain"),
        "FFCV, tiles": (ffcv_loader, "tiles"),
        "FFCV, default": (ffcv_loader, "default"),
        "torchvision.io": (torchvision_io, "stored"),
        "PIL": (pil_uint8, "stored"),
        "reference": (torchvision_pipeline, "stored"),
        "reference, original": (torchvision_pipeline, "original"),
    }
    rates: dict[str, list[float]] = {name: [] for name in readers}
    with ExitStack() as stack:
        peers = {}
        for name, (read, kind) in readers.items():
            peers[name] = Peer(read, replace(job, source=data[kind]))
            stack.callback(peers[name].close)
        for peer in peers.values():
            peer.wait_until_ready()
        for _ in range(rounds):
            for name, peer in peers.items():
                rates[name].append(peer.images_per_second(seconds))
    jpeg = "loader, JPEG of at most 500 px: ours"
    compared = [
        (f"{jpeg} / FFCV's Loader and operations", "ours", "FFCV", 1.35),
        (f"{jpeg} / FFCV's on the very same file, with tiles", "ours", "FFCV, tiles", 1.35),
        (f"{jpeg} without tiles / FFCV's", "ours, no tiles", "FFCV", 1.35),
        (f"{jpeg} / torchvision.io in a DataLoader", "ours", "torchvision.io", 1.6),
        (f"{jpeg} / PIL, uint8", "ours", "PIL", 2.2),
        (f"{jpeg} / PIL, ToTensor, Normalize (reference)", "ours", "reference", 3.0),
        ("loader, what prepare makes: ours / reference on the original files", "ours, default", "reference, original",
         3.5),
        ("loader, class folders: ours / torchvision.io in a DataLoader", "ours, folders", "torchvision.io", 1.0),
        ("loader, class folders: ours / PIL, ToTensor, Normalize (reference)", "ours, folders", "reference", 2.5),
        ("loader, class folders without FFCV's library / with it", "ours, folders, wheels", "ours, folders", 0.5),
        ("loader, JPEG of at most 500 px without FFCV's library / with it", "ours, wheels", "ours", 0.5),
        ("loader, what prepare makes: ours / FFCV's", "ours, default", "FFCV, default", 1.35),
    ]  # fmt: skip
    return [ratio_row(what, rates[our], rates[their], target) for what, our, their, target in compared]
