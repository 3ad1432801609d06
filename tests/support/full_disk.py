"""A file that cannot be written to, as on a full disk."""

import os
import stat
from pathlib import Path


def no_space_at(path: Path) -> None:
    """Makes `path` a device with no space left. Only root may make one; a link to /dev/full serves others.

    The system's own device has one lock for the whole machine: two suites at once would wait for each other.
    """
    try:
        os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 7))  # as /dev/full: Linux, Documentation/admin-guide/devices
        path.open("wb").close()  # a file system mounted with nodev refuses
    except PermissionError:
        path.unlink(missing_ok=True)
        path.symlink_to("/dev/full")
