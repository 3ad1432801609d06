"""Statistics of a few seeds: mean, standard deviation, and an interval for the difference of two means.

Pure functions of the standard library, so that runs can be compared where nothing else is installed.
"""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple


class Mean(NamedTuple):
    """A mean and its standard error."""

    value: float
    standard_error: float
    """standard deviation of the mean; 0: the mean counts as exact"""
    freedom: float
    """degrees of freedom of the standard error; inf where it counts as known"""


class Interval(NamedTuple):
    """A difference, and the range that holds the true one in 95 of 100 such comparisons."""

    delta: float
    low: float
    high: float

    @property
    def holds_zero(self) -> bool:
        return self.low <= 0 <= self.high

    def __str__(self) -> str:
        nearest = min(abs(self.low), abs(self.high))
        digits = 2 if self.holds_zero else next((digits for digits in range(2, 20) if round(nearest, digits)), 20)
        return f"95 % interval {self.low:+z.{digits}f} to {self.high:+z.{digits}f}"  # never +0.00 where it excludes 0


def deviation(values: Sequence[float]) -> float | None:
    """The standard deviation with n - 1; None for a single value, which has none."""
    return statistics.stdev(values) if len(values) > 1 else None


def mean_of(values: Sequence[float]) -> Mean:
    """The mean of independent runs. Raises ValueError for fewer than two: the noise of one is unknown."""
    sd = deviation(values)
    if sd is None:
        raise ValueError(f"{len(values)} values have no standard deviation")
    return Mean(statistics.fmean(values), sd / math.sqrt(len(values)), len(values) - 1)


def published_difference(
    values: Sequence[float], published: float, sd: float | None, runs: int | None
) -> Interval | None:
    """The mean of `values` minus a published mean, as difference() gives it. Without a number of runs it counts as one.

    Without a deviation the published runs are taken to vary as ours do, so that one published run stays as uncertain as
    one of ours, however many ours are.
    """
    ours, theirs = mean_of(values), runs or 1
    if sd is None:
        of_both = ours.standard_error * math.sqrt(1 + len(values) / theirs)  # sd * sqrt(1 / ours + 1 / theirs)
        return difference(ours._replace(standard_error=of_both), Mean(published, 0.0, math.inf))
    return difference(ours, Mean(published, sd / math.sqrt(theirs), theirs - 1 if theirs > 1 else math.inf))


def difference(first: Mean, second: Mean, confidence: float = 0.95) -> Interval | None:
    """First minus second, with Welch's interval for unequal deviations (Welch 1947, Biometrika 34).

    None if both standard errors are 0: values without deviation give no estimate of their noise.
    """
    variances = (first.standard_error**2, second.standard_error**2)
    if not sum(variances):
        return None
    shares = variances[0] ** 2 / first.freedom + variances[1] ** 2 / second.freedom
    freedom = sum(variances) ** 2 / shares if shares else math.inf  # only what counts as known varies
    half = t_quantile((1 + confidence) / 2, freedom) * math.sqrt(sum(variances))
    delta = first.value - second.value
    return Interval(delta, delta - half, delta + half)


def t_quantile(probability: float, freedom: float) -> float:
    """The value that Student's t stays below with this probability, from 0.5 up; freedom of at least 1, or inf."""
    if freedom > 1e6:  # the normal distribution's within 2e-6; beyond, the difference of two lgamma loses its digits
        return statistics.NormalDist().inv_cdf(probability)
    high = 1.0
    while _t_probability(high, freedom) < probability:
        high *= 2
    low = 0.0
    for _ in range(60):  # halvings: as exact as a float
        middle = (low + high) / 2
        low, high = (middle, high) if _t_probability(middle, freedom) < probability else (low, middle)
    return high


def _t_probability(value: float, freedom: float, panels: int = 400) -> float:
    """P(T < value) for value >= 0: with t = sqrt(freedom) tan(a) the density is a power of the cosine (Simpson)."""
    end = math.atan(value / math.sqrt(freedom))
    heights: list[float] = [math.cos(end * step / panels) ** (freedom - 1) for step in range(panels + 1)]
    area = (heights[0] + heights[-1] + 4 * sum(heights[1:-1:2]) + 2 * sum(heights[2:-1:2])) * end / panels / 3
    return 0.5 + area * math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)
