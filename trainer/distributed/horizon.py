"""How far the ranks may train before they hear from rank 0 again, so that all of them save or stop after the same step.

Asking all ranks after each step would cost a collective in each step. Instead rank 0 publishes a horizon, and no rank
begins a step beyond it until it has a later one. So whenever rank 0 has to name a step to stop after, it names the
horizon: no rank has passed it.
"""

import math
from typing import NamedTuple

_EXCHANGES = 3  # between rank 0 and the others, before the horizon is reached: they rarely wait for a later one
_LEAST = 2  # steps


class Horizon(NamedTuple):
    """All in optimizer steps since the start of training; -1: none."""

    step: int = -1
    """the last step that a rank may complete"""
    save: int = -1
    """the step after which all ranks save; before `step`, because they continue after it"""
    stop: int = -1
    """the step after which all ranks save and stop"""


def next_horizon(
    now: Horizon, done: int, *, seconds_per_step: float, interval: float, save: bool, stop: bool
) -> Horizon:
    """The horizon that follows when rank 0 has completed `done` steps.

    `interval`: seconds between two exchanges with the store. `save`, `stop`: what a rank requests.
    """
    if now.stop >= 0:
        return now
    reachable = max(now.step, done + 1)  # no rank has begun a later step
    if stop:
        return now._replace(step=reachable, stop=reachable)
    if save and now.save < done:  # else it is already named, and not yet reached
        now = now._replace(save=reachable)
    ahead = max(_LEAST, math.ceil(_EXCHANGES * interval / max(seconds_per_step, 1e-6)))
    return now._replace(step=max(now.step, done + ahead, now.save + 1))
