"""Checks that the parts of the vocabulary share. Each raises ValueError, naming the setting and its value."""

import math
from dataclasses import fields, is_dataclass


def check_not_negative(name: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name}={value} is negative or not a number")


def check_share(name: str, value: float) -> None:
    """A fraction or probability."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name}={value} is not within [0, 1]")


def check_below_one(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"{name}={value} is not within [0, 1)")


def check_positive_int(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name}={value} is not a positive number")


def check_resolution(name: str, resolution: int) -> None:
    if resolution < 1:
        raise ValueError(f"{name}={resolution} is not a positive number of pixels")


def check_area(name: str, scale: tuple[float, float], ratio: tuple[float, float]) -> None:
    """Ranges of a box's area, as a fraction of the image's, and of its width / height."""
    if not 0 < scale[0] <= scale[1] <= 1:
        raise ValueError(f"{name}.scale={scale} is not a range within (0, 1]")
    if not 0 < ratio[0] <= ratio[1]:
        raise ValueError(f"{name}.ratio={ratio} is not a range of positive numbers")


def check_finite(value: object, name: str) -> None:
    """No nan and no infinity anywhere in it, which no paper means and no file of Python can hold."""
    if is_dataclass(value):
        for field in fields(value):
            check_finite(getattr(value, field.name), f"{name}.{field.name}" if name else field.name)
    elif isinstance(value, tuple):
        for item in value:
            check_finite(item, name)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name}={value} is not a finite number")
