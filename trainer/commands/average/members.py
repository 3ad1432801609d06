"""The checkpoints of a mean: which they are, and what they must have in common."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from trainer.commands.weights import Weights, file_weights
from trainer.errors import UserError, counted
from trainer.evaluation.protocol import Selection, TrainedWeights, short
from trainer.model import without_pretrained
from trainer.run.checkpoint import CheckpointContent, mean_of
from trainer.run.checkpoint_names import checkpoint_files
from trainer.run.directory import Run
from trainer.run.state import Position
from trainer.settings import TrainSettings
from trainer.weights_settings import AverageSettings


@dataclass(frozen=True)
class Member:
    """One checkpoint of the mean."""

    weights: Weights
    state: dict[str, Tensor]
    content: CheckpointContent
    selection: Selection

    @property
    def epoch(self) -> float:
        return Position.from_dict(self.content["position"]).epochs


def _files(settings: AverageSettings) -> list[Path]:
    """The checkpoint files. Raises UserError if there are too few."""
    paths, last = list(settings.checkpoints), settings.last or TrainSettings.keep_last_checkpoints
    if len(paths) == 1 and not paths[0].is_file():
        run = Run(paths[0])
        _ = run.recipe  # raises UserError where it is no run
        found = [*checkpoint_files(run.checkpoints.folder).values()]
        if len(found) < last:
            fewer = f"use --last {len(found)}, or " if len(found) > 1 else ""
            raise UserError(
                f"{run.checkpoints.folder} holds {counted(len(found), 'checkpoint')}: {fewer}train with "
                f"--keep-last-checkpoints {last}"
            )
        return found[-last:]
    if len(paths) < 2:
        raise UserError("one file has no mean: give the folder of a run, or two or more checkpoints")
    if folder := next((path for path in paths if path.is_dir()), None):
        raise UserError(f"{folder} is a folder: give one run, or checkpoint files of several")
    if settings.last:
        raise UserError(f"--last {last} chooses among the checkpoints of a run, and these are files: leave it out")
    return paths


def read_members(settings: AverageSettings) -> list[Member]:
    """The checkpoints of the mean. Raises UserError if one cannot be averaged, and if two are the same or have
    nothing to do with each other."""
    members = [_member(file, settings) for file in _files(settings)]
    known: dict[str, Path] = {}
    for member in members:
        file = member.weights.file
        if other := known.get(member.weights.sha256):
            which = "is named twice" if file == other else f"is the same checkpoint as {other}"
            raise UserError(f"{file} {which}: each counts once in the mean, leave one out")
        known[member.weights.sha256] = file
    _require_alike(members)
    return members


def _require_alike(members: Sequence[Member]) -> None:
    """Raises UserError if two members differ in their classes, training images, network, mean or std."""
    first, *others = members
    ours = _facts(first)
    for other in others:
        theirs = _facts(other)
        for name, value in ours.items():
            if theirs[name] != value:
                raise UserError(
                    f"{first.weights.file} and {other.weights.file} cannot be averaged: {name} is {value} in the first "
                    f"and {theirs[name]} in the second"
                )


def _facts(member: Member) -> dict[str, object]:
    """What all members must share, by name. Two with as many classes have the same names here."""
    recipe, content = member.weights.recipe, member.content
    return {
        "the number of classes": len(content["classes"]),
        **{f"class {number}": repr(name) for number, name in enumerate(content["classes"])},
        "the training data": short(content["data"].get("train", "unknown")),
        "model": without_pretrained(recipe.model),
        "mean": recipe.mean,
        "std": recipe.std,
    }


def selection_of(members: Sequence[Member]) -> Selection:
    """How the epochs were chosen: best where one was chosen by its accuracy, unknown if one may have been."""
    found = {member.selection for member in members}
    return "best" if "best" in found else "unknown" if "unknown" in found else "newest"


def from_one_run(members: Sequence[Member]) -> bool:
    """Whether all lie in one folder."""
    return len({member.weights.file.absolute().parent.resolve() for member in members}) == 1


def _member(file: Path, settings: AverageSettings) -> Member:
    weights = file_weights(file, settings.recipe)
    trained, network = weights.networks[0]
    if not weights.content or not isinstance(trained, TrainedWeights) or isinstance(network, Path):
        raise UserError(f"{file} is no checkpoint of this trainer: only these can be averaged")
    if mean_of(weights.content):
        raise UserError(f"{file} is a mean of checkpoints already: leave it out")
    return Member(weights, network, weights.content, trained.selection)
