"""StopSignal: all ranks save or stop at the same place, in training and in evaluations."""

import os
import signal

import pytest

from tests.support.processes import TIMEOUT, start_ranks
from trainer.distributed import process_group
from trainer.distributed.stop import Request, StopSignal
from trainer.errors import Stopped


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2])
def test_evaluation_ends_at_the_batch_after_a_signal(number: signal.Signals) -> None:
    seen = []
    expected = pytest.raises(Stopped, match="saved before it")
    with process_group.initialize("cpu", 1) as world, expected as stopped, StopSignal(world) as stop_signal:
        for batch in stop_signal.watch(iter(range(10))):
            seen.append(batch)
            if batch == 3:
                os.kill(os.getpid(), number)
    assert seen == [0, 1, 2, 3]
    assert stopped.value.signal is number


@pytest.mark.parametrize("is_terminal", [True, False])
def test_stop_signal_begins_a_new_line_on_a_terminal(is_terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The progress bar leaves the cursor at the end of its line."""
    written: list[bytes] = []
    with process_group.initialize("cpu", 1) as world, StopSignal(world) as stop_signal:
        monkeypatch.setattr(os, "isatty", lambda _: is_terminal)
        monkeypatch.setattr(os, "write", lambda _, text: written.append(text))
        stop_signal._on_signal(signal.SIGTERM, None)
        monkeypatch.undo()
    assert written == [is_terminal * b"\n" + b"stopping and saving after this step\n"]


@pytest.mark.parametrize(
    ("first", "is_launched", "ends"),
    [(signal.SIGINT, False, True), (signal.SIGTERM, False, False), (signal.SIGINT, True, False)],
)
def test_second_ctrl_c_ends_a_process_without_a_launcher_at_once(
    first: signal.Signals, is_launched: bool, ends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A launcher sends its own ranks the signal that it gets, which may be their second one."""
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    if is_launched:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "17")
    with process_group.initialize("cpu", 1) as world, StopSignal(world) as stop_signal:
        stop_signal._on_signal(first, None)
        ended = False
        try:
            stop_signal._on_signal(signal.SIGINT, None)
        except KeyboardInterrupt:  # which would end pytest, too
            ended = True
        assert ended == ends
        assert stop_signal.after_step(1) is Request.STOP


def test_evaluation_without_a_signal_sees_every_batch() -> None:
    with process_group.initialize("cpu", 1) as world, StopSignal(world) as stop_signal:
        assert list(stop_signal.watch(iter(range(3)))) == [0, 1, 2]
        assert stop_signal.after_step(1) is Request.NOTHING
        assert stop_signal.after_step(2, save=True) is Request.SAVE


def test_signals_are_given_back() -> None:
    before = signal.getsignal(signal.SIGUSR2)
    with process_group.initialize("cpu", 1) as world, StopSignal(world):
        assert signal.getsignal(signal.SIGUSR2) != before
    assert signal.getsignal(signal.SIGUSR2) == before


def test_stop_signal_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup has it
    try:
        with process_group.initialize("cpu", 1) as world, StopSignal(world) as stop_signal:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop_signal.after_step(1) is Request.NOTHING
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.slow
def test_ranks_of_different_speeds_save_and_stop_after_the_same_step() -> None:
    """Nothing but the horizon holds them together. Rank 0 requests a save, later rank 2 alone gets a signal."""
    said = outputs(
        "    stop_signal.begin(5)\n"
        "    saves, step = [], 5\n"
        "    while True:\n"
        "        time.sleep(0.003 * (1 + 3 * world.rank))\n"
        "        step += 1\n"
        "        request = stop_signal.after_step(step, save=world.is_main and step > 10 and not saves)\n"
        "        if request is Request.SAVE:\n"
        "            saves.append(step)\n"
        "        if world.rank == 2 and saves and step == saves[0] + 10:\n"
        "            os.kill(os.getpid(), signal.SIGTERM)\n"
        "        if request is Request.STOP:\n"
        "            break\n"
        "    print(*saves, step)\n"
    )
    assert len(set(said)) == 1, said
    save, stop = map(int, said[0].split())
    assert 10 < save < stop


@pytest.mark.slow
def test_ranks_with_different_numbers_of_batches_stop_together() -> None:
    """Rank 0 has 7 batches, rank 1 has 6, rank 2 has 5 and the only signal: none waits forever for the others."""
    said = outputs(
        "    seen = 0\n"
        "    try:\n"
        "        for batch in stop_signal.watch(iter(range(7 - world.rank))):\n"
        "            seen += 1\n"
        "            if (world.rank, batch) == (2, 3):\n"
        "                os.kill(os.getpid(), signal.SIGTERM)\n"
        "    except Stopped as stopped:\n"
        "        print('stopped after', seen)\n"
    )
    assert said[2] == "stopped after 4"
    assert all(words.startswith("stopped after") for words in said)


def outputs(body: str) -> list[str]:
    """What each of three ranks prints in `body`, with its world, stop_signal and a watchdog."""
    code = (
        "import os, signal, sys, time\n"
        "from trainer.distributed import process_group\n"
        "from trainer.distributed.stop import Request, StopSignal\n"
        "from trainer.errors import Stopped\n"
        "from trainer.distributed.watchdog import Watchdog\n"
        "with (\n"
        "    process_group.initialize('cpu', 15) as world,\n"
        "    StopSignal(world) as stop_signal,\n"
        "    Watchdog(world, stop_signal, 3, 30),\n"
        "):\n"
    )
    ranks = start_ranks(["-c", code + body], 3)
    answers = [rank.communicate(timeout=TIMEOUT) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0, 0], answers
    return [out.strip() for out, _ in answers]
