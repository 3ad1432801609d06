"""Pictures for TensorBoard: augmented images, the most confident mistakes, the confusion matrix.

They are drawn with PIL. A picture is uint8 RGB of shape (height, width, 3).
"""

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import nn
from torch.nn import functional

from trainer.data.crop import eval_view
from trainer.data.loader import Loader
from trainer.data.mixing import mix
from trainer.data.stream import train_stream
from trainer.distributed.process_group import World
from trainer.evaluation.evaluate import Predictions, predict
from trainer.log.log import Log
from trainer.recipe import Recipe
from trainer.run.state import Position
from trainer.settings import TrainSettings

_TILES = 24
_COLUMNS, _PER_PICTURE = 4, 8  # TensorBoard shrinks a picture to a card of 350 x 200 px, where names must be readable
_SMALLEST = 96  # px: smaller images are enlarged
_MOST_CLASSES = 100  # largest confusion matrix that is still readable
_TEXT = 13  # px, the smallest height of letters; larger tiles have larger ones, as they are shrunk more
_WHITE, _BLACK = (255, 255, 255), (0, 0, 0)


def show_augmented(
    log: Log, recipe: Recipe, settings: TrainSettings, loader: Loader, world: World, at: Position
) -> None:
    """Logs the first training images of a new run, on rank 0."""
    if not settings.pictures or not log.speaks or at.step:
        return
    images, captions = augmented(recipe, loader, world)
    _show_tiles(log, "augmented", images, captions, at)


def show_mistakes(
    log: Log, model: nn.Module, loader: Loader, recipe: Recipe, settings: TrainSettings, world: World, at: Position
) -> None:
    """Logs the most confident mistakes and, for at most 100 classes, the confusion matrix. All ranks must call it."""
    if not settings.pictures:
        return
    predictions = predict(model, loader, recipe, world)
    if not log.speaks:
        return
    images, captions = mistakes(predictions, loader, recipe)
    _show_tiles(log, "misclassified", images, captions, at)
    classes = loader.source.classes
    if len(classes) <= _MOST_CLASSES:
        log.picture("confusion", confusion_picture(confusion_matrix(predictions, len(classes)), classes), at)


def _show_tiles(log: Log, name: str, images: list[np.ndarray], captions: list[str], at: Position) -> None:
    """Logs pictures of 8 images each: NAME_1, NAME_2, ..."""
    for number, first in enumerate(range(0, len(images), _PER_PICTURE), 1):
        some = slice(first, first + _PER_PICTURE)
        log.picture(f"{name}_{number}", sheet(images[some], captions[some]), at)


def augmented(recipe: Recipe, loader: Loader, world: World) -> tuple[list[np.ndarray], list[str]]:
    """The first micro-batch of training as the model sees it, including mixing, but de-normalised, with captions."""
    batches = train_stream(recipe, loader, world, epoch=0, accumulation=1)
    images, labels, _ = next(batches)
    batches.close()  # type: ignore[attr-defined]  # a generator: closing it stops its reader threads
    targets = functional.one_hot(labels, recipe.num_classes).float()
    if recipe.mixing:
        classes = recipe.num_classes
        images, targets = mix(
            recipe.mixing, images, labels, num_classes=classes, seed=recipe.seed, step=0, micro_batch=0
        )
    mean, std = (torch.tensor(values, device=images.device).view(1, 3, 1, 1) for values in (recipe.mean, recipe.std))
    pixels = (images[:_TILES] * std + mean).clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    captions = []
    for target in targets[:_TILES].cpu():
        shares, found = target.topk(min(2, len(target)))
        names = [loader.source.classes[int(number)] for number in found]
        parts = [f"{name} {share:.0%}" for name, share in zip(names, shares.tolist(), strict=True) if share > 0]
        captions.append(names[0] if len(parts) == 1 else "\n".join(parts))
    return list(pixels), captions


