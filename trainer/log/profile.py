"""--profile-steps: records a few steps with torch.profiler, for Perfetto or TensorBoard's profile plugin."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Self

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from trainer.distributed.process_group import World, all_end
from trainer.distributed.run_ahead import wait_for_device
from trainer.errors import UserError
from trainer.run.state import Position
from trainer.settings import TrainSettings


class Profiler:
    """Records the `count` steps that follow step `first`, on rank 0. A context manager. Does nothing if count is 0.

    The trace is folder/profile/steps_FIRST-LAST.pt.trace.json. Its steps are marked as ProfilerStep#NUMBER.
    """

    def __init__(
        self, folder: Path, world: World, say: Callable[[str], None], *, first: int, count: int, step: int, total: int
    ) -> None:
        """`step` of `total` steps are complete. Raises UserError if the run ends before the first recorded step."""
        if count and first >= total:
            raise UserError(f"--profile-from {first} is not below the run's {total} steps: use a smaller one")
        self._folder, self._world, self._say = folder / "profile", world, say
        self._first, self._last = max(first, step), min(first + count, total)
        self._profile: profile | None = None
        self._mark: record_function | None = None
        self._recorded = step
        self._wanted = world.is_main and self._first < self._last
        if count and step >= self._last:
            say(f"no profile: step {step} is complete, which is after steps {first + 1} to {self._last}")
        self.step_done(step)

    def step_done(self, step: int) -> None:
        """Called when `step` steps of the run are complete."""
        if not self._wanted or step < self._first:
            return
        self._end_step()
        self._recorded = step
        if step == self._last:
            self.close()
            return
        if not self._profile:
            os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # no messages of its own, e.g. about GPUs
            cuda = [ProfilerActivity.CUDA] if self._world.device.type == "cuda" else []
            self._profile = profile(activities=[ProfilerActivity.CPU, *cuda])
            self._profile.start()
        self._mark = record_function(f"ProfilerStep#{step + 1}")
        self._mark.__enter__()

    def close(self) -> None:
        """Writes the recorded steps, if any, also when the run is stopped among them."""
        if not self._profile:
            return
        self._end_step()
        wait_for_device(self._world.device)
        if self._world.device.type == "cuda":
            torch.cuda.synchronize(self._world.device)  # copies ahead too: otherwise the last kernels are missing
        self._profile.stop()
        if self._recorded > self._first:
            self._folder.mkdir(exist_ok=True)
            path = self._folder / f"steps_{self._first + 1}-{self._recorded}.pt.trace.json"
            self._profile.export_chrome_trace(str(path))
            text = re.sub(r'"(host_name|traceName)": "[^"]*"', r'"\1": ""', path.read_text(encoding="utf-8"))  # private
            path.write_text(text, encoding="utf-8")
            steps = f"steps {self._first + 1} to {self._recorded}"
            self._say(f"profile of {steps}: {path} (for ui.perfetto.dev, or TensorBoard's profile plugin)")
        self._profile, self._wanted = None, False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if all_end(self._world.size, error):  # else the device may wait for other ranks, and close() for the device
            self.close()

    def _end_step(self) -> None:
        if self._mark:
            self._mark.__exit__(None, None, None)
            self._mark = None


def profiler(
    settings: TrainSettings, folder: Path, world: World, at: Position, epochs: int, say: Callable[[str], None]
) -> Profiler:
    """The profiler for these settings. Raises UserError as Profiler does."""
    first, count = settings.profile_from, settings.profile_steps or 0
    return Profiler(folder, world, say, first=first, count=count, step=at.step, total=epochs * at.steps_per_epoch)
