"""The short form of chaos.py: a run that is killed again and again is the run that was left alone."""

from pathlib import Path

import pytest

from tests.support.chaos import Chaos

pytestmark = pytest.mark.slow


def test_run_that_is_killed_at_random_moments_is_the_run_that_was_left_alone(digits: Path, tmp_path: Path) -> None:
    """The first kill leaves a checkpoint behind, because it comes after one, while the next is written."""
    plan = [("while saving", "one rank"), ("after a step", "everything")]
    chaos = Chaos(tmp_path, digits, kills=2, seed=5, processes=2, epochs=2, plan=plan)
    chaos.run()
    assert set(chaos.kills) == {"one rank, while saving", "everything, after a step"}
    assert chaos.continued >= 1
