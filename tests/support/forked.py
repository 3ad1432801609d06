"""Python in processes that need not import torch, which takes seconds: forks of one that has imported it.

multiprocessing's fork server makes them. Where the difference matters, start_new (processes.py) makes new interpreters:
a module that reads a variable when it is imported sees the fork server's here; exit handlers run before other threads
have ended; torchrun's own variables are missing.
"""

import atexit
import contextlib
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import types
import weakref
from collections.abc import Mapping
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["trainer.train", "trainer.commands.evaluate.evaluate", "tensorboard", "timm", "tyro"])
_running: "weakref.WeakSet[Forked]" = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    """What failed tests have left; multiprocessing, whose own exit handler comes later, would wait for its end."""
    for process in [*_running]:
        process.kill()


class Forked:
    """`python WORDS` in a session of its own, as a subprocess.Popen with both pipes, as far as the tests need one.

    `words`: -m MODULE or -c CODE, and what follows. What is printed can be read after the end.
    """

    def __init__(self, words: list[str], cwd: Path, env: Mapping[str, str]) -> None:
        self.args = [sys.executable, *words]
        self._folder = tempfile.TemporaryDirectory()
        self._said = [Path(self._folder.name, name) for name in ("stdout", "stderr")]
        self._process = _CONTEXT.Process(target=_run, args=(words, cwd, dict(env), *self._said))
        self._process.start()
        self.pid = self._process.pid or 0
        _running.add(self)

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self.wait(timeout)
        out, err = (path.read_text(encoding="utf-8") if path.exists() else "" for path in self._said)
        return out, err

    def send_signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):  # it may have ended before its exit code is here
            if self.poll() is None:
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> "Forked":
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()


def _run(words: list[str], cwd: Path, env: dict[str, str], out: Path, err: Path) -> None:
    """In the new process: whatever a new interpreter has of its own, and the program."""
    os.setsid()
    for number, path in ((1, out), (2, err)):
        with path.open("wb") as file:
            os.dup2(file.fileno(), number)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    kind, program, *rest = words
    sys.path.insert(0, str(cwd))
    sys.argv = [kind, *rest]
    try:
        if kind == "-c":
            sys.modules["__main__"] = main = types.ModuleType("__main__")
            exec(program, vars(main))
        else:
            runpy.run_module(program, run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # which multiprocessing leaves out
