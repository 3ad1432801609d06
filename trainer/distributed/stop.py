"""What any rank may ask of all between two steps or two batches of an evaluation: to save, or to stop.

SIGTERM, SIGINT and SIGHUP, the end of the terminal, ask to stop, and so does SIGUSR2, by which a launcher says that the
time is almost over. What is ignored, as SIGHUP under nohup, stays ignored.
"""

import os
import signal
import time
from collections.abc import Iterator
from enum import IntEnum
from types import FrameType
from typing import NoReturn, Self, TypeVar

import torch
import torch.distributed as dist

from trainer.distributed.process_group import World

T = TypeVar("T")
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)


class Stopped(Exception):  # noqa: N818
    """The end of a run that is to go on later: what can be saved is saved. Its message says so."""

    def __init__(self, message: str, number: signal.Signals) -> None:
        super().__init__(message)
        self.signal = number


class Request(IntEnum):
    """What a rank may ask of all ranks at the end of a step; the highest wins."""

    NOTHING = 0
    SAVE = 1
    STOP = 2


class StopSignal:
    """StopSignal of any rank, and signals, agreed on by all ranks at the same step.

    The agreement is one step late: its small all-reduce runs in the background of the step that follows.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._asked = Request.NOTHING
        self._pending: tuple[torch.Tensor, dist.Work] | None = None
        before = {number: signal.getsignal(number) for number in SIGNALS}
        self._previous = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
        self._signal: signal.Signals | None = None
        self._signalled_at = 0.0
        for number in self._previous:
            signal.signal(number, self._on_signal)

    def all_reduce(self, request: Request = Request.NOTHING) -> Request:
        """Called by every rank at the same time with its own request; returns the highest of the previous call."""
        if self._signal is not None:
            request = Request.STOP
        if self._world.size == 1:
            return request
        if request is self._asked is Request.SAVE:  # the answer is on its way
            request = Request.NOTHING
        self._asked = request
        agreed = self._result()
        level = torch.tensor(int(request))
        work = dist.all_reduce(level, dist.ReduceOp.MAX, group=self._world.gloo, async_op=True)
        assert work is not None
        self._pending = (level, work)
        return agreed

    def stop(self, message: str) -> NoReturn:
        """Raises Stopped, with the signal that this rank, or else another one, has met, and how long ago."""
        if self._signal:
            message += f" ({time.monotonic() - self._signalled_at:.1f} s after {self._signal.name})"
        raise Stopped(message, self._signal or signal.SIGTERM)

    def watch(self, batches: Iterator[T], rounds: int) -> Iterator[T]:
        """The batches of an evaluation, of which no rank has more than `rounds`. Raises Stopped when asked to stop."""
        for _ in range(rounds):
            if self.all_reduce() is Request.STOP:
                self.stop("stopped in an evaluation, saved before it: the same command continues with it")
            if (batch := next(batches, None)) is not None:
                yield batch

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or kind is Stopped:  # else a peer may be gone, and its answer would never come
            self._result()
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _result(self) -> Request:
        if self._pending is None:
            return Request.NOTHING
        level, work = self._pending
        self._pending = None
        work.wait()
        return Request(int(level))

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        # Ctrl-C again: the user does not want to wait. Below torchrun it is torchrun that says it again.
        alone = "TORCHELASTIC_RUN_ID" not in os.environ
        if alone and self._signal is signal.SIGINT and number == signal.SIGINT:
            signal.default_int_handler(number, frame)
        if self._signal is None:
            self._signalled_at = time.monotonic()
        self._signal = signal.Signals(number)
        if self._world.is_main:
            os.write(2, b"stopping and saving after this step\n")  # print() is not for signal handlers
