"""What Linux says of this process: sizes in /proc, and the control groups that limit its CPUs and memory."""

import re
from collections.abc import Iterator
from pathlib import Path

CGROUP, CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
_STATUS = Path("/proc/self/status")


def proc_bytes(name: str, file: Path = _STATUS) -> int:
    """Returns a size that /proc lists in kB, such as VmRSS of this process, in bytes. Raises OSError without /proc."""
    found = re.search(rf"^{name}:\s+(\d+) kB$", file.read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise OSError(f"{file} lists no {name}")
    return 1024 * int(found[1])


def control_groups(controller: str, cgroup: Path = CGROUP, root: Path = CGROUPS) -> Iterator[tuple[Path, int]]:
    """Yields the folders of the groups that may limit this process, and their version, 1 or 2; parents come last.

    `controller`: "cpu" or "memory". A folder may be absent, as in a container. Without control groups, yields none.
    """
    try:
        lines = [line.split(":", 2) for line in cgroup.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return
    for _, controllers, name in lines:
        if controllers == "":
            top, version = root, 2
        elif controller in controllers.split(","):
            top, version = root / controller, 1
        else:
            continue
        folder = top / name.lstrip("/")
        for path in (folder, *folder.parents):
            yield path, version
            if path == top:
                break
