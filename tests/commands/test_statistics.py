"""Mean, deviation and Welch's interval: against scipy, and against intervals worked out by hand."""

import math
import random
import statistics

import pytest
from scipy import stats

from trainer.commands.compare.statistics import (
    Interval,
    deviation,
    difference,
    mean_of,
    published_difference,
    t_quantile,
)


@pytest.mark.parametrize("freedom", [1.0, 1.3, 2.0, 4.7, 30.0, 1e4, 1e16, math.inf])
@pytest.mark.parametrize("probability", [0.6, 0.975, 0.995])
def test_quantiles_are_students(probability: float, freedom: float) -> None:
    expected = stats.norm.ppf(probability) if math.isinf(freedom) else stats.t.ppf(probability, freedom)
    assert t_quantile(probability, freedom) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("sizes", [(2, 2), (2, 9), (5, 3)])
def test_interval_is_welchs(sizes: tuple[int, int]) -> None:
    draw = random.Random(sum(sizes))
    first, second = ([draw.gauss(76, 0.1 * (place + 1)) for _ in range(n)] for place, n in enumerate(sizes))
    expected = stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    found = difference(mean_of(first), mean_of(second))
    assert found and (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-6)
    assert found.delta == pytest.approx(statistics.fmean(first) - statistics.fmean(second))


@pytest.mark.slow
def test_statistics_true_differences_lie_in_95_of_100_intervals() -> None:
    """Three seeds against five: what a factor of 2 would claim far too often."""
    draw = random.Random(0)
    held = narrow = 0
    for _ in range(200):
        ours, theirs = ([draw.gauss(0, 0.1) for _ in range(n)] for n in (3, 5))
        found = difference(mean_of(ours), mean_of(theirs))
        assert found
        held += found.holds_zero
        narrow += abs(found.delta) <= 2 * math.hypot(mean_of(ours).standard_error, mean_of(theirs).standard_error)
    assert 0.92 <= held / 200 <= 0.98
    assert narrow / 200 < 0.92


def test_deviation_is_with_n_minus_1_and_one_value_has_none() -> None:
    assert deviation([1.0, 3.0]) == pytest.approx(math.sqrt(2))
    assert deviation([1.0]) is None
    with pytest.raises(ValueError, match="1 values have no standard deviation"):
        mean_of([1.0])


def test_interval_shows_on_which_side_of_0_it_lies() -> None:
    assert str(Interval(0.6, 0.0031, 1.2)) == "95 % interval +0.003 to +1.200"
    assert str(Interval(-0.6, -1.2, -0.00004)) == "95 % interval -1.20000 to -0.00004"
    assert str(Interval(0.6, -0.0031, 1.2)) == "95 % interval +0.00 to +1.20"
    assert str(Interval(0.6, 0.0051, 1.2)) == "95 % interval +0.01 to +1.20"


def test_published_deviation_enters_as_welch_has_it() -> None:
    """A difference that ends where the interval begins has Welch's p of 5 %."""
    ours = [76.0, 76.3, 76.5]
    found = published_difference(ours, 76.26, 0.09, 5)
    assert found
    for end in (found.low, found.high):
        moved = statistics.fmean(ours) - end, statistics.stdev(ours), 3
        assert stats.ttest_ind_from_stats(*moved, 76.26, 0.09, 5, equal_var=False).pvalue == pytest.approx(0.05)


@pytest.mark.parametrize(("runs", "counted"), [(1, 1), (None, 1), (5, 5)])
def test_published_runs_without_a_deviation_vary_as_ours(runs: int | None, counted: int) -> None:
    """The interval for a further run of ours, or for the mean of several."""
    ours = [91.0, 91.2, 91.3, 91.1]
    found = published_difference(ours, 91.25, None, runs)
    half = float(stats.t.ppf(0.975, 3)) * statistics.stdev(ours) * math.sqrt(1 / 4 + 1 / counted)
    assert found and (found.low, found.high) == pytest.approx((-0.1 - half, -0.1 + half), rel=1e-6)
    assert published_difference([91.0, 91.0], 91.25, None, runs) is None


@pytest.mark.slow
def test_published_run_of_the_same_recipe_is_within_the_noise_95_times_of_100() -> None:
    """However many runs of ours there are: as an exact number it would be outside more often than not."""
    draw = random.Random(0)
    held = 0
    for _ in range(200):
        published, *ours = (draw.gauss(76, 0.1) for _ in range(21))
        found = published_difference(ours, published, None, 1)
        assert found
        held += found.holds_zero
    assert 0.92 <= held / 200 <= 0.98


def test_statistics_values_without_any_deviation_say_nothing_of_their_noise() -> None:
    assert difference(mean_of([99.0, 99.0]), mean_of([98.0, 98.0])) is None
    assert difference(mean_of([99.0, 99.0]), mean_of([98.0, 98.5]))


@pytest.mark.parametrize("runs", [1, None])
def test_interval_against_a_known_deviation_alone_is_the_normal_distributions(runs: int | None) -> None:
    found = published_difference([76.5, 76.5], 76.0, 0.1, runs)
    half = statistics.NormalDist().inv_cdf(0.975) * 0.1
    assert found and (found.low, found.high) == pytest.approx((0.5 - half, 0.5 + half))
