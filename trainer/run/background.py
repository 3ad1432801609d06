"""Saving in the background: training continues while a checkpoint is written and synced to disk."""

import copy
import threading
from collections.abc import Callable
from typing import Any

import torch


class BackgroundWriter:
    """Runs one action at a time in a thread. The error of an action is raised by the next call of wait()."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def failed(self) -> bool:
        """Whether an action has raised an error that wait() has not raised yet."""
        return self._error is not None

    def start(self, action: Callable[[], object]) -> None:
        """Starts `action` after the last one has ended. Raises that one's error instead, if there is one."""
        self.wait()
        self._thread = threading.Thread(target=self._run, args=(action,), name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Returns when the last action has ended. Raises its error, once."""
        if self._thread:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error:
            raise error

    def _run(self, action: Callable[[], object]) -> None:
        try:
            action()
        except BaseException as error:  # raised where it is waited for
            self._error = error


def copied(value: Any) -> Any:
    """Makes a copy of dictionaries, lists and tensors, however deep; tensors on the CPU, with their strides."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        made = copy.copy(value)  # a state_dict has attributes too
        for key, inner in value.items():
            made[key] = copied(inner)
        return made
    if isinstance(value, list | tuple):
        return type(value)(copied(inner) for inner in value)
    return value
