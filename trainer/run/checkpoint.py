"""The checkpoints of a run: their schema, atomic writing, checksums, and which of them are kept.

A checkpoint is step_00001234.pt, where 1234 optimizer steps are complete, and its SHA-256 in step_00001234.pt.sha256 in
the format of `sha256sum --check`. The checksum is renamed into place first: where there is a .pt file, both are whole.
It holds tensors and plain values only, so it is read with weights_only=True and cannot run code.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypedDict, Union, cast, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from trainer.atomic import MAKE_ROOM, atomic_write, rename, replace_text
from trainer.errors import DiskError, UserError, first_line
from trainer.process.regular import require_regular
from trainer.run.checkpoint_names import checkpoint_files
from trainer.run.checksum import checksum_file, file_sha256
from trainer.run.init_weights import InitWeights
from trainer.run.teacher import Teacher

FOREIGN = "it was not written by this version of the trainer, use another --run-dir"


class TrainingContent(TypedDict):
    """Everything that changes while training."""

    step: int
    position: dict[str, Any]
    """fields of trainer.run.state.Position"""
    model: dict[str, Tensor]
    average: dict[str, Tensor] | None
    """the averaged network; None: neither EMA nor SWA"""
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    metric_means: Tensor
    """the ring buffer of StepMetrics, means over the ranks"""
    metrics_from: int
    """the first step that `metric_means` knows of"""


class RunIdentity(TypedDict):
    """What a run was started from and on."""

    data: dict[str, str]
    """checksum by split"""
    data_folder: str
    classes: list[str]
    init_weights: dict[str, str | None]
    """fields of trainer.run.init_weights.InitWeights"""
    teacher: dict[str, str | None] | None
    """fields of trainer.run.teacher.Teacher; None: no distillation"""
    recipe: dict[str, Any]
    """trainer.recipe_file.settings_of it"""


class CheckpointContent(TrainingContent, RunIdentity):
    """The whole content of a checkpoint file: every key, and the type of its value."""

    norms_measured: bool
    """whether the statistics of the norms were measured (precise BN) after this step"""


class MeanOf(TypedDict):
    """What the command average adds to the newest checkpoint of its mean, as "mean_of"; training writes none."""

    count: int
    first: float
    """epochs complete at the first of the checkpoints"""
    last: float
    norm_images: int
    """training samples that the norms were measured over; 0: fine-tuning keeps their statistics"""
    selection: Literal["newest", "best", "unknown"]
    """best: one of the epochs was chosen by its accuracy, unknown: one may have been"""
    one_run: bool
    """whether the checkpoints came from one folder"""


def mean_of(content: Mapping[str, Any]) -> MeanOf | None:
    """Returns what a checkpoint is the mean of; None: it is of one training. Raises ValueError if that is damaged."""
    found = content.get("mean_of")
    if found is not None and (not isinstance(found, dict) or found.keys() != MeanOf.__required_keys__):
        raise ValueError(f"mean_of is {found!r:.100}")
    return cast(MeanOf | None, found)


def checked(content: object, path: Path) -> CheckpointContent:
    """Checks the content of `path` and returns it.

    Raises UserError if a key is missing or a value has the wrong type.
    """
    hints = get_type_hints(CheckpointContent)
    needed = CheckpointContent.__required_keys__
    if not isinstance(content, dict) or (missing := needed - content.keys()):
        lacks = ", ".join(sorted(missing)) if isinstance(content, dict) else "content"
        raise UserError(f"{path} has no {lacks}: {FOREIGN}")
    for name, hint in hints.items():
        kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        if not isinstance(content[name], tuple(get_origin(kind) or kind for kind in kinds)):
            raise UserError(f"{path}: {name} is of type {type(content[name]).__name__}: {FOREIGN}")
    try:
        InitWeights.from_dict(content["init_weights"])
        Teacher.from_dict(content["teacher"])
        mean_of(content)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: init_weights, teacher or mean: {first_line(error)}: {FOREIGN}") from error
    return cast(CheckpointContent, content)


class Checkpoints:
    """The checkpoints of one run: the last `keep`, and the best."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self._keep = keep
        self._saved_step = -1
        self.damaged: list[str] = []  # found by newest(), each with its reason

    @property
    def best(self) -> Path:
        return self.folder / "best.pt"

    def save(self, content: CheckpointContent, step: int) -> Path:
        """Writes the checkpoint of `step`, and removes all but the last `keep`. Raises UserError on a full disk."""
        path = self._path(step)
        if step == self._saved_step:
            return path
        for pattern in ("step_*.partial", "best.pt*.partial"):  # of a training that was killed, not of `average`
            for left in self.folder.glob(pattern):
                left.unlink(missing_ok=True)
        write(path, content)
        self._saved_step = step
        # checkpoints of later steps are damaged, or the run would have continued there: they do not count
        for old in [other for other in self._newest_first() if other <= path][self._keep :]:
            for file in (old, checksum_file(old)):
                file.unlink(missing_ok=True)
        return path

    def mark_best(self, step: int) -> None:
        """Keeps the checkpoint of `step` as the best one so far."""
        source, partial = self._path(step), self.best.with_name(f"{self.best.name}.partial")
        try:
            partial.unlink(missing_ok=True)
            try:
                partial.hardlink_to(source)
            except OSError:  # a file system without hard links
                shutil.copyfile(source, partial)
            replaced = _write_checksum(partial, self.best)
            rename(partial, self.best)
            if replaced:
                _write_checksum(self.best)
        except OSError as error:
            raise DiskError(f"{self.best}: cannot be written: {first_line(error)}: {MAKE_ROOM}") from error
        finally:
            partial.unlink(missing_ok=True)  # still there after renaming a link to itself

    def newest(self) -> tuple[Path, CheckpointContent] | None:
        """Reads the newest intact checkpoint, or None. `damaged` names newer ones that are not intact.

        Raises UserError if it is of another program or version: to fall back on an older one would hide that.
        """
        for path in self._newest_first():
            try:
                content = read(path)
            except UserError as error:
                self.damaged.append(str(error))
                continue
            return path, checked(content, path)
        return None

    def read_best(self) -> CheckpointContent:
        """Reads the best checkpoint. Raises UserError if there is none that can be read."""
        return checked(read(self.best), self.best)

    def _path(self, step: int) -> Path:
        return self.folder / f"step_{step:08d}.pt"

    def _newest_first(self) -> list[Path]:
        return [*reversed(checkpoint_files(self.folder).values())]


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Writes `content` so that, whenever the process dies, `path` is either absent, the old file or the new one."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as partial:
            with partial.open("wb") as file:  # torch's own file writer would not say why it failed
                torch.save(content, file)
            replaced = _write_checksum(partial, path)
        if replaced:
            _write_checksum(path)
    except (OSError, RuntimeError) as error:  # torch makes a RuntimeError of a full disk
        reason = first_line(error.__context__ if isinstance(error.__context__, OSError) else error)
        raise DiskError(f"{path}: the checkpoint cannot be written: {reason}: {MAKE_ROOM}") from error


def _write_checksum(content: Path, path: Path | None = None) -> bool:
    """Writes the checksum of `content`, which is about to be renamed to `path` or has its name already.

    Until it is renamed, the checksum file lists the old file too. Returns whether there is an old one.
    """
    path = path or content
    line = f"{file_sha256(content)}  {path.name}\n"
    replaces = path != content and path.exists() and checksum_file(path).exists()
    replace_text(checksum_file(path), line + (checksum_file(path).read_text(encoding="utf-8") if replaces else ""))
    return replaces


def read(path: Path) -> dict[str, Any]:
    """Reads what was written to `path`, on the CPU. Raises UserError if the file is absent, incomplete or damaged."""
    try:
        for file in (path, checksum_file(path)):
            require_regular(file)
        expected = checksum_file(path).read_text(encoding="utf-8").split()[::2]
        if file_sha256(path) not in expected:
            raise UserError(f"{path}: damaged: its SHA-256 is not the one in {checksum_file(path).name}")
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # torch.load raises whatever the damage leads to
        raise UserError(f"{path}: not a checkpoint that can be read: {first_line(error)}") from error
    return content