def mistakes(predictions: Predictions, loader: Loader, recipe: Recipe) -> tuple[list[np.ndarray], list[str]]:
    """The misclassified images, most confident first. Captions: true class, probability of the predicted one, which."""
    wrong = np.flatnonzero(predictions.predicted != predictions.labels)
    chosen = wrong[np.argsort(-predictions.confidence[wrong], kind="stable")][:_TILES]
    if not len(chosen):
        return [], []
    crop = recipe.eval_crop
    (batch,) = loader.batches([chosen], eval_view(crop), crop.resolution)
    classes = loader.source.classes
    labels, predicted, confidence = predictions
    captions = [
        f"is {classes[labels[image]]}\n{confidence[image]:.0%} {classes[predicted[image]]}?" for image in chosen
    ]
    return list(batch.images.permute(0, 2, 3, 1).numpy()), captions


def confusion_matrix(predictions: Predictions, classes: int) -> np.ndarray:
    """Counts of images by true class (row) and predicted class (column): int64, shape (classes, classes)."""
    counts = np.bincount(predictions.labels * classes + predictions.predicted, minlength=classes * classes)
    return counts.reshape(classes, classes)


# ------------------------------------------------------------------------------------------------------------ drawing


def sheet(images: list[np.ndarray], captions: list[str]) -> np.ndarray:
    """Draws images of equal size in rows of 4, each with a caption of at most two lines below it."""
    side = images[0].shape[0]
    side *= max(1, -(-_SMALLEST // side))  # an integer factor keeps the pixels sharp
    text = max(_TEXT, round(side * _TEXT / _SMALLEST))
    line_height = text + text // 4 + 1
    width, height = side + 8, side + 2 * line_height + 6
    rows = -(-len(images) // _COLUMNS)
    picture = Image.new("RGB", (min(len(images), _COLUMNS) * width, rows * height), _WHITE)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(text)
    for number, (pixels, caption) in enumerate(zip(images, captions, strict=True)):
        left, top = number % _COLUMNS * width + 4, number // _COLUMNS * height + 2
        tile = Image.fromarray(np.ascontiguousarray(pixels)).resize((side, side), Image.Resampling.NEAREST)
        picture.paste(tile, (left, top))
        for line, words in enumerate(caption.splitlines()[:2]):
            draw.text((left, top + side + 1 + line * line_height), _fitted(words, side + 4, font), _BLACK, font)
    return np.asarray(picture)


def confusion_picture(counts: np.ndarray, classes: list[str]) -> np.ndarray:
    """Draws the confusion matrix: rows are true classes, columns predicted; darker is a larger share of the row."""
    cell = 40 if len(classes) <= 20 else max(8, 1000 // len(classes))
    font = ImageFont.load_default(min(_TEXT, cell))
    margin = 10 + round(max(min(font.getlength(name), 140) for name in classes))
    title = _TEXT + 11
    size = margin + cell * len(classes) + 4
    picture = Image.new("RGB", (size, size + title), _WHITE)
    draw = ImageDraw.Draw(picture)
    draw.text((4, 4), "rows: true class, columns: predicted", _BLACK, ImageFont.load_default(_TEXT))
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    for row, name in enumerate(classes):
        top = title + margin + row * cell
        draw.text((margin - 4, top + cell // 2), _fitted(name, margin - 8, font), _BLACK, font, anchor="rm")
        for column in range(len(classes)):
            left = margin + column * cell
            light = round(255 * (1 - shares[row, column] ** 0.5))  # square root: one mistake in a hundred is visible
            colour = (light, light, 255) if row == column else (255, light, light)
            draw.rectangle((left, top, left + cell - 2, top + cell - 2), colour)
            if cell >= 40 and counts[row, column]:
                ink = _WHITE if shares[row, column] > 0.5 else _BLACK
                draw.text((left + cell // 2, top + cell // 2), str(counts[row, column]), ink, font, anchor="mm")
    for column, name in enumerate(classes):  # vertical labels above the columns
        label = Image.new("RGB", (margin, cell), _WHITE)
        ImageDraw.Draw(label).text((4, cell // 2), _fitted(name, margin - 8, font), _BLACK, font, anchor="lm")
        picture.paste(label.rotate(90, expand=True), (margin + column * cell, title))
    return np.asarray(picture)


def _fitted(text: str, width: float, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The text, cut with an ellipsis if it is wider than `width`."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
