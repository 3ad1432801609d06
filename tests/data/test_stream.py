"""Every augmentation at once: the same pixels and mixtures on any number of processes, and from any step."""

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch

from trainer.data import order, stream
from trainer.data.formats import open_source
from trainer.data.loader import Loader
from trainer.data.mixing import mix
from trainer.data.stream import prepare_order, train_stream
from trainer.distributed.process_group import World
from trainer.recipe import (
    SGD,
    AutoAugment,
    CenterCrop,
    CifarResNet,
    ColorJitter,
    Constant,
    Mixing,
    PcaLighting,
    ProgressiveResizing,
    RandAugment,
    RandomErasing,
    RandomResizedCrop,
    Recipe,
    ScaleJitterCrop,
    TrivialAugmentWide,
)

EVERYTHING = Recipe(
    name="everything",
    dataset="photographs",
    model=CifarResNet(depth=8),
    num_classes=4,
    train_crop=RandomResizedCrop(resolution=48),
    progressive=ProgressiveResizing(start_resolution=24, start_epoch=0, end_epoch=2, multiple=12),
    flip=True,
    color=PcaLighting(std=0.5),
    augmentation=TrivialAugmentWide(),
    erasing=RandomErasing(probability=0.5),
    mixing=Mixing(mixup_alpha=0.2, cutmix_alpha=1.0),
    repeats=3,
    eval_crop=CenterCrop(resolution=48, crop_ratio=1.0),
    optimizer=SGD(lr=0.1),
    schedule=Constant(),
    epochs=3,
    global_batch_size=24,
    micro_batch_size=4,
    precision="fp32",
)
OTHER = replace(
    EVERYTHING,
    train_crop=ScaleJitterCrop(resolution=48, short_side=(50, 80)),
    color=ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4),
    augmentation=RandAugment(magnitude=7),
)
AUTO = replace(EVERYTHING, color=None, augmentation=AutoAugment())


def seen(
    recipe: Recipe, photos: Path, world_size: int, epoch: int = 1, first_step: int = 0
) -> dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]]:
    """Images and targets as the model gets them, by (step, micro-batch)."""
    found = {}
    accumulation = recipe.accumulation(world_size)
    device = torch.device("cpu")
    for rank in range(world_size):
        world = World(
            rank=rank,
            size=world_size,
            local_rank=rank,
            local_size=world_size,
            device=device,
            gloo=None,  # type: ignore[arg-type]
        )
        with Loader(open_source(str(photos), "train", num_classes=4, resolution=48), workers=1 + rank) as loader:
            stream = train_stream(recipe, loader, world, epoch=epoch, accumulation=accumulation, first_step=first_step)
            for number, (images, labels, _) in enumerate(stream):
                step, micro_step = first_step + number // accumulation, number % accumulation
                micro_batch = rank * accumulation + micro_step
                assert recipe.mixing
                found[step, micro_batch] = mix(
                    recipe.mixing, images, labels, num_classes=4, seed=recipe.seed, step=step, micro_batch=micro_batch
                )
    return found


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [EVERYTHING, OTHER, AUTO])
@pytest.mark.parametrize("world_size", [2, 3, 6])
def test_stream_every_number_of_processes_sees_the_same_images_and_targets(
    recipe: Recipe, world_size: int, photo_betons: Path
) -> None:
    alone, shared = seen(recipe, photo_betons, 1), seen(recipe, photo_betons, world_size)
    assert alone.keys() == shared.keys()
    assert len(alone) == 2 * 6  # 64 images: two steps of six micro-batches
    for key, (images, targets) in alone.items():
        assert torch.equal(images, shared[key][0]), key
        assert torch.equal(targets, shared[key][1]), key


@pytest.mark.parametrize("recipe", [EVERYTHING, OTHER])
def test_stream_entered_later_is_the_rest_of_it(recipe: Recipe, photo_betons: Path) -> None:
    whole, rest = seen(recipe, photo_betons, 1), seen(recipe, photo_betons, 1, first_step=1)
    assert rest.keys() == {key for key in whole if key[0] == 1}
    for key, (images, targets) in rest.items():
        assert torch.equal(images, whole[key][0])
        assert torch.equal(targets, whole[key][1])


def test_crops_grow_from_epoch_to_epoch(photo_betons: Path) -> None:
    sizes = [next(iter(seen(EVERYTHING, photo_betons, 1, epoch).values()))[0].shape[2:] for epoch in range(3)]
    assert sizes == [(24, 24), (36, 36), (48, 48)]


@pytest.mark.parametrize("change", ["color", "augmentation", "erasing", "mixing"])
def test_stream_each_part_changes_the_pixels(change: str, photo_betons: Path) -> None:
    """Else the tests above would compare what nothing has touched."""
    none = replace(EVERYTHING, color=None, augmentation=None, erasing=None, mixing=Mixing(mixup_alpha=1, probability=0))
    one = replace(none, **{change: getattr(EVERYTHING, change)})
    plain, changed = seen(none, photo_betons, 1), seen(one, photo_betons, 1)
    assert sum(not torch.equal(plain[key][0], changed[key][0]) for key in plain) >= 10


def test_repetitions_of_an_image_are_augmented_differently(photo_betons: Path) -> None:
    """One image in three, three times; no two samples of the epoch are equal."""
    recipe = replace(EVERYTHING, mixing=Mixing(mixup_alpha=1, probability=0))
    images = torch.cat([images for images, _ in seen(recipe, photo_betons, 1).values()])
    assert len(images) == 48
    assert len({image.numpy().tobytes() for image in images}) == 48


def test_order_that_was_prepared_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def epoch_order(seed: int, epoch: int, *given: Any) -> np.ndarray:
        made.append(epoch)
        return order.epoch_order(seed, epoch, *given)

    monkeypatch.setattr(stream, "epoch_order", epoch_order)
    loader = MagicMock(spec=Loader, __len__=lambda _self: 77)
    recipe = replace(EVERYTHING, epochs=1002)
    for epoch in (1000, 1001, 1002):
        prepare_order(recipe, loader, epoch)
        if epoch < recipe.epochs:
            expected = order.epoch_order(recipe.seed, epoch, 77, recipe.repeats)
            for _ in range(2):
                assert stream._order(recipe, epoch, 77).tolist() == expected.tolist()
    assert made == [1000, 1001]  # the last epoch has no next one
