"""The short form of chaos.py: a run that is killed again and again is the run that was left alone."""

from pathlib import Path

import pytest

from tests.support.chaos import Chaos

pytestmark = pytest.mark.slow


def test_run_that_is_killed_at_random_moments_is_the_run_that_was_left_alone(digits: Path, tmp_path: Path) -> None:
    chaos = Chaos(tmp_path, digits, kills=2, seed=5, processes=2, epochs=2)
    chaos.run()
    assert chaos.kills.total() == 2
    assert chaos.runs >= 1
