"""Measures loader, copy and compute separately, and all of them together, in turn in one run.

It writes nothing but the file of --json: no run directory, and nothing in the data folder.
"""

import json
import os
from collections.abc import Generator
from contextlib import ExitStack
from dataclasses import replace
from itertools import count
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Literal

import numpy as np
import torch

from trainer.atomic import replace_text
from trainer.commands.benchmark.bottleneck import smallest_useful_side
from trainer.commands.benchmark.measure import WARM_UP, Measured, Part, window, window_length
from trainer.commands.benchmark.peak import Peak, peak
from trainer.commands.benchmark.peers import Peer, PeerError, ffcv_loader, job, torchvision_pipeline
from trainer.commands.benchmark.repeated_step import RepeatedStep
from trainer.commands.benchmark.report import FFCV, TORCHVISION, figures, report, require_writable
from trainer.commands.benchmark.whole_epoch import evaluation_part, seconds_of_copy, whole_epoch
from trainer.commands.cost import pass_cost
from trainer.cuda_graph import DDP_WARM_UP, check_compile_mode, check_recordable
from trainer.data.augment import Augmenter
from trainer.data.crop import train_view
from trainer.data.device import DeviceBatch, device_batches
from trainer.data.formats import FOLDERS, beton_file, open_source
from trainer.data.loader import Batch, Loader, check_square
from trainer.data.order import epoch_order, train_batches
from trainer.data.stream import train_stream
from trainer.distributed import process_group
from trainer.distributed.cpus import default_workers
from trainer.distributed.process_group import World, gather, if_all_end, on_every_rank, require_same
from trainer.errors import SharedError, UserError, counted
from trainer.precision import set_tf32
from trainer.recipe import PaddedCrop, Recipe
from trainer.recipe_file import recipe_source
from trainer.settings import BenchmarkSettings, TrainSettings
from trainer.setup.checks import accumulation_steps, steps_in_epoch
from trainer.setup.networks import build_module
from trainer.setup.prepare import choose_kernels, start_record

FEW_BATCHES = 20  # in an epoch: then its start, when nothing is read ahead yet, takes much of the time


def benchmark(recipe: Recipe, settings: BenchmarkSettings) -> None:
    """Measures, prints what limits training, and writes the file of --json. Raises UserError for invalid input.

    The step is the one that training takes, with randomly initialised weights.
    """
    assert settings.data is not None  # settings require it without --fit
    load = os.getloadavg()[0]
    with ExitStack() as stack:
        world = stack.enter_context(process_group.initialize(settings.device, timeout_minutes=30))
        require_same(world, "recipe", recipe_source(recipe))
        accumulation = accumulation_steps(recipe, world)
        if settings.cuda_graph:
            check_recordable(recipe, world)
        check_compile_mode(recipe, world, settings.compile_mode)
        set_tf32(recipe.precision)
        choose_kernels(deterministic=False)
        original = on_every_rank(world, lambda: _check(settings))
        workers = settings.workers or default_workers(world.cpus)
        loader = stack.enter_context(on_every_rank(world, lambda: _open(recipe, "train", settings, workers, world)))
        steps = steps_in_epoch(recipe, len(loader))
        notes = _notes(recipe, load, micro_batches=steps * accumulation)
        eval_loader = _open_evaluation(recipe, settings, workers, world, notes, stack)
        recipe = replace(recipe, progressive=None)
        peers = _start_peers(recipe, settings, original, workers, stack)

        like_training = TrainSettings(
            data=settings.data,
            run_dir=Path(),
            workers=workers,
            compile=settings.compile,
            compile_mode=settings.compile_mode,
            cuda_graph=settings.cuda_graph,
        )
        torch.manual_seed(recipe.seed)
        module, _ = build_module(recipe, like_training, world, fresh=False)
        flops = pass_cost(recipe, module).training_flops
        compile_mode = settings.compile_mode if settings.compile else None
        step = RepeatedStep(
            recipe,
            module,
            world,
            steps_per_epoch=steps,
            compile_mode=compile_mode,
            cuda_graph=settings.cuda_graph,
        )
        stack.push(if_all_end(world, step.close))
        parts = _parts(recipe, loader, step, world, accumulation)
        if settings.cuda_graph:
            parts["compute"] = replace(parts["compute"], first=DDP_WARM_UP + 1)
        if eval_loader:
            parts["evaluation"] = evaluation_part(recipe, eval_loader, step.state, world)
        _wait_for_peers(peers, world, notes)
        measured, peaks = _measure(parts, peers, recipe, settings, world, notes)
        if not world.is_main:
            return
        found = figures(
            recipe,
            loader.source,
            measured,
            start_record(world, like_training, module),
            seconds=settings.seconds,
            workers=workers,
            cpus=default_workers(world.cpus),
            stored_side=_stored_side(recipe, settings, loader),
            flops=flops,
            peak=max(peaks),
            notes=notes,
        )
        if eval_loader:
            found["epoch"] = whole_epoch(
                images=steps * recipe.global_batch_size,
                images_per_second=measured["real"].total,
                evaluated=len(eval_loader),
                evaluated_per_second=measured["evaluation"].total,
                copy_seconds=median(seconds_of_copy(step.state, world) for _ in range(settings.rounds)),
            )
        if settings.json:
            replace_text(settings.json, json.dumps(found, indent=2) + "\n")
        print(report(found), flush=True)


