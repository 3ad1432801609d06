"""What benchmarks.speed takes for an interval of our training."""

from pathlib import Path

import pytest

from benchmarks.loop import ours, small
from trainer.recipe import CifarResNet, PaddedCrop


class EnoughError(Exception):
    pass


@pytest.mark.slow
def test_interval_is_so_many_steps_and_counts_if_no_evaluation_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from trainer import train
    from trainer.log.lines import LogLines

    recipe = replace(
        small("resnet20_he2015", 10, 4),
        model=CifarResNet(depth=8),
        train_crop=PaddedCrop(resolution=8, padding=1),
        precision="fp32",
    )
    told: list[bool] = []

    def tick(counts: bool) -> None:
        told.append(counts)
        if len(told) == 8:
            raise EnoughError

    monkeypatch.setattr(train, "LogLines", LogLines)  # which `ours` replaces
    with pytest.raises(EnoughError):
        ours(recipe, "synthetic:28", tmp_path / "run", 2, tick)  # epochs of 7 steps
    # ends of the intervals: steps 2, 4, 6, then 1, 3, 5, 7 and 2 of the next epochs
    assert told == [False, True, True, False, True, True, True, False]
