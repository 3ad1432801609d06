"""The look command: draws and describes a data set, as it is or as a recipe sees it."""

from itertools import islice

import numpy as np
import torch

from trainer.commands.look.contact_sheet import Tile, draw_sheet, letterboxed
from trainer.commands.look.statistics import statistics_of
from trainer.commands.out_file import require_folder, require_replaceable
from trainer.data.augment import Augmenter
from trainer.data.contents import Contents
from trainer.data.crop import eval_view, train_view
from trainer.data.device import device_batches
from trainer.data.formats import open_dataset
from trainer.data.loader import Loader, Source, check_square
from trainer.data.mixing import mix
from trainer.data.order import epoch_order, train_batches
from trainer.data.resolution import resolution_at
from trainer.distributed.cpus import default_workers
from trainer.errors import UserError, first_few
from trainer.evaluation.protocol import describe_crop, short
from trainer.evaluation.result import printable
from trainer.process.rows import rows_or_lines
from trainer.process.units import format_bytes
from trainer.recipe import PaddedCrop, Recipe
from trainer.recipe_file import load_recipe
from trainer.settings import LookSettings

COLUMNS = 8
_LISTED_CLASSES = 20  # of which the images are counted one by one
MEASURED = 20_000  # image files opened for their sizes; the index of a .beton has all sizes


def look(settings: LookSettings) -> None:
    """Prints statistics and draws a reproducible sheet. Raises UserError if the images cannot be read."""
    if settings.data.startswith("synthetic:"):
        raise UserError(f"{settings.data} is noise, so there is nothing to see: give a folder or a .beton file")
    if settings.out.suffix.lower() != ".png":
        raise UserError(f"--out {settings.out}: the grid is a PNG: use --out {settings.out.with_suffix('.png').name}")
    require_folder(settings.out)
    require_replaceable(settings.out, data=(settings.data,))
    recipe = load_recipe(settings.recipe) if settings.recipe else None
    source = open_dataset(settings.data, settings.split, num_classes=1, resolution=1, class_order=settings.class_order)
    with Loader(source, workers=default_workers(1)) as loader:
        if settings.check:
            _require_sound(source)
        found = source.contents(MEASURED)
        described = [*_content(source), *_sizes(found), *_storage(found)]
        print(rows_or_lines(described), flush=True)
        if settings.statistics:
            print(rows_or_lines(_statistics(source)), flush=True)
        print("".join(f"  note      {note}\n" for note in source.notes), end="", flush=True)
        images = spread(len(loader), settings.images)
        if recipe is None:
            tiles = [Tile(letterboxed(source, int(image)), source.classes[source.labels[image]]) for image in images]
            mixed: list[Tile] = []
            shown = "uncropped, letterboxed if not square"
        else:
            tiles = recipe_tiles(recipe, loader, settings, images)
            mixed, shown = _mixed_row(recipe, loader, settings)
        draw_sheet([tiles, mixed] if mixed else [tiles], COLUMNS, settings.out)
    print(
        rows_or_lines([("sheet", f"{settings.out}: {len(tiles)} images, spread evenly over the data set, {shown}")]),
        flush=True,
    )


def _require_sound(source: Source) -> None:
    """Decodes every image, and prints a line for each that cannot be. Raises UserError if there is one."""
    bad = 0
    for line in source.bad_images():
        print(f"  bad       {line}", flush=True)
        bad += 1
    if bad:
        raise UserError(f"{source.name}: {bad} of {len(source.labels):,} images cannot be decoded")
    print(rows_or_lines([("checked", f"{source.name}: every image can be decoded")]), flush=True)


def spread(count: int, wanted: int) -> np.ndarray:
    """Indices of `wanted` of `count` images at equal distances, or of all if there are fewer: int64, ascending."""
    wanted = min(count, wanted)
    return np.arange(wanted) * count // wanted


