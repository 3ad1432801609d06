"""ResNet-50 on one GPU: loader, step and both together beside timm's and torchvision's steps, and how far the limit is.

    python -m benchmarks.gpu --photos PHOTOS [--workers 16] [--json FILE]     # writes its .beton files itself
    python -m benchmarks.gpu --data DIR [--workers 16] [--json FILE]          # a folder with train.beton

About ten minutes, most of them for torch.compile. Without a GPU it runs too, on the CPU, to try it.
"""

import gc
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
import tyro
from torch import nn

from benchmarks.loaders import write_data
from benchmarks.roofline import Roofline, roofline
from trainer import distributed
from trainer.benchmark.peak import wait_for
from trainer.benchmark.training_step import TrainingStep
from trainer.data import open_beton
from trainer.data.augment import Augmenter
from trainer.data.crop import train_view
from trainer.data.device import DeviceBatch, device_batches
from trainer.data.loader import BATCHES_AHEAD, Batch, Loader
from trainer.data.order import epoch_order, train_batches
from trainer.data.stream import train_stream
from trainer.distributed import World
from trainer.environment import environment
from trainer.model import build_model
from trainer.precision import allow_tensor_float
from trainer.recipe import RandomResizedCrop, Recipe, ResNet
from trainer.recipe_file import load_recipe
from trainer.settings import TrainSettings

TARGETS = {"real, compiled": 4500.0, "real / synthetic": 0.97}  # images/s on one H200 with 16 cores, and the ratio
PHOTO_REPEATS = 40  # 196 photographs become an epoch of 30 batches of 256
WARM_UP = 8  # micro-batches: kernels are chosen, what was read ahead is used up

Step = Callable[[DeviceBatch], None]


@dataclass(frozen=True, kw_only=True)
class GpuSettings:
    """Measure one GPU with everything in turn."""

    data: Path | None = None
    """folder with train.beton"""
    photos: Path | None = None
    """folder of class folders of photographs, to write one from"""
    workers: int | None = None
    """threads that read images; None: all CPUs"""
    batch: int = 256
    resolution: int = 224
    depth: Literal[18, 34, 50, 101, 152] = 50
    seconds: float = 6.0
    """length of one measurement"""
    rounds: int = 3
    device: Literal["auto", "cuda", "cpu"] = "auto"
    compile: bool = True
    """measure torch.compile too, plain and with CUDA graphs"""
    json: Path | None = None


def main(settings: GpuSettings) -> None:
    with ExitStack() as stack:
        world = stack.enter_context(distributed.world(settings.device, timeout_minutes=30))
        data = settings.data
        if data is None:
            assert settings.photos, "--data or --photos: what should be read?"
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            data = write_data(settings.photos, folder, PHOTO_REPEATS)["tiles"].parent
        workers = settings.workers or len(os.sched_getaffinity(0))
        source = open_beton(data / "train.beton", check_content=False)
        loader = stack.enter_context(Loader(source, workers=workers, pin_memory=world.device.type == "cuda"))
        recipe = _recipe(settings, len(source.classes))
        allow_tensor_float(recipe.precision)
        torch.backends.cudnn.benchmark = True
        rates, failed = _measure(recipe, loader, world, settings)
        synchronises = _synchronises(recipe, world)
        limit = roofline(recipe, _module(recipe, world), world.device)
        hardware = environment(world, TrainSettings(data=str(data), run_dir=Path(), workers=workers))
    print(_report(rates, failed, limit, synchronises, hardware, settings, workers))
    if settings.json:
        found = {"images_per_second": rates, "failed": failed, "roofline": limit.as_json(),
                 "synchronises": synchronises, "hardware": hardware, "workers": workers}  # fmt: skip
        settings.json.write_text(json.dumps(found, indent=2) + "\n")


def _recipe(settings: GpuSettings, num_classes: int) -> Recipe:
    return replace(
        load_recipe("resnet50_goyal2017"),
        name="benchmark",
        published=None,
        model=ResNet(depth=settings.depth),
        num_classes=num_classes,
        train_crop=RandomResizedCrop(resolution=settings.resolution),
        global_batch_size=settings.batch,
        micro_batch_size=settings.batch,
        norm_batch_size=None,
        precise_norm_images=None,
        precision="bf16",
    )


