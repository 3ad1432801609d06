"""The horizon: no rank passes the step after which all save or stop, however late the news reaches it."""

import random

import pytest

from trainer.distributed.horizon import Horizon, next_horizon


def follow(now: Horizon, done: int, *, save: bool = False, stop: bool = False, seconds: float = 0.1) -> Horizon:
    return next_horizon(now, done, seconds_per_step=seconds, interval=0.25, save=save, stop=stop)


def test_horizon_is_a_few_exchanges_ahead_and_never_goes_back() -> None:
    assert follow(Horizon(), 100) == Horizon(step=108)  # 3 exchanges of 0.25 s, 7.5 steps
    assert follow(Horizon(step=106), 101) == Horizon(step=109)
    assert follow(Horizon(step=106), 90) == Horizon(step=106)
    assert follow(Horizon(), 7, seconds=60.0) == Horizon(step=9)


def test_horizon_itself_is_the_step_to_stop_after_and_then_stays() -> None:
    stopping = follow(Horizon(step=106), 101, stop=True)
    assert stopping == Horizon(step=106, stop=106)
    assert follow(stopping, 105) == follow(stopping, 106, save=True) == stopping
    assert follow(Horizon(), 5, stop=True) == Horizon(step=6, stop=6)  # before the first step


def test_horizon_continues_beyond_a_save_which_is_named_once() -> None:
    saving = follow(Horizon(step=106), 103, save=True)
    assert saving == Horizon(step=111, save=106)
    assert follow(saving, 105, save=True).save == 106
    assert follow(saving, 106, save=True).save == 106  # it is being written
    assert follow(saving, 107).save == 106
    assert follow(saving, 107, save=True).save == 111
    assert follow(Horizon(step=106), 103, save=True, seconds=60.0) == Horizon(step=107, save=106)


@pytest.mark.parametrize("seed", range(50))
def test_ranks_act_after_the_same_steps_in_any_order_of_events(seed: int) -> None:
    """Any rank may be any number of exchanges late; as in StopSignal it waits after a step that ends at its horizon."""
    chance = random.Random(seed)
    published = Horizon()
    done, known, acted = [5, 5, 5], [Horizon()] * 3, [list[tuple[str, int]]() for _ in range(3)]
    save, stop = False, False
    for _ in range(100_000):  # a few hundred are enough
        if all(events and events[-1][0] == "stop" for events in acted):
            break
        rank = chance.randrange(3)
        if chance.random() < 0.2:  # an exchange of this rank's thread with the store
            if rank == 0:
                published = follow(published, done[0], save=save, stop=stop)
            known[rank] = published
        elif done[rank] < known[rank].step or done[rank] == known[rank].stop:  # it leaves the step it has completed
            acted[rank] += [(what, done[rank]) for what in ("save", "stop") if getattr(known[rank], what) == done[rank]]
            done[rank] += 1
        save = done[0] >= 30 and not acted[0]
        stop = stop or done[2] >= 60
    assert acted[0] == acted[1] == acted[2]
    assert [what for what, _ in acted[0]] == ["save", "stop"]