def _check(settings: BenchmarkSettings) -> Path | None:
    """Checks what would otherwise fail after minutes. Returns the folder of the original training images."""
    require_writable(settings.json, settings.data, settings.original)
    if settings.original is None:
        return None
    for name in FOLDERS["train"]:
        folder = Path(settings.original) / name
        if folder.is_dir() and any(child.is_dir() for child in folder.iterdir()):
            return folder
    raise UserError(f"--original {settings.original} has no class folders below train/")


def _open(
    recipe: Recipe, split: Literal["train", "val"], settings: BenchmarkSettings, workers: int, world: World
) -> Loader:
    """The images of a split. The content of a .beton is not hashed: that would write a stamp file beside it."""
    resolution = (recipe.train_crop if split == "train" else recipe.eval_crop).resolution
    source = open_source(
        str(settings.data),
        split,
        num_classes=recipe.num_classes,
        resolution=resolution,
        check_content=False,
        class_order=settings.class_order,
    )
    if split == "train" and isinstance(recipe.train_crop, PaddedCrop):
        check_square(source, resolution)
    return Loader(source, workers=workers, pin_memory=world.device.type == "cuda")


def _open_evaluation(
    recipe: Recipe, settings: BenchmarkSettings, workers: int, world: World, notes: list[str], stack: ExitStack
) -> Loader | None:
    """The validation images; None, and a note, where they cannot be read: the other parts do not need them."""
    try:
        loader = on_every_rank(world, lambda: _open(recipe, "val", settings, workers, world))
    except UserError as error:
        notes.append(f"the evaluation is left out: {error}")
        return None
    return stack.enter_context(loader)


def _notes(recipe: Recipe, load: float, *, micro_batches: int) -> list[str]:
    """Caveats for a reader of the figures. `load`: the load average before anything was started."""
    notes = []
    if load > len(os.sched_getaffinity(0)) / 2:
        notes.append(f"other processes were busy here: load average {load:.1f} at the start")
    if recipe.progressive:
        start, own = recipe.progressive.start_resolution, recipe.train_crop.resolution
        notes.append(f"measured at {own} px, the resolution of the last epochs; the first ones have {start} px")
    if micro_batches < FEW_BATCHES:
        notes.append(f"an epoch has {micro_batches} micro-batches only: much of the measured time is its start")
    return notes


def _start_peers(
    recipe: Recipe, settings: BenchmarkSettings, original: Path | None, workers: int, stack: ExitStack
) -> dict[str, Peer]:
    """The other loaders, in processes of their own: they compile and list files while the model is built."""
    peers = {}
    if beton := beton_file(str(settings.data), "train"):
        peers[FFCV] = Peer(ffcv_loader, job(recipe, beton, workers))
    if original:
        peers[TORCHVISION] = Peer(torchvision_pipeline, job(recipe, original, workers))
    for peer in peers.values():
        stack.callback(peer.close)
    return peers


def _wait_for_peers(peers: dict[str, Peer], world: World, notes: list[str]) -> None:
    """Waits for all. Leaves out FFCV's Loader if it fails; a failing --original, which was requested, is an error."""
    for name in list(peers):
        problem = None
        try:
            peers[name].wait_until_ready()
        except PeerError as error:
            problem = str(error)
        problems = [text for text in gather(world, problem) if text is not None]
        if problems and name == TORCHVISION:
            raise SharedError(f"--original cannot be read by torchvision: {problems[0]}")
        if problems:
            notes.append(f"{name} is left out: {problems[0]}")
            del peers[name]


