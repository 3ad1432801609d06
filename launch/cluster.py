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
from typing import Any, TypeVar

from launch.settings import ProcessSettings, SlurmSettings
from trainer.errors import UserError

T = TypeVar("T")
_FILE = Path("launch.toml")
_OF_THE_COMMAND_LINE = {"cluster", "plan", "seeds", "name", "nodes", "gpus"}


def cluster_file(chosen: Path | None) -> Path | None:
    """The file that was chosen, or else launch.toml of this folder; None where there is none."""
    return chosen or (_FILE if _FILE.is_file() else None)


def defaults(command: type[T], chosen: Path | None) -> T | None:
    """The options of `command` as the cluster's file has them; None where there is no file.

    Raises UserError where it cannot be read, holds something else than options, or values of another type.
    """
    if not (path := cluster_file(chosen)):
        return None
    try:
        values = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as TOML: {error}") from error
    known = {field.name: str(field.type) for field in fields(SlurmSettings) if field.name not in _OF_THE_COMMAND_LINE}
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            raise UserError(f"{path}: there is no setting {key!r}{f': did you mean {close[0]}?' if close else ''}")
        found[name] = _typed(path, key, value, known[name])
    here = {field.name for field in fields(command)}  # type: ignore[arg-type]
    own = {field.name for field in fields(ProcessSettings)}
    used = {name: value for name, value in found.items() if name in here and (command is SlurmSettings or name in own)}
    try:
        return command(**used)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def _typed(path: Path, key: str, value: Any, kind: str) -> Any:
    """The value, where it is of the field's type; a list of strings becomes a tuple."""
    if kind == "Repeated" and isinstance(value, list) and all(isinstance(line, str) for line in value):
        return tuple(value)
    expected: dict[str, Any] = {"int": int, "str": str, "bool": bool, "float": (int, float)}
    name = kind.removeprefix("Annotated[").partition(" ")[0].partition(",")[0]
    if name in expected and isinstance(value, expected[name]) and isinstance(value, bool) == (name == "bool"):
        return value
    raise UserError(f"{path}: {key} = {value!r} is not {'a list of strings' if kind == 'Repeated' else kind}")
