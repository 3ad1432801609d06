"""Environment variables as input: what a launcher or a user has set may be empty or wrong."""

import os
from pathlib import Path

from trainer.errors import UserError


def whole_number(name: str, default: int) -> int:
    """The variable's value; `default` where it is unset or empty. Raises UserError if it is no number from 0."""
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    if not text.isdecimal():
        raise UserError(f"the environment variable {name} is {text!r}, not a whole number: unset it, or use torchrun")
    return int(text)


def place_in_run() -> tuple[int, int, int, int]:
    """RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE, as torchrun sets them; one process where none is set.

    Raises UserError if they contradict one another: the process would wait for others for ever.
    """
    rank, world_size = whole_number("RANK", 0), whole_number("WORLD_SIZE", 1)
    local_rank, local_world_size = whole_number("LOCAL_RANK", 0), whole_number("LOCAL_WORLD_SIZE", 1)
    for name, number, of, count in (
        ("RANK", rank, "WORLD_SIZE", world_size),
        ("LOCAL_RANK", local_rank, "LOCAL_WORLD_SIZE", local_world_size),
    ):
        if number >= count:
            raise UserError(f"{name} is {number}, but {of} is {count}: unset both, or use torchrun")
    if world_size > 1 and (missing := [name for name in ("MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]):
        raise UserError(f"WORLD_SIZE is {world_size}, but {missing[0]} is not set: unset WORLD_SIZE, or use torchrun")
    return rank, world_size, local_rank, local_world_size


def cache_folder() -> Path | None:
    """The user's folder for what can be made again; None if there is no home, as for a container's bare uid."""
    if given := os.environ.get("XDG_CACHE_HOME"):
        return Path(given) / "shortcut-trainer"
    home = Path(os.path.expanduser("~"))  # unlike Path.home(), it does not raise for a user without an entry
    return home / ".cache" / "shortcut-trainer" if home.is_absolute() and home != Path("/") else None
