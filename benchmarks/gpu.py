"""ResNet-50 on one GPU: loader, step and both together beside timm's and torchvision's steps, and how far the limit is.

    python -m benchmarks.gpu --photos PHOTOS [--workers 16] [--json FILE]     # writes its .beton file itself
    python -m benchmarks.gpu --data DIR [--workers 16] [--json FILE]          # a folder with train.beton

At most --minutes, most of them for torch.compile. What was found is in FILE, and said, as soon as it is found: a run
that is killed, or a part that fails, loses nothing else. Without a GPU it runs too, on the CPU, to try it.
"""

import gc
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from benchmarks.gpu_batches import Batches, Repeated
from benchmarks.gpu_look import compiled_so_far, profiled, waits
from benchmarks.gpu_record import Record
from benchmarks.gpu_report import report
from benchmarks.gpu_steps import Step, module, ours, timms, torchvisions
from benchmarks.gpu_variants import Variant, variants
from benchmarks.loaders import repeat_photos
from benchmarks.roofline import roofline
from trainer.commands.benchmark.peak import wait_for
from trainer.data.beton.prepare import PrepareOptions, prepare_folder
from trainer.data.formats import open_beton
from trainer.data.loader import BATCHES_AHEAD, Loader
from trainer.distributed import process_group
from trainer.distributed.cpus import default_workers
from trainer.distributed.process_group import World
from trainer.distributed.run_ahead import RunAhead
from trainer.errors import UserError
from trainer.precision import set_tf32
from trainer.recipe import RandomResizedCrop, Recipe, ResNet
from trainer.recipe_file import load_recipe
from trainer.run.environment import environment
from trainer.settings import TrainSettings

PHOTO_REPEATS = 40  # in the file that is written: more than a processor's cache holds
CLASSES = 1000  # of the network, as ImageNet has; the photographs may have fewer
WARM_UP = max(8, BATCHES_AHEAD + 2)  # micro-batches: kernels are chosen, graphs recorded, what was read ahead is used
COMPILE_SECONDS = 150.0  # without so many left, no compilation is begun
PROFILE_SECONDS = 30.0  # that are left for the profile


@dataclass(frozen=True, kw_only=True)
class GpuSettings:
    """Measure one GPU with everything in turn."""

    data: Path | None = None
    """folder with train.beton"""
    photos: Path | None = None
    """folder of class folders of photographs, to write one from"""
    workers: int | None = None
    """threads that read images; None: as many as in training"""
    batch: int = 256
    resolution: int = 224
    depth: Literal[18, 34, 50, 101, 152] = 50
    precision: Literal["bf16", "tf32", "fp32"] = "bf16"
    """of all three steps; fp16, which timm's and torchvision's need a scaler for, is a variant of ours"""
    seconds: float = 4.0
    """length of one measurement"""
    rounds: int = 5
    """at most: fewer where the time is up before"""
    minutes: float = 9.0
    """after which nothing more is measured"""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    compile: bool = True
    """measure torch.compile too, plain and with CUDA graphs"""
    json: Path | None = None


def main(settings: GpuSettings) -> None:
    """Measures and reports. Raises UserError if images are not given, or cannot be read."""
    if (settings.data is None) == (settings.photos is None):
        raise UserError("which images? give --data DIR, a folder with train.beton, or --photos PHOTOS, class folders")
    record = Record(settings.json, settings.minutes)
    with ExitStack() as stack, record.time_limit():
        world = stack.enter_context(process_group.initialize(settings.device, timeout_minutes=30))
        loader = _open(settings, record, world, stack)
        recipe = _recipe(settings, max(CLASSES, len(loader.source.classes)))
        set_tf32(recipe.precision)
        record.note("roofline", lambda: roofline(recipe, module(recipe, world.device), world.device).as_json())
        torch.backends.cudnn.benchmark = True  # as all three have it
        measurement = Measurement(settings, record, recipe, loader, world)
        for number in range(settings.rounds):
            measurement.round()
            if number == 0:
                measurement.variants()
            print(f"\n{report(record.results)}\n", flush=True)
        measurement.profile()
    print(f"\n{report(record.results)}", flush=True)