def _parts(recipe: Recipe, loader: Loader, step: RepeatedStep, world: World, accumulation: int) -> dict[str, Part]:
    """The parts to measure, in this order."""
    size, resolution = recipe.micro_batch_size, recipe.train_crop.resolution
    noise = torch.randint(256, (size, resolution, resolution, 3), dtype=torch.uint8)
    if world.device.type == "cuda":
        noise = noise.pin_memory()
    labels = torch.randint(recipe.num_classes, (size,)).to(world.device)

    def read(first_epoch: int) -> Generator[Batch, None, None]:
        for epoch in count(first_epoch):
            samples = train_batches(
                epoch_order(recipe.seed, epoch, len(loader), recipe.repeats, recipe.order),
                first_step=0,
                micro_batch_size=size,
                accumulation=accumulation,
                rank=world.rank,
                world_size=world.size,
            )
            view = train_view(recipe.train_crop, recipe.flip, recipe.seed, epoch)
            yield from loader.batches(samples, view, resolution)

    def on_host(_: int) -> Generator[torch.Tensor, None, None]:
        while True:
            yield noise.permute(0, 3, 1, 2)

    def on_device(epoch: int) -> Generator[DeviceBatch, None, None]:
        images = noise.to(world.device).permute(0, 3, 1, 2)
        batches = (Batch(images, labels, torch.arange(first, first + size)) for first in count(step=size))
        yield from device_batches(batches, world.device, recipe.mean, recipe.std, Augmenter(recipe, epoch))

    def real(first_epoch: int) -> Generator[DeviceBatch, None, None]:
        for epoch in count(first_epoch):
            yield from train_stream(recipe, loader, world, epoch=epoch, accumulation=accumulation)

    parts = {"loader": Part(batches=read, work=lambda _: None, images=size, warm_up=WARM_UP)}
    if world.device.type == "cuda":
        parts["copy"] = Part(
            batches=on_host, work=lambda images: images.to(world.device, non_blocking=True), images=size
        )
    parts["augmentation"] = Part(batches=on_device, work=lambda _: None, images=size)
    parts["compute"] = Part(batches=on_device, work=step, images=size, accumulation=accumulation)
    parts["real"] = Part(batches=real, work=step, images=size, warm_up=WARM_UP, accumulation=accumulation)
    return parts


def _measure(
    parts: dict[str, Part],
    peers: dict[str, Peer],
    recipe: Recipe,
    settings: BenchmarkSettings,
    world: World,
    notes: list[str],
) -> tuple[dict[str, Measured], list[Peak]]:
    """Measures all rounds of all parts, peers and the device's peak in turn: what slows one slows all of them."""

    def say(text: str) -> None:
        if world.is_main:
            print(text, flush=True)

    say(f"{settings.rounds} x {settings.seconds:g} s of each in turn: {', '.join([*parts, *peers])}")
    began = perf_counter()
    lengths = {}
    for name, part in parts.items():
        lengths[name] = window_length(part, settings.seconds, world)
        say(f"{name}: {counted(lengths[name], 'micro-batch')}, found after {perf_counter() - began:.0f} s")
    began = perf_counter()
    measured = {name: Measured() for name in [*parts, *peers]}
    peaks = []
    for round_number in range(settings.rounds):
        for name, part in parts.items():
            rates = gather(world, window(part, lengths[name], round_number, world))
            measured[name].images_per_second.append([rate.images_per_second for rate in rates])
            measured[name].data_wait.append([rate.data_wait for rate in rates])
        peaks.append(peak(world.device, recipe.precision))
        for name in list(peers):
            answer: float | str
            try:
                answer = peers[name].images_per_second(settings.seconds)
            except PeerError as error:
                answer = str(error)
            answers = gather(world, answer)
            if problems := [text for text in answers if isinstance(text, str)]:
                notes.append(f"{name} is left out: {problems[0]}")
                del peers[name], measured[name]
            else:
                measured[name].images_per_second.append([rate for rate in answers if isinstance(rate, float)])
        done, taken = round_number + 1, perf_counter() - began
        left = (settings.rounds - done) * taken / done
        say(f"round {done} of {settings.rounds} after {taken:.0f} s, about {left:.0f} s left")
    return measured, peaks


def _stored_side(recipe: Recipe, settings: BenchmarkSettings, loader: Loader) -> int | None:
    """The median longest side of the images in a .beton, in px; None if the recipe does not allow another size."""
    if smallest_useful_side(recipe.train_crop) is None or beton_file(str(settings.data), "train") is None:
        return None
    some = np.unique(np.linspace(0, len(loader) - 1, 1000).astype(np.int64))
    return int(np.median(np.maximum(*loader.source.sizes(some))))
