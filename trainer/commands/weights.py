"""Finds the weights to evaluate or export, in a run, a checkpoint or any weights file, and what is known of them."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from trainer.errors import UserError
from trainer.evaluation.protocol import Selection, TrainedWeights, WeightMean, WeightsFile
from trainer.evaluation.result import trained_weights
from trainer.model import build_model, without_pretrained
from trainer.model.identify import advice
from trainer.model.weights import mismatch
from trainer.model.weights_file import StateDict, read_weights_file, state_dict_in, stated_classes
from trainer.recipe import Recipe
from trainer.recipe_file import load_recipe
from trainer.run import checkpoint
from trainer.run.checkpoint import CheckpointContent, checked, mean_of
from trainer.run.checksum import checksum_file, file_sha256
from trainer.run.directory import Run
from trainer.run.init_weights import InitWeights
from trainer.run.state import Position
from trainer.run.teacher import Teacher
from trainer.run.usable import is_run
from trainer.setup.networks import move_to_device

Network = dict[str, Tensor] | Path  # a state_dict, or an .onnx file, which holds the network too


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The weights that were found. `classes` and `data` are None if the file does not say."""

    file: Path
    sha256: str
    recipe: Recipe
    of_run: bool  # whether the weights come from this recipe with its seed
    networks: list[tuple[TrainedWeights | WeightsFile, Network]]  # the one that gives the result first
    classes: list[str] | None = None
    data: dict[str, str] | None = None  # checksums by split
    data_folder: str | None = None
    content: CheckpointContent | None = None  # of a checkpoint of this trainer, without its optimizer
    notes: tuple[str, ...] = ()

    @property
    def recipe_at_evaluation(self) -> Recipe:
        """The recipe, in the precision in which these weights are computed: an .onnx file has its own."""
        return replace(self.recipe, precision="fp32") if self.file.suffix == ".onnx" else self.recipe


def find_weights(
    path: Path, recipe_name: str | None, which: Literal["newest", "best", "average"], key: str | None = None
) -> Weights:
    """The weights of a run or a file; `key`: see file_weights. Raises UserError for options that do not apply."""
    if not path.is_file():
        if recipe_name:
            raise UserError(f"--recipe {recipe_name} is for a file: {path} is none, and a run has its own")
        if key:
            raise UserError(f"--weights-key {key} is for a file: {path} is none")
        return run_weights(Run(path), which)
    if which != "newest":
        raise UserError(f"--checkpoint {which} chooses among the checkpoints of a run, and {path} is a file")
    return file_weights(path, recipe_name, key)


def run_weights(run: Run, which: str) -> Weights:
    """The weights of a run's checkpoint, "newest", "best" or "average". Raises UserError if none can be read."""
    recipe = run.recipe
    if which == "best":
        file, content = run.checkpoints.best, run.checkpoints.read_best()
    elif which == "average":
        file = run.checkpoints.folder / "average.pt"
        if not file.is_file():
            raise UserError(f"there is no {file}: python -m trainer average {run.folder} writes it")
        content = checked(checkpoint.read(file), file)
    elif found := run.checkpoints.newest():
        file, content = found
    else:
        reason = run.checkpoints.damaged[0] if run.checkpoints.damaged else "there is none yet"
        raise UserError(
            f"{run.checkpoints.folder} holds no checkpoint that can be read ({reason}): try --checkpoint best"
        )
    damaged = run.checkpoints.damaged
    notes = (f"{'; '.join(damaged)}; using the one before",) if damaged else ()
    return replace(_of_checkpoint(file, content, recipe, of_run=True), notes=notes)


def file_weights(file: Path, recipe_name: str | None, key: str | None = None) -> Weights:
    """The weights in a checkpoint of this trainer, in any state_dict, or in an .onnx file.

    A checkpoint within its run's folder has the run's recipe; for other files `recipe_name`, a name or a path, says
    which network it is. `key` says which weights of the file, in our checkpoints model or average; None: the only or
    the averaged ones, of a checkpoint both. Raises UserError if what is needed is missing, and for a file that
    cannot be read.
    """
    in_run = file.absolute().parent.parent
    of_run = recipe_name is None and file.suffix == ".pt" and is_run(in_run)
    if recipe_name is None and not of_run:
        raise UserError(f"which network is {file}, and how is it evaluated? Add --recipe NAME (or a recipe's path)")
    recipe = Run(in_run).recipe if of_run else load_recipe(str(recipe_name))
    if file.suffix == ".onnx":
        if key:
            raise UserError(f"--weights-key {key}: {file} is an ONNX file, which holds one network: leave it out")
        from trainer.commands.onnx_network import onnx_metadata

        return _of_file(file, recipe, file, classes=stated_classes(onnx_metadata(file)))
    if checksum_file(file).is_file() and file.suffix == ".pt":
        content: object = checkpoint.read(file)
    else:
        content = read_weights_file(file)
    if isinstance(content, dict) and CheckpointContent.__required_keys__ <= content.keys():
        return _of_checkpoint(file, checked(content, file), recipe, of_run=of_run, key=key)
    with torch.device("meta"):  # the names only
        names = build_model(without_pretrained(recipe.model), recipe.num_classes).state_dict()
    found = state_dict_in(content, file, key).fitted(names)
    return _of_file(file, recipe, found, classes=found.classes)


