"""What one cluster needs, in a TOML file: the launcher's options by their names, once for all its users.

partition = "gpu"
gpus_per_node = 8
cpus_per_task = 12
setup = ["module load cuda/12.8", "export NCCL_SOCKET_IFNAME=ib0"]
"""

import difflib
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

from launch.settings import ProcessSettings
from trainer.errors import UserError

_FILE = Path("launch.toml")
_COMMAND_LINE_ONLY = {"cluster", "plan", "seeds", "vary", "name", "nodes", "gpus"}


def cluster_file(chosen: Path | None) -> Path | None:
    """The file that was chosen, or else launch.toml of this folder; None if there is none."""
    return chosen or (_FILE if _FILE.is_file() else None)


def argv_of(command: type, launchers: list[type], chosen: Path | None) -> list[str]:
    """The options of `command` that the cluster's file sets, as arguments; none without a file.

    The file may hold options of all `launchers`; a command that is not a launcher takes those of ProcessSettings.
    Raises UserError if it cannot be read, holds an unknown option, or a value of the wrong type.
    """
    if not (path := cluster_file(chosen)):
        return []
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as TOML: {error}") from error
    found = [field for launcher in launchers for field in fields(launcher)]
    known = {field.name: str(field.type) for field in found if field.name not in _COMMAND_LINE_ONLY}
    here = {field.name for field in fields(command if command in launchers else ProcessSettings)}
    argv = []
    for key, value in values.items():
        name = key.replace("-", "_")
        if name in _COMMAND_LINE_ONLY:
            raise UserError(f"{path}: {key!r} is an option of the command line only")
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            raise UserError(f"{path}: there is no setting {key!r}{f': did you mean {close[0]}?' if close else ''}")
        _check_type(path, key, value, known[name])
        if name in here:
            option = f"--{name.replace('_', '-')}"
            if isinstance(value, bool):
                argv.append(option if value else option.replace("--", "--no-", 1))
            else:
                argv += [f"{option}={one}" for one in (value if isinstance(value, list) else [value])]
    return argv


def _check_type(path: Path, key: str, value: Any, kind: str) -> None:
    """Raises UserError if the value is not of the field's type, or no list of strings for one that repeats."""
    if kind == "Repeated" and isinstance(value, list) and all(isinstance(line, str) for line in value):
        return
    expected: dict[str, Any] = {"int": int, "str": str, "bool": bool, "float": (int, float)}
    name = kind.removeprefix("Annotated[").partition(" ")[0].partition(",")[0]
    if name in expected and isinstance(value, expected[name]) and isinstance(value, bool) == (name == "bool"):
        return
    raise UserError(f"{path}: {key} = {value!r} is not {'a list of strings' if kind == 'Repeated' else kind}")
