"""Weights to be evaluated or exported: of a run, of a checkpoint, of somebody's file; and what is known of them."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from trainer.errors import UserError, one_line
from trainer.evaluation.result import averaged_in_words, trained_in_words
from trainer.model import build_model, without_pretrained
from trainer.model.weights import classifiers, read_weights_file, state_dict_in
from trainer.recipe import Recipe
from trainer.recipe_file import load_recipe
from trainer.run import checkpoint
from trainer.run.checkpoint import State
from trainer.run.directory import Run
from trainer.run.state import Position

Network = dict[str, Tensor] | Path  # a state_dict, or an .onnx file, which holds the network too


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What was found. `classes` and `data` are None where nobody knows: a state_dict names neither."""

    file: Path
    sha256: str
    recipe: Recipe
    of_run: bool  # whether this recipe, with its seed, led to them
    trained: str  # what they are, in words
    networks: dict[str, Network]  # by what was averaged, in words that follow `trained`; the result's first
    classes: list[str] | None = None
    data: dict[str, str] | None = None  # checksums by split
    data_folder: str | None = None
    is_best: bool | None = False  # whether the epoch was chosen on the run's validation images; None: nobody knows
    notes: tuple[str, ...] = ()


def run_weights(run: Run, which: str) -> Weights:
    """Those of a run's checkpoint, "newest" or "best". Raises UserError where there is none that can be read."""
    recipe = run.recipe
    if which == "best":
        file, state = run.checkpoints.best, checkpoint.read(run.checkpoints.best)
    elif found := run.checkpoints.newest():
        file, state = found
    else:
        reason = run.checkpoints.damaged[0] if run.checkpoints.damaged else "there is none yet"
        raise UserError(
            f"{run.checkpoints.folder} holds no checkpoint that can be read ({reason}): try --checkpoint best"
        )
    damaged = run.checkpoints.damaged
    notes = (f"{'; '.join(damaged)}; using the one before",) if damaged else ()
    return replace(_of_state(file, state, recipe, of_run=True), notes=notes)


def file_weights(file: Path, recipe_name: str | None) -> Weights:
    """Those of a checkpoint of this trainer, a state_dict of anybody, or an .onnx file.

    A checkpoint within its run's folder has the run's recipe; otherwise `recipe_name`, a name or a path, says which
    network it is. Raises UserError where that is missing, and for a file that cannot be read.
    """
    in_run = file.absolute().parent.parent
    of_run = recipe_name is None and file.suffix == ".pt" and (in_run / "recipe.py").is_file()
    if recipe_name is None and not of_run:
        raise UserError(f"which network is {file}, and how is it evaluated? Add --recipe NAME (or a recipe's path)")
    recipe = Run(in_run).recipe if of_run else load_recipe(str(recipe_name))
    if file.suffix == ".onnx":
        return _of_strangers(file, recipe, file)
    if file.with_name(f"{file.name}.sha256").is_file() and file.suffix == ".pt":
        content: object = checkpoint.read(file)
    else:
        content = read_weights_file(file)
    if isinstance(content, dict) and {"model", "position", "step"} <= content.keys():
        return _of_state(file, content, recipe, of_run=of_run)
    return _of_strangers(file, recipe, state_dict_in(content, file)[0])


def load_network(weights: Weights, network: Network, num_classes: int, device: torch.device) -> nn.Module:
    """The network with these weights, all of them, on `device`. Raises UserError where they are another network's."""
    if isinstance(network, Path):
        from trainer.commands.onnx import OnnxNetwork

        return OnnxNetwork(network, num_classes)
    model = build_model(without_pretrained(weights.recipe.model), num_classes)
    _require_fit(model, network, weights.file, num_classes)
    model.load_state_dict(network, strict=False)
    return model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def file_sha256(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:  # or a run that goes on has removed its old checkpoint just now
        raise UserError(f"{file} cannot be read: {error.strerror}: try again, if a run is going on") from error


def _of_state(file: Path, state: State, recipe: Recipe, *, of_run: bool) -> Weights:
    at = Position.of(state)
    networks: dict[str, Network] = {}
    if state.get("average"):
        if recipe.ema is None:
            raise UserError(f"{file} holds averaged weights, and {recipe.name} has no ema: add --recipe RUN/recipe.py")
        networks[f", {averaged_in_words(recipe.ema, at.epochs)}"] = state["average"]
    networks[f", {averaged_in_words(None, at.epochs)}"] = state["model"]
    started_from, norms_measured = state.get("started_from", ""), state.get("norms_measured", False)
    trained = f"weights after {at.step:,} steps{started_from}"
    if of_run:
        trained = trained_in_words(recipe, at, started_from, norms_measured=norms_measured)
    return Weights(
        file=file,
        sha256=file_sha256(file),
        recipe=recipe,
        of_run=of_run,
        trained=trained,
        networks=networks,
        classes=state.get("classes"),
        data=state.get("data"),
        data_folder=state.get("data_folder"),
        is_best={"best": True, "step": False}.get(file.stem.partition("_")[0]),
    )


def _of_strangers(file: Path, recipe: Recipe, network: Network) -> Weights:
    sha256 = file_sha256(file)
    words = f"weights of {file.name} (sha256:{sha256[:12]})"
    return Weights(file=file, sha256=sha256, recipe=recipe, of_run=False, trained=words, networks={"": network})


def _require_fit(model: nn.Module, theirs: dict[str, Tensor], file: Path, num_classes: int) -> None:
    """Every name and shape, but for the counters that files from before PyTorch 0.4.1 lack and evaluation ignores."""
    ours: dict[str, Tensor] = model.state_dict()
    heads = tuple(f"{name}." for name in classifiers(model))
    missing = [name for name in ours if name not in theirs and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in theirs if name not in ours]
    reshaped = [name for name in ours if name in theirs and theirs[name].shape != ours[name].shape]
    if reshaped and not missing and not unexpected and all(name.startswith(heads) for name in reshaped):
        raise UserError(f"{file} is for {theirs[reshaped[0]].shape[0]} classes, and the data has {num_classes}")
    found = [
        f"{len(names)} {kind} ({one_line(', '.join(names[:3]))}{', ...' if len(names) > 3 else ''})"
        for kind, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped))
        if names
    ]
    if found:
        raise UserError(f"{file} is not a network of this recipe: {'; '.join(found)}: use the --recipe it was made by")
