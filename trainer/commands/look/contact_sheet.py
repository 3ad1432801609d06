"""A contact sheet: rows of labelled images in one PNG. The same images give the same bytes."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from trainer.atomic import atomic_write
from trainer.commands.look.whole_image import whole_image
from trainer.data.loader import Source
from trainer.errors import UserError
from trainer.evaluation.result import printable

SIDE = 160  # of a tile, in px
GAP = 6
LABEL = 18  # height of the line below a tile, in px
_PAPER, _INK, _EMPTY = (255, 255, 255), (30, 30, 30), (225, 225, 225)


class Tile(NamedTuple):
    pixels: np.ndarray  # uint8 RGB, square
    label: str


def letterboxed(source: Source, image: int) -> np.ndarray:
    """The uncropped image, centred in a gray square of its longer side: uint8 RGB, shape (side, side, 3).

    A larger image is scaled to a tile. Raises LocalError with the file and the image if it cannot be decoded.
    """
    whole = Image.fromarray(whole_image(source, image))
    whole.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    side = max(whole.size)
    square = Image.new("RGB", (side, side), _EMPTY)
    square.paste(whole, ((side - whole.width) // 2, (side - whole.height) // 2))
    return np.asarray(square)


def draw_sheet(groups: list[list[Tile]], columns: int, file: Path) -> None:
    """Draws the tiles in rows of `columns`; each group begins a new row. Writes the PNG atomically.

    Raises UserError if it cannot be written.
    """
    rows = [group[start : start + columns] for group in groups for start in range(0, len(group), columns)]
    columns = max(len(row) for row in rows)
    sheet = Image.new("RGB", (columns * (SIDE + GAP) + GAP, len(rows) * (SIDE + LABEL + GAP) + GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(12)
    for number, row in enumerate(rows):
        for column, tile in enumerate(row):
            left, top = GAP + column * (SIDE + GAP), GAP + number * (SIDE + LABEL + GAP)
            sheet.paste(_scaled(tile.pixels), (left, top))
            draw.text((left, top + SIDE + 2), _fitting(tile.label, font), fill=_INK, font=font)
    try:
        with atomic_write(file) as partial:
            sheet.save(partial, format="PNG")
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}") from error


def _scaled(pixels: np.ndarray) -> Image.Image:
    """Resizes an image to a tile: large ones smoothly, small ones by nearest neighbour, so that pixels stay visible."""
    image = Image.fromarray(pixels)
    method = Image.Resampling.NEAREST if image.width < SIDE else Image.Resampling.LANCZOS
    return image.resize((SIDE, SIDE), method)


def _fitting(label: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The label, shortened to the width of a tile."""
    text = printable(label, longest=100)
    if font.getlength(text) <= SIDE:
        return text
    while text and font.getlength(f"{text}..") > SIDE:
        text = text[:-1]
    return f"{text}.."
