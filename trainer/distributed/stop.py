"""Requests to save or to stop, which all ranks follow together, between steps or batches of an evaluation.

SIGTERM, SIGINT and SIGHUP (the terminal was closed) request a stop. So does SIGUSR2, which a launcher sends when the
time limit is near. Signals that are ignored, such as SIGHUP under nohup, stay ignored.

Requests travel through the store that the watchdog's thread reads: a step itself needs no message (see horizon.py).
"""

import os
import signal
import statistics
import threading
import time
from collections import deque
from collections.abc import Iterator
from enum import IntEnum
from types import FrameType
from typing import NoReturn, Self, TypeVar

import torch
import torch.distributed as dist

from trainer.distributed.horizon import Horizon, next_horizon
from trainer.distributed.process_group import World
from trainer.errors import Stopped

T = TypeVar("T")
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)


class Request(IntEnum):
    """What all ranks do at the end of a step."""

    NOTHING = 0
    SAVE = 1
    STOP = 2


class StopSignal:
    """Lets all ranks act on the requests and signals of any of them after the same step.

    With several ranks a Watchdog must run: its thread calls next_horizon() on rank 0, and follow() on all ranks.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._done: int | None = None  # steps; None: the loop has not begun
        self._save = False
        self._durations: deque[float] = deque(maxlen=20)
        self._step_ended: float | None = None
        self._horizon = Horizon()
        self._changed = threading.Condition()
        self.waiting = threading.Event()
        """set while the main thread waits for a later horizon"""
        before = {number: signal.getsignal(number) for number in SIGNALS}
        self._previous = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
        self._signal: signal.Signals | None = None
        self._signalled_at = 0.0
        for number in self._previous:
            signal.signal(number, self._on_signal)

    def begin(self, step: int) -> None:
        """The loop begins after `step` complete steps."""
        self._done = step

    def after_step(self, step: int, *, save: bool = False) -> Request:
        """What all ranks do after this step. Called by all ranks after each step.

        `save`: rank 0 requests a save. It may wait until rank 0 allows the next step.
        """
        if self._world.size == 1:
            return Request.STOP if self._signal is not None else Request.SAVE if save else Request.NOTHING
        now = time.monotonic()
        if self._step_ended is not None:
            self._durations.append(now - self._step_ended)
        self._done, self._save = step, save
        horizon = self._horizon if step < self._horizon.step else self._wait_for_horizon(step)
        self._step_ended = time.monotonic()
        if step == horizon.stop:
            return Request.STOP
        return Request.SAVE if step == horizon.save else Request.NOTHING

    def _wait_for_horizon(self, step: int) -> Horizon:
        with self._changed:
            while step >= self._horizon.step and step != self._horizon.stop:
                self.waiting.set()
                self._changed.wait()
            self.waiting.clear()
            return self._horizon

    @property
    def requested(self) -> bool:
        """Whether this process has received a signal to stop."""
        return self._signal is not None

    def next_horizon(self, interval: float, *, stop: bool) -> Horizon:
        """On rank 0, for the watchdog's thread. `interval`: seconds between two calls. `stop`: a rank requests it."""
        if self._done is None:
            return self._horizon
        seconds = statistics.median(self._durations) if self._durations else interval
        return next_horizon(
            self._horizon, self._done, seconds_per_step=seconds, interval=interval, save=self._save, stop=stop
        )

    def follow(self, horizon: Horizon) -> None:
        """For the watchdog's thread: what rank 0 has published."""
        if horizon != self._horizon:
            with self._changed:
                self._horizon = horizon
                self._changed.notify_all()

    def stop(self, message: str) -> NoReturn:
        """Raises Stopped, with the signal this rank received and how long ago; SIGTERM where only others did."""
        if self._signal:
            message += f" ({time.monotonic() - self._signalled_at:.1f} s after {self._signal.name})"
        raise Stopped(message, self._signal or signal.SIGTERM)

    def watch(self, batches: Iterator[T]) -> Iterator[T]:
        """Yields an evaluation's batches, which all ranks must exhaust. Raises Stopped on a request to stop.

        A rank ends as soon as it knows of the request, and then waits for the others.
        """
        for batch in batches:
            yield batch
            if self._is_stopping:
                break
        stopping = torch.tensor(int(self._is_stopping))
        if self._world.size > 1:
            dist.all_reduce(stopping, dist.ReduceOp.MAX, group=self._world.gloo)
        if stopping:
            self.stop("stopped in an evaluation, saved before it: run the same command again to resume")

    @property
    def _is_stopping(self) -> bool:
        return self._signal is not None or self._horizon.stop >= 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        # a second Ctrl-C: the user does not want to wait. Under torchrun the second one comes from torchrun itself.
        alone = "TORCHELASTIC_RUN_ID" not in os.environ
        if alone and self._signal is signal.SIGINT and number == signal.SIGINT:
            signal.default_int_handler(number, frame)
        if self._signal is None:
            self._signalled_at = time.monotonic()
        self._signal = signal.Signals(number)
        if self._world.is_main:
            when = b"this step" if self._world.size == 1 else b"the next steps"
            new_line = b"\n" if os.isatty(2) else b""  # after the progress bar
            os.write(2, b"%bstopping and saving after %b\n" % (new_line, when))  # print() is not safe in a handler