def recipe_tiles(recipe: Recipe, loader: Loader, settings: LookSettings, images: np.ndarray) -> list[Tile]:
    """The images as the network sees them, in the first epoch of training or in the evaluation."""
    source = loader.source
    pixels = []
    for chosen in np.array_split(images, -(-len(images) // 64)):
        if settings.split == "val":
            crops = loader.batches([chosen], eval_view(recipe.eval_crop), recipe.eval_crop.resolution)
            (batch,) = device_batches(crops, torch.device("cpu"), recipe.mean, recipe.std)
            pixels += list(_denormalised(batch.images, recipe))
        else:
            pixels += list(_denormalised(first_epoch(recipe, loader, chosen), recipe))
    return [
        Tile(image, source.classes[source.labels[index]]) for image, index in zip(pixels, images.tolist(), strict=True)
    ]


def first_epoch(recipe: Recipe, loader: Loader, samples: np.ndarray) -> torch.Tensor:
    """These samples of epoch 0 as training sees them, normalised. Their random draws do not depend on the batch.

    `samples`: int64, shape (n,). Returns float32, shape (n, 3, resolution, resolution).
    """
    crop = recipe.train_crop
    if isinstance(crop, PaddedCrop):
        check_square(loader.source, crop.resolution)
    view = train_view(crop, recipe.flip, recipe.seed, 0)
    batches = loader.batches([samples], view, resolution_at(recipe, 0))
    (batch,) = device_batches(batches, torch.device("cpu"), recipe.mean, recipe.std, Augmenter(recipe, 0))
    return batch.images


def _mixed_row(recipe: Recipe, loader: Loader, settings: LookSettings) -> tuple[list[Tile], str]:
    """One mixed image from each of the first micro-batches, and a description of the sheet."""
    classes = loader.source.classes
    name = recipe.name + (f" (for {recipe.num_classes} classes)" if recipe.num_classes != len(classes) else "")
    if settings.split == "val":
        return [], f"as {name} evaluates them: {describe_crop(recipe.eval_crop)}"
    shown = f"as {name} trains on them in the first epoch, at {resolution_at(recipe, 0)} px"
    if recipe.mixing is None:
        return [], shown
    order = epoch_order(recipe.seed, 0, len(loader), recipe.repeats, recipe.order)
    accumulation = recipe.accumulation(1)
    micro_batches = train_batches(
        order,
        first_step=0,
        micro_batch_size=recipe.micro_batch_size,
        accumulation=accumulation,
        rank=0,
        world_size=1,
    )
    tiles = []
    for number, samples in enumerate(islice(micro_batches, COLUMNS)):
        pair = samples[[0, -1]] if len(samples) > 1 else samples  # the partner of sample i is sample n - 1 - i
        labels = torch.from_numpy(loader.source.labels[pair % len(loader)])
        step, micro_batch = divmod(number, accumulation)
        mixed, targets = mix(
            recipe.mixing,
            first_epoch(recipe, loader, pair),
            labels,
            num_classes=len(classes),
            seed=recipe.seed,
            step=step,
            micro_batch=micro_batch,
        )
        shares = [(float(targets[0, label]), classes[label]) for label in targets[0].nonzero().flatten().tolist()]
        words = " ".join(f"{share:.0%} {printable(name, 9)}" for share, name in sorted(shares, reverse=True))
        tiles.append(Tile(_denormalised(mixed, recipe)[0], words))
    if not tiles:
        return [], f"{shown}, not mixed: there are fewer images than global_batch_size={recipe.global_batch_size}"
    return tiles, f"{shown}; last row: the first image of each of the first micro-batches, mixed"


def _denormalised(images: torch.Tensor, recipe: Recipe) -> np.ndarray:
    """Converts normalised float32 [n, 3, h, w] to uint8 [n, h, w, 3], clipped to 0..255."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (recipe.mean, recipe.std))
    pixels = ((images * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).contiguous().numpy()


def _content(source: Source) -> list[tuple[str, str]]:
    counts = np.bincount(source.labels, minlength=len(source.classes))
    empty = [printable(source.classes[index]) for index in np.flatnonzero(counts == 0)]
    rarest, commonest = (source.classes[int(index)] for index in (counts.argmin(), counts.argmax()))
    balance = f"{len(counts):,}: {_spread(counts)} images each"
    if counts.min() != counts.max():
        balance += f"; fewest {printable(rarest)}, most {printable(commonest)}"
    each = [f"{printable(name)} {count:,}" for name, count in zip(source.classes, counts.tolist(), strict=True)]
    named = f"{len(empty)} ({first_few(empty, 5)})" if empty else "none"
    return [
        ("data", f"{source.name}: {len(source.labels):,} images, {short(source.checksum)}"),
        ("classes", balance),
        *([("each", ", ".join(each))] if len(each) <= _LISTED_CLASSES else []),
        ("empty", named),
    ]


def _sizes(found: Contents) -> list[tuple[str, str]]:
    if found.heights is None or found.widths is None:
        return []
    looked_at = len(found.heights)
    of = "" if looked_at == found.count else f", of {looked_at:,} images spread over the data set"
    return [
        ("height", f"{_spread(found.heights)} px{of}"),
        ("width", f"{_spread(found.widths)} px{of}"),
    ]


def _storage(found: Contents) -> list[tuple[str, str]]:
    shares = [
        f"{stored.images / found.count:.1%} {stored.encoding} ({format_bytes(stored.bytes)})" for stored in found.stored
    ]
    return [("stored", ", ".join(shares))] if shares else []


def _statistics(source: Source) -> list[tuple[str, str]]:
    count = len(source.labels)
    found = statistics_of(source, spread(count, MEASURED), default_workers(1))
    of = "all images" if found.images == count else f"{found.images:,} images spread over the data set"
    mean, std = (" ".join(f"{value:.4f}" for value in values) for values in (found.mean, found.std))
    return [("mean, std", f"--mean {mean} --std {std} (over {of}, each counted alike)")]


def _spread(values: np.ndarray) -> str:
    return f"{values.min():,} / {np.median(values):,.10g} / {values.max():,} (min / median / max)"
