"""The order of the images: a pure function of (seed, epoch, position), the same for any number of processes.

An epoch is one permutation of the images (Goyal et al. 2017, section 3, remark 4). A step takes the next
`global_batch_size` of them and deals them to its micro-batches in turn. Rank r computes the r-th block of
micro-batches. Batch norm sees a micro-batch, and a micro-batch holds the same images whether 1 process computes all of
them or 256 compute one each.

The order holds samples. With repeated augmentation an image comes several times in an epoch, each time as a different
sample with its own random draws. Sample s shows image s % count; without repetition both numbers are the same.
"""

from collections.abc import Iterator

import numpy as np

from trainer.data.random import RandomStream, bits
from trainer.recipe import QuasiRandom


def epoch_order(
    seed: int, epoch: int, count: int, repeats: int = 1, quasi_random: QuasiRandom | None = None
) -> np.ndarray:
    """Returns the samples of this epoch in order, a permutation of the `count` images: int64, shape (count,).

    With `repeats`, each image comes that many times in a row until there are `count` samples. The epoch keeps its
    length and shows 1 / `repeats` of the images (Hoffer et al. 2019, arXiv:1901.09335; the samplers of timm and
    torchvision). Images are sorted by a random 64-bit key: numpy's shuffle could change with its version.
    """
    images = np.argsort(bits(seed, epoch, np.arange(count), RandomStream.ORDER)[:, 0], kind="stable")
    if quasi_random:
        windows = _windows(seed, epoch, count, quasi_random)
        images = images[np.argsort(windows[images], kind="stable")]
    position = np.arange(count)
    return images[position // repeats] + position % repeats * count


def _windows(seed: int, epoch: int, count: int, order: QuasiRandom) -> np.ndarray:
    """The number of the window in which each image comes: int64, shape (count,)."""
    stretches = -(-count // order.stretch)
    shuffled = np.argsort(bits(seed, epoch, np.arange(stretches), RandomStream.STRETCHES)[:, 0], kind="stable")
    windows = np.empty(stretches, np.int64)
    windows[shuffled] = np.arange(stretches) // (order.window // order.stretch)
    return np.repeat(windows, order.stretch)[:count]


def classes_in_window(labels: np.ndarray, order: QuasiRandom) -> tuple[float, float]:
    """Computes the share of the classes in a window, on average, and in as many images of a random order.

    `labels`: of the images as they lie in the file, shape (count,). In a file that is sorted by class, a class comes in
    few stretches, and most windows are without it.
    """
    classes = int(labels.max()) + 1
    stretches = -(-len(labels) // order.stretch)
    pairs = np.unique(np.arange(len(labels)) // order.stretch * classes + labels)
    holding = np.bincount(pairs % classes, minlength=classes)
    counts = np.bincount(labels, minlength=classes)
    if stretches * order.stretch <= order.window:
        return 1.0, 1.0
    found = 1 - (1 - holding / stretches) ** (order.window // order.stretch)
    random = 1 - (1 - counts / len(labels)) ** order.window
    return float(found[counts > 0].mean()), float(random[counts > 0].mean())


def train_batches(
    order: np.ndarray, *, first_step: int, micro_batch_size: int, accumulation: int, rank: int, world_size: int
) -> Iterator[np.ndarray]:
    """Yields the micro-batches of one rank from `first_step` of the epoch on, `accumulation` of them for each step.

    Yields samples, int64, shape (micro_batch_size,). The tail that does not fill a global batch is dropped. Dealing in
    turn puts the repetitions of an image into different micro-batches. Starting at a later step is an offset: O(1).
    """
    micro_batches = accumulation * world_size
    global_batch_size = micro_batch_size * micro_batches
    for step in range(first_step, len(order) // global_batch_size):
        samples = order[step * global_batch_size : (step + 1) * global_batch_size]
        for micro_step in range(accumulation):
            yield samples[rank * accumulation + micro_step :: micro_batches]


def eval_batches(count: int, *, batch_size: int, rank: int, world_size: int) -> Iterator[np.ndarray]:
    """Yields every image exactly once over all ranks, in batches that do not depend on the number of ranks.

    Yields image indices, int64, shape (batch_size,), the last batch may be shorter. The ranks take batches in turn.
    """
    for start in range(rank * batch_size, count, world_size * batch_size):
        yield np.arange(start, min(start + batch_size, count))