def load_network(weights: Weights, network: Network, num_classes: int, device: torch.device) -> nn.Module:
    """The network with all of these weights, on `device`. Raises UserError if they belong to another network."""
    if isinstance(network, Path):
        from trainer.commands.onnx_network import OnnxNetwork

        return OnnxNetwork(network, num_classes)
    model = build_model(without_pretrained(weights.recipe.model), num_classes)
    _require_fit(model, network, weights.file, num_classes)
    model.load_state_dict(network, strict=False)
    move_to_device(model, device, weights.recipe.precision, cpu_kernels=False)  # those are for training
    return model


def _sha256(file: Path) -> str:
    try:
        return file_sha256(file)
    except OSError as error:  # or a running training has just removed its old checkpoint
        raise UserError(f"{file} cannot be read: {error.strerror}: try again if its run is still training") from error


def _of_checkpoint(
    file: Path, content: CheckpointContent, recipe: Recipe, *, of_run: bool, key: str | None = None
) -> Weights:
    held = {"average": content["average"], "model": content["model"]}
    if key is not None and not held.get(key):
        raise UserError(f"--weights-key {key}: {file} has weights at {', '.join(name for name in held if held[name])}")
    at, data = Position.from_dict(content["position"]), content["data"]
    init_weights = InitWeights.from_dict(content["init_weights"])
    mean = mean_of(content)
    of_run = of_run and (mean is None or mean["one_run"])
    kinds: dict[str, Selection] = {"best": "best", "step": "newest"}
    selection = kinds.get(file.stem.partition("_")[0], "unknown")
    if mean:
        selection = mean["selection"]

    def trained(*, averaged: bool) -> TrainedWeights:
        found = trained_weights(
            recipe,
            at,
            init_weights,
            norms_measured=content["norms_measured"],
            averaged=averaged,
            of_run=of_run,
            selection=selection,
            selected_on=data.get("val") if selection == "best" else None,
            teacher=Teacher.from_dict(content["teacher"]),
        )
        if mean is None:
            return found
        averaging = WeightMean(of="checkpoints", count=mean["count"], first=mean["first"], last=mean["last"])
        return replace(found, averaging=averaging, norm_images=mean["norm_images"] or None)

    networks: list[tuple[TrainedWeights | WeightsFile, Network]] = []
    if content["average"] and key != "model":
        if recipe.average is None:
            remedy = "add --recipe RUN/recipe.py, or --weights-key model for the others"
            raise UserError(f"{file} holds averaged weights, and {recipe.name} has no ema or swa: {remedy}")
        networks.append((trained(averaged=True), content["average"]))
    if key != "average":
        networks.append((trained(averaged=False), content["model"]))
    return Weights(
        file=file,
        sha256=_sha256(file),
        recipe=recipe,
        of_run=of_run,
        networks=networks,
        classes=content["classes"],
        data=data,
        data_folder=content["data_folder"],
        content={**content, "optimizer": {}},  # which is as large as the weights
    )


def _of_file(file: Path, recipe: Recipe, found: StateDict | Path, *, classes: list[str] | None) -> Weights:
    sha256 = _sha256(file)
    network, key, notes = (found, "", ()) if isinstance(found, Path) else (found.tensors, found.key, tuple(found.notes))
    weights = WeightsFile(file=file.name, sha256=sha256, key=key)
    return Weights(
        file=file,
        sha256=sha256,
        recipe=recipe,
        of_run=False,
        networks=[(weights, network)],
        classes=classes,
        notes=notes,
    )


def _require_fit(model: nn.Module, theirs: dict[str, Tensor], file: Path, num_classes: int) -> None:
    found = mismatch(model, theirs)
    if found.fatal:
        raise UserError(
            f"{file} is not a network of this recipe: {found}: use the --recipe it was made by{advice(theirs, None)}"
        )
    if found.other_classes:
        raise UserError(
            f"{file} is for {found.classes_there} classes, not {num_classes}: use the --recipe it was made by"
        )