def _open(settings: GpuSettings, record: Record, world: World, stack: ExitStack) -> Loader:
    workers = settings.workers or default_workers(world.cpus)
    hardware = environment(world, TrainSettings(data="", run_dir=Path(), workers=workers))
    record.results |= {
        "what": f"ResNet-{settings.depth}, {settings.resolution} px, batch {settings.batch}, {settings.precision}",
        "seconds": settings.seconds,
        "workers": workers,
        "hardware": hardware,
    }
    record.say(f"{hardware['gpu'] or 'NOT A GPU: ' + hardware['cpu']}, torch {hardware['packages']['torch']}")
    folder = settings.data
    if folder is None:
        assert settings.photos
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        repeat_photos(settings.photos, folder / "original", PHOTO_REPEATS)
        prepare_folder(folder / "original", folder, PrepareOptions(write_mode="jpg"))  # of at most 500 px, with tiles
    source = Repeated(open_beton(folder / "train.beton", check_content=False), settings.batch)
    record.say(source.name)
    return stack.enter_context(Loader(source, workers=workers, pin_memory=world.device.type == "cuda"))


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
        precision=settings.precision,
    )


class Measurement:
    """Rates in turn, round by round. A step is built when its turn comes first; one that fails is left out then."""

    def __init__(self, settings: GpuSettings, record: Record, recipe: Recipe, loader: Loader, world: World) -> None:
        self._settings, self._record, self._device = settings, record, world.device
        self._recipe, self._loader, self._world = recipe, loader, world
        self._batches = Batches(recipe, loader, world)
        self._builders: dict[str, Callable[[], Step]] = {  # what is cheap and surely works first
            "ours": partial(ours, recipe, world),
            "timm's step": partial(timms, recipe, world),
            "torchvision's step": partial(torchvisions, recipe, world),
            "ours, compiled": partial(ours, recipe, world, "default"),
            "ours, compiled, CUDA graphs": partial(ours, recipe, world, "reduce-overhead"),
            "timm's step, compiled": partial(timms, recipe, world, compiled=True),
            # last: what follows a recording that fails may fail too
            "ours, one CUDA graph": partial(ours, recipe, world, cuda_graph=True),
        }
        if not settings.compile:
            self._builders = {name: build for name, build in self._builders.items() if "compiled" not in name}
        if self._device.type != "cuda":
            del self._builders["ours, one CUDA graph"]
        self._steps: dict[str, Step] = {}

    def round(self) -> None:
        self._try("loader", self._batches.read)
        self._try("copy", self._batches.copied)
        for name in self._builders:
            self._try(f"{name}, synthetic", self._batches.synthetic, name)
            if name.startswith("ours"):
                self._try(f"{name}, real", self._batches.real, name)
        # From the second round on it must not grow: recording a graph in the first one empties the cache.
        if self._device.type == "cuda":
            self._record.results["reserved_gb"].append(torch.cuda.memory_reserved(self._device) / 1e9)

    def variants(self) -> None:
        """Our step once with each of the variants, on synthetic images. Each is freed before the next."""
        record = self._record
        for name, variant in variants(self._recipe).items():
            compiled = variant.compile_mode is not None
            needed = 2 * self._settings.seconds + PROFILE_SECONDS + (COMPILE_SECONDS if compiled else 0)
            if (compiled and not self._settings.compile) or (variant.cuda_graph and self._device.type != "cuda"):
                continue
            if record.seconds_left < needed:
                record.say(f"{name}: not begun, {record.seconds_left:.0f} s are left")
                continue
            try:
                record.results["variants"][name] = self._variant(variant)
                record.say(f"{name}: {record.results['variants'][name]['images_per_second']:,.0f} images/s")
            except Exception as error:
                record.failed(name, error)
                error.__traceback__ = None
            self._free()
        set_tf32(self._recipe.precision)

    def _variant(self, variant: Variant) -> dict[str, float]:
        """Images per second, and the most memory that was allocated, in GB."""
        recipe = variant.recipe
        set_tf32(recipe.precision)
        on_gpu = self._device.type == "cuda"
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(self._device)
        step = ours(recipe, self._world, variant.compile_mode, variant.cuda_graph)
        with self._warm(step, Batches(recipe, self._loader, self._world).synthetic) as stream:
            rate = recipe.micro_batch_size * per_second(step, stream, self._device, self._settings.seconds)
        allocated = torch.cuda.max_memory_allocated(self._device) if on_gpu else 0
        return {"images_per_second": rate, "gb": allocated / 1e9}

    def profile(self) -> None:
        """After all rates: what comes after a profiler may be slower. CUDA graphs have no other kernels."""
        for name, step in self._steps.items():
            if name.startswith("ours") and "graph" not in name:
                try:
                    with self._warm(step, self._batches.real) as batches:
                        self._record.results["profile"][name] = profiled(step, batches, self._device)
                    self._record.say(f"profile of {name}")
                except Exception as error:
                    self._record.failed(f"profile of {name}", error)

    def _try(self, what: str, batches: Callable[[], Generator[Any, None, None]], step: str | None = None) -> None:
        """One rate of `what` more, unless it has failed or too little time is left."""
        record = self._record
        if step in record.results["failed"] or what in record.results["failed"]:
            return
        needed = 2 * self._settings.seconds + PROFILE_SECONDS
        if step and "compiled" in step and step not in self._steps:
            needed += COMPILE_SECONDS
        if record.seconds_left < needed:
            record.say(f"{what}: not begun, {record.seconds_left:.0f} s are left")
            return
        try:
            work: Callable[[Any], Any] = self._step(step) if step else lambda _: None
            with self._warm(work, batches) as stream:
                rate = self._settings.batch * per_second(work, stream, self._device, self._settings.seconds)
        except Exception as error:  # of one of them, such as a compiler that is missing
            self._steps.pop(step or "", None)
            record.failed(step or what, error)
            error.__traceback__ = None  # it holds what the step has allocated
            self._free()
            return
        record.results["images_per_second"].setdefault(what, []).append(rate)
        record.say(f"{what}: {rate:,.0f} images/s")

    def _step(self, name: str) -> Step:
        """The step of that name; the first time built, used, and asked where it waits."""
        if name not in self._steps:
            begun, before = time.monotonic(), compiled_so_far()
            step = self._builders[name]()
            with self._warm(
                step, self._batches.real if name.startswith("ours") else self._batches.synthetic
            ) as batches:
                seconds = time.monotonic() - begun
                if "compiled" in name:
                    done = {kind: number - before[kind] for kind, number in compiled_so_far().items()}
                    self._record.results["compiled"][name] = {"seconds": seconds, **done}
                self._record.results["waits"][name] = waits(step, batches)
            self._steps[name] = step
            self._record.say(f"{name}: built and warm after {seconds:.1f} s")
        return self._steps[name]

    @contextmanager
    def _warm(
        self, work: Callable[[Any], Any], batches: Callable[[], Generator[Any, None, None]]
    ) -> Iterator[Generator[Any, None, None]]:
        """The batches after the first WARM_UP, which `work` has had; the device has nothing to do then."""
        with closing(batches()) as stream:
            for _ in range(WARM_UP):
                work(next(stream))
            wait_for(self._device)
            yield stream

    def _free(self) -> None:
        """For the steps that come after one that failed, perhaps for want of memory."""
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def per_second(work: Callable[[Any], Any], stream: Iterator[Any], device: torch.device, seconds: float) -> float:
    """Micro-batches per second. The device has nothing to do before; all its work is waited for at the end.

    Between, a GPU always has something to do: the host waits for the end of what is AHEAD micro-batches ago.
    """
    done, run_ahead, start = 0, RunAhead(device), time.perf_counter()
    while time.perf_counter() - start < seconds:
        work(next(stream))
        done += 1
        run_ahead.after_batch()
    wait_for(device)
    return done / (time.perf_counter() - start)


if __name__ == "__main__":
    try:
        main(tyro.cli(GpuSettings))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