def _module(recipe: Recipe, world: World) -> nn.Module:
    torch.manual_seed(0)
    module = build_model(recipe.model, recipe.num_classes)
    return module.to(world.device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _ours(recipe: Recipe, world: World, compile_mode: str | None = None) -> Step:
    """The recipe's own step, as train.py has it: channels-last, bf16, fused SGD."""
    return TrainingStep(
        recipe, _module(recipe, world), world, steps_per_epoch=10_000, compile=compile_mode is not None,
        compile_mode=compile_mode or "default",
    )  # fmt: skip


def _timm(recipe: Recipe, world: World) -> Step:
    """What timm's train.py does in a step: channels-last, autocast, its own SGD, zero_grad before backward."""
    import timm
    from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]

    model = timm.create_model(f"resnet{_depth(recipe)}", num_classes=recipe.num_classes)
    model = model.to(world.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = create_optimizer_v2(model, "sgd", lr=0.1, weight_decay=1e-4, momentum=0.9)

    def step(batch: DeviceBatch) -> None:
        with torch.autocast(world.device.type, torch.bfloat16):
            loss = nn.functional.cross_entropy(model(batch.images), batch.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def _torchvision(recipe: Recipe, world: World) -> Step:
    """What references/classification/train.py does: contiguous, autocast, loss and accuracies read in every step."""
    from torchvision import models

    model = models.get_model(f"resnet{_depth(recipe)}", num_classes=recipe.num_classes).to(world.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)

    def step(batch: DeviceBatch) -> None:
        images = batch.images.contiguous()
        with torch.autocast(world.device.type, torch.bfloat16):
            output = model(images)
            loss = nn.functional.cross_entropy(output, batch.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        right = output.topk(min(5, recipe.num_classes)).indices == batch.labels[:, None]
        loss.item(), right[:, 0].sum().item(), right.sum().item()

    return step


def _depth(recipe: Recipe) -> int:
    assert isinstance(recipe.model, ResNet)
    return recipe.model.depth


def _measure(
    recipe: Recipe, loader: Loader, world: World, settings: GpuSettings
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Images/s of each round, and what failed, with its message. The steps are built one after the other."""
    size, resolution = recipe.micro_batch_size, recipe.train_crop.resolution
    noise = torch.randint(256, (size, resolution, resolution, 3), dtype=torch.uint8)
    noise = noise.pin_memory() if world.device.type == "cuda" else noise
    labels = torch.randint(recipe.num_classes, (size,))

    def read() -> Iterator[Batch]:
        for epoch in count():
            samples = train_batches(
                epoch_order(0, epoch, len(loader)), first_step=0, micro_batch_size=size, accumulation=1, rank=0,
                world_size=1,
            )  # fmt: skip
            yield from loader.batches(samples, train_view(recipe.train_crop, recipe.flip, 0, epoch), resolution)

    def synthetic() -> Iterator[DeviceBatch]:
        here, known = noise.to(world.device).permute(0, 3, 1, 2), labels.to(world.device)
        batches = (Batch(here, known, torch.arange(size)) for _ in count())
        return device_batches(batches, world.device, recipe.mean, recipe.std, Augmenter(recipe, 0))

    def real() -> Iterator[DeviceBatch]:
        for epoch in count():
            yield from train_stream(recipe, loader, world, epoch=epoch, accumulation=1)

    steps: dict[str, tuple[Callable[[], Step], tuple[str, ...]]] = {
        "": (lambda: _ours(recipe, world), ("synthetic", "real")),
        ", compiled": (lambda: _ours(recipe, world, "default"), ("synthetic", "real")),
        ", compiled, CUDA graphs": (lambda: _ours(recipe, world, "reduce-overhead"), ("synthetic", "real")),
        "timm": (lambda: _timm(recipe, world), ("synthetic",)),
        "torchvision": (lambda: _torchvision(recipe, world), ("synthetic",)),
    }
    if not settings.compile:
        steps = {name: made for name, made in steps.items() if "compiled" not in name}
    batches: dict[str, Callable[[], Iterator[Any]]] = {"synthetic": synthetic, "real": real}
    rates = {"loader": _rates(read, lambda _: None, settings, world)}
    rates["copy"] = _rates(lambda: (noise for _ in count()), lambda x: x.to(world.device, non_blocking=True),
                           settings, world)  # fmt: skip
    failed = {}
    for name, (build, kinds) in steps.items():
        step = None
        try:
            step = build()
            for kind in kinds:
                key = f"{kind}{name}" if name.startswith((",",)) or not name else f"{name}'s step, {kind}"
                rates[key] = _rates(batches[kind], step, settings, world)
        except Exception as error:  # of one of them, such as a compiler that is missing: the others are measured still
            failed[name or "ours"] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        del step
        gc.collect()
        if world.device.type == "cuda":
            torch.cuda.empty_cache()
    return rates, failed


def _rates(
    batches: Callable[[], Iterator[Any]], work: Callable[[Any], Any], settings: GpuSettings, world: World
) -> list[float]:
    """Images/s of each round. The device is waited for at both ends of a round and nowhere within it."""
    rates = []
    for _ in range(settings.rounds):
        stream = batches()
        for _ in range(max(WARM_UP, BATCHES_AHEAD + 2)):
            work(next(stream))
        wait_for(world.device)
        done, start = 0, time.perf_counter()
        while time.perf_counter() - start < settings.seconds:
            work(next(stream))
            done += 1
            if done % 16 == 0 and world.device.type == "cuda":  # so that the host does not run seconds ahead
                wait_for(world.device)
        wait_for(world.device)
        rates.append(done * settings.batch / (time.perf_counter() - start))
        if hasattr(stream, "close"):
            stream.close()
    return rates


def _synchronises(recipe: Recipe, world: World) -> str | None:
    """What in our step waits for the device, as torch reports it; None where nothing does, "" where it cannot say."""
    if world.device.type != "cuda":
        return ""
    step, size = _ours(recipe, world), recipe.train_crop.resolution
    images = torch.randn(recipe.micro_batch_size, 3, size, size, device=world.device)
    labels = torch.zeros(recipe.micro_batch_size, dtype=torch.int64, device=world.device)
    batch = DeviceBatch(images.contiguous(memory_format=torch.channels_last), labels, labels)
    step(batch)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            step(batch)
    except RuntimeError as error:
        return str(error).splitlines()[0]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return None


def _report(
    rates: dict[str, list[float]], failed: dict[str, str], limit: Roofline, synchronises: str | None,
    hardware: dict[str, Any], settings: GpuSettings, workers: int,
) -> str:  # fmt: skip
    at = f"{hardware['gpu'] or 'NOT A GPU: ' + hardware['cpu']}, {workers} loader threads, commit {hardware['commit']}"
    lines = [
        f"ResNet-{settings.depth}, {settings.resolution} px, batch {settings.batch}, bf16, channels-last; {at}; "
        f"torch {hardware['packages']['torch']}; median of n = {settings.rounds} x {settings.seconds:g} s",
        "",
        "| what | images/s (range) |",
        "|---|---|",
        *(f"| {name} | {median(found):,.0f} ({min(found):,.0f} to {max(found):,.0f}) |"
          for name, found in rates.items()),
        *(f"| {name} | failed: {why} |" for name, why in failed.items()),
        "",
        limit.in_words(),
        {None: "nothing in the step waits for the device", "": "whether the step waits is asked on a GPU only"}.get(
            synchronises, f"THE STEP WAITS: {synchronises}"
        ),
    ]  # fmt: skip
    for kind in ("", ", compiled", ", compiled, CUDA graphs"):
        if f"real{kind}" in rates and f"synthetic{kind}" in rates:
            ratio = median(rates[f"real{kind}"]) / median(rates[f"synthetic{kind}"])
            lines.append(f"real / synthetic{kind}: {ratio:.3f} (target {TARGETS['real / synthetic']})")
    fastest = max(median(found) for name, found in rates.items() if name.startswith("real"))
    lines.append(
        f"fastest on real images: {fastest:,.0f} images/s (target {TARGETS['real, compiled']:,.0f} on an H200)"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main(tyro.cli(GpuSettings))
