"""Opens the training and validation images on all ranks, and checks them before the first step."""

from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta

import torch.distributed as dist

from trainer.data.formats import Split, open_split, require_classes
from trainer.data.listing import require_same_classes, require_training_images
from trainer.data.loader import Loader, Source, check_square
from trainer.distributed.cpus import default_workers
from trainer.distributed.process_group import World, on_every_rank, require_same
from trainer.errors import LocalError, SharedError
from trainer.recipe import PaddedCrop, Recipe
from trainer.settings import TrainSettings

_READING = timedelta(hours=3)
"""that a process may take to compare the files with their checksums; a machine that is lost is noticed all the same"""


def open_loaders(recipe: Recipe, settings: TrainSettings, world: World, stack: ExitStack) -> tuple[Loader, Loader]:
    """Opens the training and validation images.

    One process of each machine checks the files before the others open them.
    """

    def open_one(split: Split, resolution: int) -> Loader:
        source = open_split(
            settings.data,
            split,
            num_classes=recipe.num_classes,
            resolution=resolution,
            check_content=world.local_rank == 0,  # compares the file's content with its checksum
            class_order=settings.class_order,
        )
        workers = settings.workers or default_workers(world.cpus)
        return stack.enter_context(Loader(source, workers=workers, pin_memory=world.device.type == "cuda"))

    def open_both() -> tuple[Loader, Loader]:
        train_loader = open_one("train", recipe.train_crop.resolution)
        eval_loader = open_one("val", recipe.eval_crop.resolution)
        require_same_classes(settings.data, train_loader.source.classes, eval_loader.source.classes)
        require_classes(train_loader.source, settings.data, recipe.num_classes)
        labels = train_loader.source.labels, eval_loader.source.labels
        require_training_images(settings.data, *labels, train_loader.source.classes)
        if isinstance(recipe.train_crop, PaddedCrop):
            check_square(train_loader.source, recipe.train_crop.resolution)
        if world.local_rank == 0 and (bad := next(eval_loader.source.bad_images(), None)):
            raise LocalError(bad)  # now, and not after the first epoch
        _ = train_loader.source.checksum, eval_loader.source.checksum  # files without a manifest are read for it now
        return train_loader, eval_loader

    patient = world
    if world.size > 1:
        gloo = dist.new_group(backend="gloo", timeout=_READING)
        assert isinstance(gloo, dist.ProcessGroup)
        patient = replace(world, gloo=gloo)
    first = on_every_rank(patient, lambda: open_both() if world.local_rank == 0 else None)
    train_loader, eval_loader = on_every_rank(patient, lambda: first or open_both())
    for split, loader in (("training", train_loader), ("validation", eval_loader)):
        require_same(world, f"{split} data", loader.source.checksum)
    if train_loader.source.checksum == eval_loader.source.checksum:
        raise SharedError(
            f"{settings.data}: train and val hold the same images, so that validation would report training accuracy: "
            f"put other images into val, or a part of these to overfit on purpose"
        )
    return train_loader, eval_loader


def source_notes(*sources: Source) -> list[str]:
    """Returns what a user should know of the images, each line once."""
    return list(dict.fromkeys(note for source in sources for note in source.notes))
