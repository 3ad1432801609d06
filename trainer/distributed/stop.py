"""Requests to save or to stop, which all ranks follow together, between steps or batches of an evaluation.

SIGTERM, SIGINT and SIGHUP (the terminal was closed) request a stop. So does SIGUSR2, which a launcher sends when the
time limit is near. Signals that are ignored, such as SIGHUP under nohup, stay ignored.
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
    """The run was stopped after saving, and can be continued. The message says so."""

    def __init__(self, message: str, number: signal.Signals) -> None:
        super().__init__(message)
        self.signal = number


class Request(IntEnum):
    """What a rank requests at the end of a step. Of all ranks' requests the highest wins."""

    NOTHING = 0
    SAVE = 1
    STOP = 2


class StopSignal:
    """Combines the requests and signals of all ranks, so that all act on them after the same step.

    They act one step late: the small all-reduce runs in the background of the following step.
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
        """Sends this rank's request; returns the highest one of the previous call. Called by all ranks together."""
        if self._signal is not None:
            request = Request.STOP
        if self._world.size == 1:
            return request
        if request is self._asked is Request.SAVE:  # already sent, the result is pending
            request = Request.NOTHING
        self._asked = request
        agreed = self._result()
        level = torch.tensor(int(request))
        work = dist.all_reduce(level, dist.ReduceOp.MAX, group=self._world.gloo, async_op=True)
        assert work is not None
        self._pending = (level, work)
        return agreed

    def stop(self, message: str) -> NoReturn:
        """Raises Stopped, with the signal this rank received and how long ago; SIGTERM where only others did."""
        if self._signal:
            message += f" ({time.monotonic() - self._signalled_at:.1f} s after {self._signal.name})"
        raise Stopped(message, self._signal or signal.SIGTERM)

    def watch(self, batches: Iterator[T], rounds: int) -> Iterator[T]:
        """Yields an evaluation's batches, at most `rounds` on any rank. Raises Stopped on a request to stop."""
        for _ in range(rounds):
            if self.all_reduce() is Request.STOP:
                self.stop("stopped in an evaluation, saved before it: the same command continues with it")
            if (batch := next(batches, None)) is not None:
                yield batch

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or kind is Stopped:  # otherwise a peer may be gone, and the result would never arrive
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
        # a second Ctrl-C: the user does not want to wait. Under torchrun the second one comes from torchrun itself.
        alone = "TORCHELASTIC_RUN_ID" not in os.environ
        if alone and self._signal is signal.SIGINT and number == signal.SIGINT:
            signal.default_int_handler(number, frame)
        if self._signal is None:
            self._signalled_at = time.monotonic()
        self._signal = signal.Signals(number)
        if self._world.is_main:
            os.write(2, b"stopping and saving after this step\n")  # print() is not safe in a signal handler
