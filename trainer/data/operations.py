"""Image operations on a batch, each image with its own argument: uint8 in, uint8 out, on the images' device.

The result for an image depends on that image and its argument alone, bit for bit. Sums are sums of integers,
coordinates are integers in fixed point, and everything else is elementwise. No value is read back from the device.

The operations are those of TrivialAugment and RandAugment (Müller and Hutter 2021, arXiv:2103.10158, Table 5; Cubuk et
al. 2019, arXiv:1909.13719). Colours equal those of torchvision.transforms.v2 on uint8 tensors. Its first transforms
differ in a few values: in autocontrast by 1, and where solarize's threshold (policies.py) is rounded.
"""

from collections.abc import Callable
from enum import IntEnum

import numpy as np
import torch


class Operation(IntEnum):
    """The operation on an image. The comment gives its argument."""

    IDENTITY = 0
    SHEAR_X = 1  # pixels by which each row is fetched further to the right than the row above; the top row stays
    SHEAR_Y = 2  # pixels by which each column is fetched further down than the column to its left
    TRANSLATE_X = 3  # pixels that the image moves to the right
    TRANSLATE_Y = 4  # pixels that the image moves down
    ROTATE = 5  # degrees, counterclockwise about the centre
    BRIGHTNESS = 6  # factor; 0 gives black, 1 the image
    COLOR = 7  # factor; 0 gives gray
    CONTRAST = 8  # factor; 0 gives the mean gray
    SHARPNESS = 9  # factor; 0 gives the smoothed image
    POSTERIZE = 10  # bits that are kept, 0 to 8
    SOLARIZE = 11  # values from here on are inverted, 0 to 256
    SOLARIZE_ADD = 12  # added to values below 128, 0 to 128
    AUTOCONTRAST = 13  # no argument, nor have the next two
    EQUALIZE = 14
    INVERT = 15


