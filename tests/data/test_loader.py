"""The same pixels from any number of threads; nothing hangs, leaks or is overwritten."""

import gc
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.processes import TIMEOUT, resident_kb
from trainer.data.crop import CropBoxes, eval_view, train_view
from trainer.data.formats import open_source
from trainer.data.loader import Batch, Loader, check_square
from trainer.errors import LocalError, UserError
from trainer.recipe import CenterCrop, PaddedCrop, RandomResizedCrop

CROP = RandomResizedCrop(resolution=48)


def open_photos(folder: Path, workers: int = 2) -> Loader:
    return Loader(open_source(str(folder), "train", num_classes=4, resolution=48), workers=workers)


def read_pixels(loader: Loader, batch_size: int, seed: int = 0, epoch: int = 0) -> dict[int, torch.Tensor]:
    """Every image as it was augmented, by its index."""
    order = np.random.default_rng(0).permutation(len(loader))
    batches = loader.batches(
        np.array_split(order, len(loader) // batch_size), train_view(CROP, True, seed, epoch), CROP.resolution
    )
    return {int(i): image for batch in batches for i, image in zip(batch.samples, batch.images, strict=True)}


@pytest.mark.parametrize("kind", ["photo_betons", "photos"])
def test_image_is_cut_the_same_by_any_number_of_threads_in_any_batch(kind: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(kind)
    with open_photos(folder, workers=1) as one, open_photos(folder, workers=3) as three:
        expected = read_pixels(one, batch_size=16)
        assert len(expected) == 64
        for batch_size in (1, 7, 64):
            found = read_pixels(three, batch_size)
            assert all(torch.equal(expected[image], found[image]) for image in expected)


@pytest.mark.parametrize(("seed", "epoch"), [(1, 0), (0, 1)])
def test_loader_different_seed_or_epoch_cuts_a_different_part(photo_betons: Path, seed: int, epoch: int) -> None:
    with open_photos(photo_betons) as loader:
        first, second = read_pixels(loader, 16), read_pixels(loader, 16, seed, epoch)
        assert sum(torch.equal(first[image], second[image]) for image in first) == 0


def test_epoch_left_after_the_loader_was_closed_does_not_hang(photo_betons: Path) -> None:
    """As when an error ends a run: the loader's threads end first, and their cancelled work is never picked up."""
    with open_photos(photo_betons, workers=1) as loader:
        read = loader.source.read

        def slow(*arguments: Any) -> None:
            time.sleep(0.05)
            read(*arguments)

        loader.source.read = slow  # type: ignore[method-assign]
        batches = loader.batches([np.arange(64)] * 9, train_view(CROP, True, 0, 0), CROP.resolution)
        next(batches)
    left = threading.Thread(target=batches.close, daemon=True)  # type: ignore[attr-defined]
    left.start()
    left.join(TIMEOUT)
    assert not left.is_alive()


def test_repetition_shows_the_same_image_cut_differently(photo_betons: Path) -> None:
    """Sample 64 + 3 is image 3 once more."""
    with open_photos(photo_betons) as loader:
        (batch,) = loader.batches([np.array([3, 64 + 3, 128 + 3])], train_view(CROP, True, 0, 0), 48)
        assert batch.samples.tolist() == [3, 67, 131]
        assert batch.labels.tolist() == [loader.source.labels[3]] * 3
        assert not torch.equal(batch.images[0], batch.images[1])
        assert not torch.equal(batch.images[1], batch.images[2])
        whole = eval_view(CenterCrop(resolution=48, crop_ratio=1.0))
        (centre,) = loader.batches([np.array([3, 67])], whole, 48)
        assert torch.equal(centre.images[0], centre.images[1])


def test_batches_are_channels_last_uint8_with_the_right_labels(photo_betons: Path) -> None:
    with open_photos(photo_betons) as loader:
        batch = next(loader.batches([np.array([5, 3, 60])], eval_view(CenterCrop(resolution=48, crop_ratio=1.0)), 48))
        assert batch.images.shape == (3, 3, 48, 48)
        assert batch.images.dtype == torch.uint8
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert batch.samples.tolist() == [5, 3, 60]
        assert batch.labels.tolist() == loader.source.labels[[5, 3, 60]].tolist()


def test_batch_stays_as_it_is_while_later_ones_are_read(photo_betons: Path) -> None:
    with open_photos(photo_betons) as loader:
        view = train_view(CROP, True, 0, 0)
        kept, copies = [], []
        for batch in loader.batches([np.arange(64)[i : i + 4] for i in range(0, 64, 4)], view, 48):
            kept.append(batch.images)
            copies.append(batch.images.clone())
        assert len(kept) == 16
        assert all(torch.equal(image, copy) for image, copy in zip(kept, copies, strict=True))


@pytest.mark.slow
def test_epochs_left_early_leave_no_thread_and_no_memory_behind(photo_betons: Path) -> None:
    """FFCV's Loader leaks a thread and its buffers each time."""
    with open_photos(photo_betons) as loader:
        view = train_view(RandomResizedCrop(resolution=256), True, 0, 0)

        def leave_early() -> None:
            batches = loader.batches([np.arange(64)] * 50, view, 256)
            next(batches)

        leave_early()
        gc.collect()
        threads = threading.active_count()
        before = resident_kb()
        for _ in range(30):  # 4 batches of 12.6 MB each in flight
            leave_early()
        assert threading.active_count() == threads
        assert resident_kb() - before < 300_000  # 30 epochs that leaked would be 1.5 GB
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("loader")]


class Faulty:
    """A source whose image 40 cannot be read."""

    labels = np.zeros(64, np.int64)
    classes = ("only",)
    checksum = "none"
    name = "faulty"

    def sizes(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.full(len(images), 8), np.full(len(images), 8)

    def read(self, images: np.ndarray, crops: CropBoxes, out: np.ndarray) -> None:
        if 40 in images:
            raise LocalError("image 40 is damaged")
        out[:] = 1

    def close(self) -> None: ...


def test_loader_exception_in_a_thread_reaches_the_caller_at_its_batch_and_the_loader_continues() -> None:
    with Loader(Faulty(), workers=2) as loader:  # type: ignore[arg-type]
        view = eval_view(CenterCrop(resolution=8, crop_ratio=1.0))
        indices = [np.arange(start, start + 8) for start in range(0, 64, 8)]
        seen: list[Batch] = []
        with pytest.raises(LocalError, match="image 40"):
            seen.extend(loader.batches(indices, view, 8))
        batches = loader.batches(indices, view, 8)
        for _ in range(5):
            seen.append(next(batches))
        with pytest.raises(LocalError, match="image 40"):
            next(batches)
        assert len(list(loader.batches(indices[:5], view, 8))) == 5


@pytest.mark.slow
def test_process_that_ends_in_the_middle_of_an_epoch_ends(photo_betons: Path) -> None:
    code = f"""
        import numpy as np
        from trainer.data.formats import open_source
        from trainer.data.crop import train_view
        from trainer.data.loader import Loader
        from trainer.recipe import RandomResizedCrop
        loader = Loader(open_source({str(photo_betons)!r}, "train", num_classes=4, resolution=48), workers=2)
        view = train_view(RandomResizedCrop(resolution=48), True, 0, 0)
        batches = loader.batches([np.arange(64)] * 1000, view, 48)
        next(batches)
        raise SystemExit(7)
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], timeout=TIMEOUT, check=False)
    assert ended.returncode == 7


@pytest.mark.parametrize(("height", "width"), [(16, 17), (17, 16)])
def test_padded_crop_wants_images_of_its_own_size(height: int, width: int) -> None:
    class Sizes(Faulty):
        labels = np.zeros(5, np.int64)

        def sizes(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return np.where(images == 3, height, 16), np.where(images == 3, width, 16)

    with pytest.raises(UserError, match=rf"needs images of 16 x 16 px, but image 3 is {height} x {width}: "):
        check_square(Sizes(), PaddedCrop(resolution=16).resolution)  # type: ignore[arg-type]


def test_padding_reflects_the_image(digits: Path) -> None:
    source = open_source(str(digits), "train", num_classes=10, resolution=16)
    order = [np.arange(64)]
    with Loader(source, workers=2) as loader:
        (plain,) = loader.batches(order, train_view(PaddedCrop(resolution=16, padding=0), False, 0, 0), 16)
        view = train_view(PaddedCrop(resolution=16, padding=4, padding_mode="reflect"), True, 0, 0)
        (found,) = loader.batches(order, view, 16)
    crops = view(order[0], *source.sizes(order[0]))
    assert crops.flips.any() and not crops.flips.all()
    padded = torch.nn.functional.pad(plain.images.float(), (4, 4, 4, 4), mode="reflect")
    for image, (top, left, _, _), flip, pixels in zip(padded, crops.boxes, crops.flips, found.images, strict=True):
        expected = image[:, top + 4 : top + 20, left + 4 : left + 20]
        assert torch.equal(pixels.float(), expected.flip(2) if flip else expected)


def test_padding_that_reflects_is_below_half_of_the_image() -> None:
    PaddedCrop(resolution=32, padding=16)
    with pytest.raises(ValueError, match=r"padding=16 with padding_mode='reflect' is not below half of resolution=32"):
        PaddedCrop(resolution=32, padding=16, padding_mode="reflect")


def test_loader_is_ready_when_the_following_batch_has_been_read(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading the second batch waits for a signal."""
    go = threading.Event()
    with open_photos(photos, workers=1) as loader:
        really = loader.source.read

        def wait_then_read(images: np.ndarray, crops: CropBoxes, out: np.ndarray) -> None:
            assert images[0] != 4 or go.wait(TIMEOUT)
            really(images, crops, out)

        monkeypatch.setattr(loader.source, "read", wait_then_read)
        batches = loader.batches(np.arange(8).reshape(2, 4), eval_view(CenterCrop(resolution=48, crop_ratio=1.0)), 48)
        next(batches)
        assert not loader.is_ready
        go.set()
        next(batches)
        assert loader.is_ready  # to say that there are no more
        assert next(batches, None) is None
