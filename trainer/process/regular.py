"""Regular files: what is read as a file has to be one, because opening a named pipe waits for somebody who writes."""

import os
from pathlib import Path

from trainer.errors import UserError


def require_regular(path: Path) -> None:
    """Raises UserError for a named pipe, a socket or a device: reading it would wait, or never end.

    What is absent, and a folder, are left to whoever opens it. So is a pipe without a name, as of a shell's <(...): it
    is open, and has a writer.
    """
    if os.path.isfile(path) or path.is_dir() or not os.path.exists(os.path.realpath(path)):
        return
    raise UserError(f"{path} is no regular file, but a named pipe, a socket or a device: remove it, or name another")
