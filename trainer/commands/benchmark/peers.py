"""Two other loaders for comparison with ours: FFCV's own, and torchvision's reference pipeline.

Each runs in its own process. FFCV's Loader hangs if anything fails in its thread, leaks memory if an epoch ends early,
and changes torch's number of threads. torchvision's loader forks, which is unsafe in a process with threads.
"""

import multiprocessing
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

from trainer.errors import first_line
from trainer.recipe import PaddedCrop, RandomResizedCrop, Recipe, ScaleJitterCrop

START_SECONDS = 300.0  # FFCV compiles for about 15 s; ImageFolder lists a million files
ANSWER_SECONDS = 60.0  # on top of the measurement itself
END_SECONDS = 5.0  # to end by itself
_AHEAD = 3  # batches: FFCV's default, and ours


class PeerError(Exception):
    """A peer could not be measured. The message gives the reason in one line."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a peer reads, and how it crops it."""

    source: Path  # a .beton file, or the folder above class folders
    batch_size: int
    workers: int  # threads of FFCV, processes of torchvision
    crop: PaddedCrop | RandomResizedCrop
    flip: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def job(recipe: Recipe, source: Path, workers: int) -> Job:
    """The recipe's crop and flip, or the closest that both libraries have, in batches of `micro_batch_size`."""
    crop = recipe.train_crop
    if isinstance(crop, ScaleJitterCrop):  # for a square image these are the same crops
        low, high = (crop.resolution / side for side in reversed(crop.short_side))
        crop = RandomResizedCrop(resolution=crop.resolution, scale=(low**2, high**2), ratio=(1.0, 1.0))
    return Job(
        source=source,
        batch_size=recipe.micro_batch_size,
        workers=workers,
        crop=crop,
        flip=recipe.flip,
        mean=recipe.mean,
        std=recipe.std,
    )


class Peer:
    """A loader in its own process, which reads only while it is measured. Call close() at the end."""

    def __init__(self, read: Callable[[Job], Iterator[int]], job: Job) -> None:
        """`read`: ffcv_loader or torchvision_pipeline, which yield the number of images of each batch without end."""
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, read, job))
        self._process.start()
        theirs.close()

    def wait_until_ready(self) -> None:
        """Raises PeerError if it cannot read the data."""
        self._answer(START_SECONDS)

    def images_per_second(self, seconds: float) -> float:
        """Reads for `seconds`. Raises PeerError if it fails or stops answering."""
        self._connection.send(seconds)
        return float(self._answer(ANSWER_SECONDS + 10 * seconds))

    def close(self) -> None:
        self._connection.close()  # it reads EOF and exits
        self._process.join(END_SECONDS)
        self._process.kill()
        self._process.join()

    def _answer(self, timeout: float) -> Any:
        try:
            if not self._connection.poll(timeout):
                raise PeerError(f"no answer within {timeout:.0f} s")
            answer = self._connection.recv()
        except (EOFError, ConnectionError) as error:
            self._process.join(END_SECONDS)
            raise PeerError(f"its process ended (exit code {self._process.exitcode})") from error
        if isinstance(answer, str):
            raise PeerError(answer)
        return answer


def ffcv_loader(job: Job) -> Iterator[int]:
    """FFCV's own Loader and decoders on the same .beton: uint8 batches, channels-last, as ours."""
    os.environ["NUMBA_NUM_THREADS"] = str(job.workers)
    from ffcv.fields.basics import IntDecoder
    from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder, SimpleRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import RandomHorizontalFlip, RandomTranslate, ToTensor, ToTorchImage

    flip = [RandomHorizontalFlip()] if job.flip else []
    if isinstance(job.crop, PaddedCrop):
        image = [SimpleRGBImageDecoder(), *flip, RandomTranslate(job.crop.padding, job.crop.fill)]
    else:
        size = (job.crop.resolution, job.crop.resolution)
        image = [RandomResizedCropRGBImageDecoder(size, job.crop.scale, job.crop.ratio), *flip]
    loader = Loader(
        str(job.source),
        batch_size=job.batch_size,
        num_workers=job.workers,
        order=OrderOption.RANDOM,
        drop_last=True,
        batches_ahead=_AHEAD,
        pipelines={"image": [*image, ToTensor(), ToTorchImage()], "label": [IntDecoder(), ToTensor()]},
    )
    while True:
        for _, labels in loader:
            yield len(labels)


def torchvision_pipeline(job: Job) -> Iterator[int]:
    """torchvision's reference: PIL, crop, flip, ToTensor, Normalize in worker processes; float32 batches."""
    from torchvision import transforms

    if isinstance(job.crop, PaddedCrop):
        mode = job.crop.padding_mode
        crop = transforms.RandomCrop(job.crop.resolution, job.crop.padding, fill=job.crop.fill, padding_mode=mode)
    else:
        crop = transforms.RandomResizedCrop(job.crop.resolution, job.crop.scale, job.crop.ratio)
    flip = [transforms.RandomHorizontalFlip()] if job.flip else []
    yield from image_folder(job, [crop, *flip, transforms.ToTensor(), transforms.Normalize(job.mean, job.std)])


def image_folder(job: Job, transform: list[Any], load: Callable[[str], Any] | None = None) -> Iterator[int]:
    """torchvision's ImageFolder in worker processes. `load`: reads a file; None: PIL does."""
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    dataset = datasets.ImageFolder(str(job.source), transforms.Compose(transform))
    if load:
        dataset.loader = load
    if len(dataset) < job.batch_size:
        raise PeerError(f"{len(dataset)} images are less than a micro-batch of {job.batch_size}")
    loader = DataLoader(
        dataset,
        job.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=job.workers,
        persistent_workers=True,
        multiprocessing_context="fork",
    )
    while True:
        for _, labels in loader:
            yield len(labels)


def _serve(connection: Connection, read: Callable[[Job], Iterator[int]], job: Job) -> None:
    """The main function of a peer's process. Sends None once it is ready, then a rate for each request, or an error."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)  # FFCV prints warnings about its own internals, also at exit
    os.dup2(devnull, 2)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # FFCV's Loader would open GPU 0, from each rank
    try:
        batches = read(job)
        ahead = max(_AHEAD + 2, 2 * job.workers)  # batches that may have been read before the measurement
        for _ in range(ahead):
            next(batches)
        connection.send(None)
        while True:
            seconds = connection.recv()
            for _ in range(ahead):
                next(batches)
            images, start = 0, perf_counter()
            while (elapsed := perf_counter() - start) < seconds or not images:
                images += next(batches)
            rate = images / elapsed
            sleep(ahead * job.batch_size / rate)  # until its queue is full again, so that it disturbs nothing
            connection.send(rate)
    except (EOFError, KeyboardInterrupt):
        pass
    except Exception as error:
        connection.send(first_line(error))
    os._exit(0)  # FFCV's threads would keep the process alive otherwise