def apply(
    images: torch.Tensor,
    operations: np.ndarray,
    arguments: np.ndarray,
    fill: tuple[int, int, int] = (0, 0, 0),
    bilinear: bool = False,
) -> torch.Tensor:
    """Applies to each of `images` (uint8, shape (n, 3, h, w)) its own operation. Returns a new channels-last tensor.

    operations: values of Operation, shape (n,); arguments: float64, shape (n,). Both on the host. fill: RGB of the
    pixels that a shear, shift or rotation brings in from outside. bilinear: interpolate these, instead of taking the
    nearest pixel. Sides are at most 16,383 pixels: the coordinates are in fixed point.
    """
    height, width = images.shape[2:]
    geometric = np.isin(operations, _GEOMETRIC)
    kinds = np.where(geometric, Operation.ROTATE, operations)  # one kernel for all five
    parameters = _matrices(operations, arguments, height, width)
    parameters[:, 0] = np.where(geometric, parameters[:, 0], arguments)
    order = np.argsort(kinds, kind="stable")
    there_and_back = upload(np.stack([order, np.argsort(order)]), images.device)
    sorted_images = images.permute(0, 2, 3, 1).contiguous().index_select(0, there_and_back[0])
    sorted_parameters = upload(parameters[order], images.device)

    changed = []
    longest = max(1, (_GPU_RUN if images.is_cuda else _CPU_RUN) // (height * width))
    for kind in np.unique(kinds):
        first, end = np.searchsorted(kinds[order], [kind, kind + 1])
        for start in range(first, end, longest):
            part = slice(start, min(start + longest, end))
            pixels, given = sorted_images[part], sorted_parameters[part]
            argument = given[:, 0].view(-1, 1, 1)
            if kind == Operation.ROTATE:
                pixels = _affine(pixels, given, fill, bilinear)
            elif kind == Operation.COLOR:
                pixels = _blend(pixels, _gray(pixels).unsqueeze(3), argument.unsqueeze(3))
            elif kind == Operation.SHARPNESS:
                pixels = _sharpness(pixels, argument.unsqueeze(3))
            elif kind != Operation.IDENTITY:
                pixels = _look_up(pixels, _TABLES[kind](pixels, argument))
            changed.append(pixels)
    return torch.cat(changed).index_select(0, there_and_back[1]).permute(0, 3, 1, 2)


# pixels at a time
_CPU_RUN = 200_000  # intermediate results stay in the cache and need no new memory
_GPU_RUN = 30_000_000  # they take up to 120 bytes a pixel, 3.6 GB; the usual micro-batch is one run


def upload(values: np.ndarray, device: torch.device) -> torch.Tensor:
    """Copies `values` to `device`.

    A GPU gets them from pinned memory: a copy from pageable memory waits for the stream.
    """
    tensor = torch.from_numpy(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


# ------------------------------------------------------------------------------------------------ shears, shifts, turns

_GEOMETRIC = [Operation.SHEAR_X, Operation.SHEAR_Y, Operation.TRANSLATE_X, Operation.TRANSLATE_Y, Operation.ROTATE]
_POINT = 16  # bits after the point of a coordinate, as in Pillow: the sum of three has an error of 2**-16 pixels
_WEIGHT = 11  # bits of a bilinear weight: two of them and a value of 8 bits fit into 31


def _matrices(operations: np.ndarray, arguments: np.ndarray, height: int, width: int) -> np.ndarray:
    """The source of a pixel: (x, y) -> (a x + b y + c, d x + e y + f). float64, shape (n, 6).

    Pixel (0, 0) has its centre at (0.5, 0.5). Only the rows of geometric operations are meaningful.
    """
    shear_x, shear_y, shift_x, shift_y, angle = (np.where(operations == kind, arguments, 0.0) for kind in _GEOMETRIC)
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    x, y = width / 2, height / 2
    fixed_x, fixed_y = x - cos * x + sin * y, y - sin * x - cos * y  # the centre stays where it is
    return np.stack([cos, shear_x - sin, fixed_x - shift_x, shear_y + sin, cos, fixed_y - shift_y], axis=1)


def _affine(pixels: torch.Tensor, matrices: torch.Tensor, fill: tuple[int, int, int], bilinear: bool) -> torch.Tensor:
    """`pixels`: shape (n, h, w, 3). A pixel is `fill` where the centre of its square comes from outside, as in Pillow:
    the edge is not blended with the fill."""
    count, height, width = pixels.shape[:3]
    columns, rows = (torch.arange(side, dtype=torch.float64, device=pixels.device) + 0.5 for side in (width, height))
    a, b, c, d, e, f = (matrices * 2.0**_POINT).view(-1, 6, 1).unbind(1)
    x = (a * columns + c).round().int()[:, None, :] + (b * rows).round().int()[:, :, None]
    y = (d * columns + f).round().int()[:, None, :] + (e * rows).round().int()[:, :, None]
    first_row = torch.arange(0, count * height, height, dtype=torch.int32, device=pixels.device).view(-1, 1, 1)
    column, row = x >> _POINT, y >> _POINT
    outside = ((column.clamp(0, width - 1) != column) | (row.clamp(0, height - 1) != row)).view(-1)
    corners, weights = [(row, column)], list[torch.Tensor]()
    if bilinear:
        corners, weights = _corners(x - (1 << _POINT - 1), y - (1 << _POINT - 1))  # a pixel's value is at its centre
    indices = [
        row.clamp(0, height - 1).add_(first_row).mul_(width).add_(column.clamp(0, width - 1)).view(-1)
        for row, column in corners
    ]

    result = torch.empty_like(pixels)
    for channel, value in enumerate(fill):  # one by one: three values that lie together are slow to weight on a CPU
        plane = pixels[..., channel].reshape(-1)
        fetched = [plane.index_select(0, index) for index in indices]
        if bilinear:
            a, b, c, d = (values * weight for values, weight in zip(fetched, weights, strict=True))
            fetched = [a.add_(b).add_(c).add_(d).add_(1 << 2 * _WEIGHT - 1) >> 2 * _WEIGHT]
        result.view(-1, 3)[:, channel] = fetched[0].masked_fill_(outside, value)
    return result


def _corners(x: torch.Tensor, y: torch.Tensor) -> tuple[list[tuple[torch.Tensor, torch.Tensor]], list[torch.Tensor]]:
    """Rows and columns of the four pixels around each point, and their weights, which add up to 4**_WEIGHT."""
    column, row = x >> _POINT, y >> _POINT
    right, lower = ((side & (1 << _POINT) - 1) >> _POINT - _WEIGHT for side in (x, y))
    left, upper = (1 << _WEIGHT) - right, (1 << _WEIGHT) - lower
    weights = [(vertical * across).view(-1) for vertical in (upper, lower) for across in (left, right)]
    return [(row, column), (row, column + 1), (row + 1, column), (row + 1, column + 1)], weights


# --------------------------------------------------------------------------------------------------------------- blends


def _blend(pixels: torch.Tensor, other: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """factor x pixels + (1 - factor) x other, uint8. Rounds as torchvision's: the first product is a float32, and a
    fused multiply-add follows. Without this a gray pixel, the same in both, would come out one lower or not by chance.
    `factors`: float64, of a shape that fits."""
    return _fused(other, 1 - factors, pixels.float() * factors.float()).clamp_(0, 255).to(torch.uint8)


def _fused(values: torch.Tensor, factors: torch.Tensor, summand: torch.Tensor) -> torch.Tensor:
    """values x factors (as float32) + summand with one rounding, to float32: float64 holds the product of two float32.
    Torch's own operations fuse or not by processor and by the element's place in memory."""
    return (values.double() * factors.float().double() + summand).float()


def _gray(pixels: torch.Tensor) -> torch.Tensor:
    """Luma of ITU-R BT.601, rounded down, float32, shape (n, h, w); coefficients and rounding of torchvision's."""
    red, green, blue = pixels.unbind(3)
    return _fused(blue, torch.tensor(0.114), _fused(green, torch.tensor(0.587), red.float() * 0.2989)).floor_()


def _sharpness(pixels: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Smoothed: the mean of 3 x 3 pixels, the middle one counted five times, as Pillow's filter. The border stays."""
    result = pixels.clone()
    inside = result[:, 1:-1, 1:-1]
    if inside.numel():
        rows = pixels[:, :-2].short() + pixels[:, 1:-1] + pixels[:, 2:]
        total = (rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]).add_(inside, alpha=4)
        step = total.float().div_(13).round_().sub_(inside)  # an odd divisor: no ties
        inside.copy_(_fused(step, 1 - factors, inside).clamp_(0, 255))
    return result


# ------------------------------------------------------ the new value of each value: tables of shape (n, 3 or 1, 256)


def _values(pixels: torch.Tensor) -> torch.Tensor:
    return torch.arange(256, dtype=torch.int32, device=pixels.device)


def _contrast(pixels: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    gray = _gray(pixels).long()
    mean = (gray.sum((1, 2)).double() / gray[0].numel()).float()
    return _blend(_values(pixels), mean.view(-1, 1, 1), factors)


def _solarize(pixels: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    values = _values(pixels)
    return torch.where(values >= threshold, 255 - values, values)


def _solarize_add(pixels: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
    values = _values(pixels)
    return torch.where(values < 128, (values + added.int()).clamp_(max=255), values)


def _autocontrast(pixels: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """Stretched so that each channel's least value becomes 0 and its greatest 255; a channel of one value stays."""
    rows = pixels.flatten(2)  # over rows first: over a last dimension of 3 is ten times slower on a CPU
    least, greatest = (extremes.unflatten(1, (-1, 3)).float() for extremes in torch.aminmax(rows, dim=1))
    least, greatest = least.amin(1).unsqueeze(2), greatest.amax(1).unsqueeze(2)
    values = _values(pixels).float()
    stretched = (values - least) / ((greatest - least) * (1 / 255))
    return torch.where(greatest == least, values, stretched).clamp_(0, 255)


def _equalize(pixels: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """Each channel's values spread evenly, with the rounding of Pillow's equalize: the step between two output values
    is 1/255 of the pixels below the greatest value; a channel with a step of 0 stays."""
    index = _table_index(pixels)
    counts = index.new_zeros(len(pixels) * 3 * 256).index_add_(0, index, index.new_ones(1).expand_as(index))
    histogram = counts.view(-1, 3, 256)
    values, below = _values(pixels), histogram.cumsum(2, dtype=torch.int32) - histogram
    greatest = torch.where(histogram > 0, values, 0).amax(2, keepdim=True)
    step = below.gather(2, greatest.long()).floor_divide(255)
    spread = ((below + step // 2) // step.clamp(min=1)).clamp_(max=255)
    return torch.where(step == 0, values, spread)


_TABLES: dict[int, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    Operation.BRIGHTNESS: lambda pixels, factors: (_values(pixels) * factors.float()).clamp_(0, 255),
    Operation.CONTRAST: _contrast,
    Operation.POSTERIZE: lambda pixels, kept: _values(pixels) & (256 - (1 << (8 - kept.int()))),
    Operation.SOLARIZE: _solarize,
    Operation.SOLARIZE_ADD: _solarize_add,
    Operation.AUTOCONTRAST: _autocontrast,
    Operation.EQUALIZE: _equalize,
    Operation.INVERT: lambda pixels, _: 255 - _values(pixels),
}


def _look_up(pixels: torch.Tensor, tables: torch.Tensor) -> torch.Tensor:
    flat = tables.to(torch.uint8).expand(len(pixels), 3, 256).reshape(-1)
    return flat.index_select(0, _table_index(pixels)).view(pixels.shape)


def _table_index(pixels: torch.Tensor) -> torch.Tensor:
    """(image, channel, value) of each value as one number, int32. Row by row: adding along a last dimension of 3 is
    several times slower on a CPU."""
    channels = torch.arange(0, 3 * 256, 256, dtype=torch.int32, device=pixels.device).repeat(pixels.shape[2])
    images = torch.arange(0, len(pixels) * 3 * 256, 3 * 256, dtype=torch.int32, device=pixels.device)
    return (pixels.flatten(2) + (images.view(-1, 1, 1) + channels)).view(-1)
