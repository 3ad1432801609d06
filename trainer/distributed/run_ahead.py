"""How far the host may be ahead of the GPU."""

from collections import deque

import torch

AHEAD = 8  # batches: a GPU with short steps always has something to do


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
            self._ends.popleft().synchronize()
