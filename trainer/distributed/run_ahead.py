"""How far the host may be ahead of the GPU, and since when it waits for it."""

import time
from collections import deque

import torch

AHEAD = 8  # batches: a GPU with short steps always has something to do
_waits_since: float | None = None  # of this process, whose main thread alone waits


def wait_for_gpu(event: torch.cuda.Event) -> None:
    """Waits until the GPU has done what was there before the event. The watchdog ends a wait that does not end."""
    global _waits_since
    _waits_since = time.monotonic()
    try:
        event.synchronize()
    finally:
        _waits_since = None


def wait_for_device(device: torch.device) -> None:
    """Waits for a GPU's work so far, before its result is read: torch's own waits are unknown to the watchdog.

    Does nothing on a CPU.
    """
    if device.type == "cuda":
        event = torch.cuda.Event(blocking=True)
        event.record()
        wait_for_gpu(event)


def waits_since() -> float | None:
    """When the wait for the GPU began that has not ended, in seconds of time.monotonic(); None if there is none."""
    return _waits_since


class RunAhead:
    """Keeps the host at most AHEAD batches ahead of a GPU; does nothing on a CPU.

    Nothing in a step or an evaluation waits for the GPU. The host may otherwise give it a hundred batches, all in
    memory, and no longer knows how long a step takes. Each loop has its own: in device_batches, which all loops share,
    this wait would count as one for images.
    """

    def __init__(self, device: torch.device) -> None:
        self._is_gpu = device.type == "cuda"
        self._ends = deque[torch.cuda.Event]()

    def after_batch(self) -> None:
        """Waits for the end of the work of AHEAD batches ago."""
        if not self._is_gpu:
            return
        self._ends.append(torch.cuda.Event(blocking=True))  # the host sleeps: the cores are for the loader
        self._ends[-1].record()
        if len(self._ends) > AHEAD:
            wait_for_gpu(self._ends.popleft())
