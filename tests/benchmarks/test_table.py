"""The rows of the benchmarks' table by hand, and intervals in turn by a clock that counts."""

import multiprocessing
from itertools import count
from types import SimpleNamespace

import pytest

from benchmarks import in_turn as turns
from benchmarks.in_turn import Tick, in_turn
from benchmarks.table import Row, line, markdown, pairs_row, ratio_row, seconds_row


def test_ratio_row_compares_the_best_rounds() -> None:
    """Rounds of 0.5, 2 and 0.75; the best of each are 60 and 80."""
    assert ratio_row("a", [40.0, 60.0, 60.0], [80.0, 30.0, 80.0], target=0.75) == Row(
        what="a",
        figure="0.75 (rounds 0.50 to 2.00, median 0.75)",
        target=">= 0.75",
        reached=True,
        detail="60 / 80 per s, n = 3",
    )
    assert ratio_row("a", [60.0], [80.0], target=0.76).reached is False


def test_pairs_row_gives_the_median_pair_and_the_middle_half() -> None:
    """Their time by ours: 4, 0.5, 1, 2, 1.25, 0.25 and 3 in the order of the pairs."""
    ours, theirs = [1.0, 2.0, 4.0, 2.0, 4.0, 2.0, 2.0], [4.0, 1.0, 4.0, 4.0, 5.0, 0.5, 6.0]
    assert pairs_row("a", ours, theirs, images=200, target=1.3) == Row(
        what="a",
        figure="1.25 (half of the pairs 0.50 to 3.00)",
        target=">= 1.3",
        reached=False,
        detail="medians 100 / 50 per s, n = 7 pairs",
    )
    assert pairs_row("a", ours, theirs, images=200, target=1.25).reached


def test_seconds_row_gives_the_fastest_and_the_slowest_try() -> None:
    found = seconds_row("a", [3.0, 2.04, 5.0], target=2.04, detail="cold")
    assert found == Row(what="a", figure="2.0 s (to 5.0)", target="<= 2.04 s", reached=True, detail="n = 3, cold")
    missed = seconds_row("a", [3.0], target=2)
    assert (missed.reached, missed.detail) == (False, "n = 1")
    assert markdown([found, missed], "heading").splitlines() == [
        "heading",
        "",
        "| what | measured | target | reached | |",
        "|---|---|---|---|---|",
        "| a | 2.0 s (to 5.0) | <= 2.04 s | yes | n = 3, cold |",
        "| a | 3.0 s (to 3.0) | <= 2 s | **no** | n = 1 |",
    ]
    assert line(Row(what="a", figure="1", target="", reached=None, detail="")) == "| a | 1 |  |  |  |"


def always(tick: Tick) -> None:
    while True:
        tick(True)


def every_second(tick: Tick) -> None:
    while True:
        tick(False)
        tick(True)


def test_in_turn_times_the_intervals_that_count_and_ends_all_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The nth look at the clock sees n * n. A round has two looks for the one program and three for the other."""
    looks = count()
    monkeypatch.setattr(turns, "time", SimpleNamespace(perf_counter=lambda: float(next(looks) ** 2)))
    monkeypatch.setattr(turns, "get_context", lambda _: multiprocessing.get_context("fork"))  # imports nothing anew
    before = {*multiprocessing.active_children()}
    found = in_turn({"always": always, "every second": every_second}, intervals=2)
    assert found == {  # of looks 10 to 14 and 15 to 19: two rounds before are warm-up
        "always": [11.0**2 - 10**2, 16.0**2 - 15**2],
        "every second": [14.0**2 - 13**2, 19.0**2 - 18**2],
    }
    assert {*multiprocessing.active_children()} == before
