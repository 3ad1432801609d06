"""What the system allows a process, raised to what training needs."""

import contextlib
import resource


def raise_open_file_limit() -> None:
    """To the hard limit. Gloo connects every rank with every other, so the usual 1,024 files allow about 300 ranks."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # some systems refuse an infinite limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
