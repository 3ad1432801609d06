"""The training steps that are measured on a GPU: ours, timm's and torchvision's, each called with a micro-batch."""

from collections.abc import Callable

import torch
from torch import nn

from trainer.commands.benchmark.repeated_step import RepeatedStep
from trainer.data.device import DeviceBatch
from trainer.distributed.process_group import World
from trainer.model import build_model
from trainer.precision import autocast
from trainer.recipe import Recipe, ResNet

Step = Callable[[DeviceBatch], None]


def module(recipe: Recipe, device: torch.device) -> nn.Module:
    """The recipe's network on `device`, channels-last."""
    torch.manual_seed(recipe.seed)
    return _on(device, build_model(recipe.model, recipe.num_classes), torch.channels_last)


def ours(recipe: Recipe, world: World, compile_mode: str | None = None, cuda_graph: bool = False) -> Step:
    """The recipe's own step, as train.py has it: channels-last, autocast, fused SGD. `compile_mode`: None for eager.

    `cuda_graph`: with all of it in one.
    """
    return RepeatedStep(
        recipe,
        module(recipe, world.device),
        world,
        steps_per_epoch=10_000,
        compile_mode=compile_mode,
        cuda_graph=cuda_graph,
    )


def timms(recipe: Recipe, world: World, compiled: bool = False) -> Step:
    """What timm 1.0's train.py does with --channels-last, --amp-dtype bfloat16 in bf16, and --torchcompile.

    Its own SGD, zero_grad at the end. The loss is never read, in its favour where its release reads it in every step.
    """
    import timm
    from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]

    model = _on(
        world.device, timm.create_model(f"resnet{_depth(recipe)}", num_classes=recipe.num_classes), torch.channels_last
    )
    optimizer = create_optimizer_v2(model, "sgd", lr=0.1, weight_decay=1e-4, momentum=0.9)
    if compiled:
        model.compile()

    def step(batch: DeviceBatch) -> None:
        with autocast(recipe.precision, world.device):
            loss = nn.functional.cross_entropy(model(batch.images), batch.labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def torchvisions(recipe: Recipe, world: World) -> Step:
    """What torchvision 0.2x's references/classification/train.py does: contiguous, loss and accuracies read each step.

    In the precision of the others, where its --amp is fp16 with a scaler; it has no option for torch.compile.
    """
    from torchvision import models

    model = models.get_model(f"resnet{_depth(recipe)}", num_classes=recipe.num_classes)
    model = _on(world.device, model, torch.contiguous_format)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)

    def step(batch: DeviceBatch) -> None:
        images = batch.images.contiguous()
        with autocast(recipe.precision, world.device):
            output = model(images)
            loss = nn.functional.cross_entropy(output, batch.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        right = output.topk(min(5, recipe.num_classes)).indices == batch.labels[:, None]
        loss.item(), right[:, 0].sum().item(), right.sum().item()

    return step


def _on(device: torch.device, model: nn.Module, memory_format: torch.memory_format) -> nn.Module:
    return model.to(device, memory_format=memory_format)  # type: ignore[call-overload, no-any-return]


def _depth(recipe: Recipe) -> int:
    assert isinstance(recipe.model, ResNet)
    return recipe.model.depth
