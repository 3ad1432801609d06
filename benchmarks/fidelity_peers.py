"""The same training by timm's and torchvision's own parts, as their training scripts put them together.

Images, crops, optimizer and schedule are the library's. The loop is plain PyTorch in fp32, without channels-last.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from trainer.recipe import SGD, CenterCrop, RandomResizedCrop, Recipe, Steps


def timm_training(recipe: Recipe, data: Path, seed: int) -> float:
    """Top-1 in per cent, as timm's train.py has it: its reader, transforms, optimizer and schedule."""
    import timm
    from timm.data import create_dataset, create_loader  # type: ignore[attr-defined]
    from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]

    torch.manual_seed(seed)
    crop, sgd, schedule = _parts(recipe)
    model = timm.create_model("resnet18", num_classes=recipe.num_classes, zero_init_last=False)

    def loader(split: str, is_training: bool) -> Iterable[Any]:
        return create_loader(  # type: ignore[no-any-return]
            create_dataset("", root=str(data), split=split, is_training=is_training),
            input_size=(3, crop.resolution, crop.resolution),
            batch_size=recipe.global_batch_size,
            is_training=is_training,
            use_prefetcher=False,
            scale=crop.scale,
            ratio=crop.ratio,
            hflip=0.5,
            color_jitter=0.0,
            interpolation="bilinear",
            crop_pct=1.0,
            mean=recipe.mean,
            std=recipe.std,
            num_workers=1,
            device=torch.device("cpu"),
        )

    optimizer = create_optimizer_v2(
        model, opt="momentum", lr=sgd.lr, momentum=sgd.momentum, weight_decay=sgd.weight_decay, filter_bias_and_bn=False
    )  # timm's "sgd" has Nesterov's momentum
    scheduler = timm_scheduler(optimizer, schedule, recipe.epochs)
    train_loader = loader("train", is_training=True)
    for epoch in range(recipe.epochs):
        scheduler.step(epoch)
        _epoch(model, train_loader, optimizer)
    return _top1(model, loader("validation", is_training=False))


def timm_scheduler(optimizer: torch.optim.Optimizer, schedule: Steps, epochs: int) -> Any:
    """Call step(epoch) before each epoch, counted from 0.

    In timm a milestone of N drops the rate of epoch N - 1 (timm/scheduler/multistep_lr.py).
    """
    from timm.scheduler import create_scheduler_v2  # type: ignore[attr-defined]

    milestones = [int(at) + 1 for at in schedule.milestones]
    made, _ = create_scheduler_v2(
        optimizer, "multistep", num_epochs=epochs, decay_milestones=milestones, decay_rate=schedule.factor
    )
    return made


def torchvision_training(recipe: Recipe, data: Path, seed: int, interpolation: str = "bilinear") -> float:
    """Top-1 in per cent, as references/classification/train.py has it. Its images are PIL's."""
    from torchvision import datasets, models
    from torchvision.transforms import v2

    torch.manual_seed(seed)
    crop, sgd, schedule = _parts(recipe)
    how = v2.InterpolationMode(interpolation)
    end = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(recipe.mean, recipe.std)]
    random_crop = v2.RandomResizedCrop(crop.resolution, crop.scale, crop.ratio, interpolation=how)
    train = v2.Compose([random_crop, v2.RandomHorizontalFlip(), *end])
    val = v2.Compose([v2.Resize(crop.resolution, interpolation=how), v2.CenterCrop(crop.resolution), *end])

    def loader(split: str, transform: Callable[..., Any]) -> DataLoader:
        images = datasets.ImageFolder(str(data / split), transform)
        return DataLoader(images, recipe.global_batch_size, shuffle=split == "train", num_workers=1)

    model = models.resnet18(num_classes=recipe.num_classes)
    optimizer = torch.optim.SGD(model.parameters(), sgd.lr, sgd.momentum, weight_decay=sgd.weight_decay)
    milestones = [int(at) for at in schedule.milestones]
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, schedule.factor)
    train_loader = loader("train", train)
    for _ in range(recipe.epochs):
        _epoch(model, train_loader, optimizer)
        scheduler.step()
    return _top1(model, loader("val", val))


def _parts(recipe: Recipe) -> tuple[RandomResizedCrop, SGD, Steps]:
    """What differs in name between the libraries. Asserts that they all have it."""
    crop, sgd, schedule = recipe.train_crop, recipe.optimizer, recipe.schedule
    assert isinstance(crop, RandomResizedCrop) and type(sgd) is SGD and isinstance(schedule, Steps)
    assert recipe.eval_crop == CenterCrop(resolution=crop.resolution, crop_ratio=1.0)
    assert recipe.flip and sgd.decay_norm and sgd.decay_bias and not sgd.nesterov
    assert recipe.precision == "fp32" and recipe.micro_batch_size == recipe.global_batch_size
    return crop, sgd, schedule


def _epoch(model: nn.Module, loader: Iterable[Any], optimizer: torch.optim.Optimizer) -> None:
    model.train()
    for images, labels in loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()


@torch.no_grad()
def _top1(model: nn.Module, loader: Iterable[Any]) -> float:
    model.eval()
    right = images_seen = 0
    for images, labels in loader:
        right += int((model(images).argmax(1) == labels).sum())
        images_seen += len(labels)
    return 100 * right / images_seen
