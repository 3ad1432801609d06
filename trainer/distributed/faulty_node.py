"""Reports a machine that is at fault to the launcher, which may leave it out at the next start."""

import contextlib
import os
from pathlib import Path

from trainer.errors import one_line

VARIABLE = "LAUNCH_FAULTY_NODE"
"""names the file that a launcher looks for; not set where nobody does"""


def report_faulty_node(reason: str) -> None:
    """Says in one line why this process's machine is at fault. At once: its peers may end this process."""
    if file := os.environ.get(VARIABLE):
        with contextlib.suppress(OSError):
            Path(file).write_text(one_line(reason), encoding="utf-8")
