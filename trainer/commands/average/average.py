"""The command average: the mean of several checkpoints' weights, with norms recomputed, evaluated and saved."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from trainer.commands.evaluate.evaluate import evaluate_in
from trainer.commands.out_file import require_folder, require_not_read, require_outside_checkpoints
from trainer.commands.weights import Weights, file_weights, load_network
from trainer.data.formats import open_dataset
from trainer.data.listing import composed
from trainer.data.loader import Loader, check_square, default_workers
from trainer.distributed import process_group
from trainer.distributed.process_group import World, on_every_rank, require_same
from trainer.errors import UserError
from trainer.evaluation.protocol import Selection, TrainedWeights
from trainer.model import set_norm_batch
from trainer.precise_bn import remeasure_norms
from trainer.precision import set_tf32
from trainer.recipe import PaddedCrop, Recipe
from trainer.run import checkpoint
from trainer.run.checkpoint import CheckpointContent, MeanOf, checked
from trainer.run.directory import Run
from trainer.run.state import Position
from trainer.weights_settings import AverageSettings, EvaluateSettings

NORM_IMAGES = 8192
"""images that norms are measured over where the recipe does not say: pycls's NUM_SAMPLES_PRECISE"""


@dataclass(frozen=True)
class Member:
    """One checkpoint of the mean."""

    weights: Weights
    state: dict[str, Tensor]
    content: CheckpointContent
    selection: Selection

    @property
    def epoch(self) -> float:
        return Position.of(self.content["position"]).epochs


def average_weights(settings: AverageSettings) -> None:
    """Averages checkpoints, measures the norms, writes the result as a checkpoint and evaluates it. Raises UserError.

    The weights of a checkpoint are those of its run's result: the moving average, where it has one.
    """
    with process_group.world(settings.device, timeout_minutes=30) as world:
        members = on_every_rank(world, lambda: _members(settings))
        out = on_every_rank(world, lambda: _place(settings))
        require_same(world, "checkpoints", " ".join(member.weights.sha256 for member in members))
        first, newest = members[0].weights, max(members, key=lambda member: member.epoch)
        recipe = replace(first.recipe, num_classes=len(newest.content["classes"]))
        set_tf32(recipe.precision)
        mean = on_every_rank(world, lambda: mean_state([member.state for member in members]))
        network = on_every_rank(world, lambda: load_network(first, mean, recipe.num_classes, world.device))
        images = 0
        if not (recipe.fine_tuning and recipe.fine_tuning.keeps_statistics):  # else all checkpoints have the same
            images = _measure_norms(network, recipe, newest, settings, world)
        epochs = [member.epoch for member in members]
        about = MeanOf(
            count=len(members),
            first=min(epochs),
            last=max(epochs),
            norm_images=images,
            selection=_selection(members),
        )
        state = {name: tensor.cpu() for name, tensor in network.state_dict().items()}
        content = {**newest.content, "model": state, "average": None, "optimizer": {}, "norms_measured": bool(images)}
        on_every_rank(world, lambda: checkpoint.write(out, {**content, "mean_of": about}) if world.is_main else None)
        if world.is_main:
            for member in members:
                one = member.weights
                print(f"  averaged  {one.file} (sha256:{one.sha256[:12]}), epoch {member.epoch:g}")
            print(f"  written   {out}", flush=True)
        evaluation = EvaluateSettings(
            weights=out,
            recipe=_recipe_for(out, settings),
            data=settings.data,
            workers=settings.workers,
            device=settings.device,
        )
        evaluate_in(world, evaluation)


def _recipe_for(out: Path, settings: AverageSettings) -> str | None:
    """The recipe to evaluate the mean with; None: that of the run it lies in."""
    if settings.recipe or (out.absolute().parent.parent / "recipe.py").is_file():
        return settings.recipe
    first = settings.checkpoints[0].absolute()
    return str((first.parent.parent if first.is_file() else first) / "recipe.py")


def mean_state(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of each tensor of floating-point numbers, computed in float64; of others the last one's.

    Raises UserError where names or shapes differ.
    """
    shapes = [{name: tensor.shape for name, tensor in state.items()} for state in states]
    if any(shape != shapes[0] for shape in shapes):
        raise UserError("the checkpoints are of different networks: average those of one recipe")
    return {
        name: torch.stack([state[name].double() for state in states]).mean(dim=0).to(tensor.dtype)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in states[-1].items()
    }


def _measure_norms(network: nn.Module, recipe: Recipe, newest: Member, settings: AverageSettings, world: World) -> int:
    """Measures the norms over training images, and returns over how many."""
    set_norm_batch(network, recipe.norm_batch_size, sync_norm=recipe.sync_norm)
    with on_every_rank(world, lambda: _open_training_images(recipe, newest, settings, world)) as loader:
        images = on_every_rank(world, lambda: norm_images(settings, recipe, len(loader), world))
        at = Position.of(newest.content["position"])  # the images that training measured norms on at that place
        remeasure_norms(replace(recipe, precise_norm_images=images), {"mean": network}, loader, world, at.epoch)
    return images


def norm_images(settings: AverageSettings, recipe: Recipe, images: int, world: World) -> int:
    """Images to measure norms over: as asked, else as the recipe says, in whole micro-batches of all processes."""
    wanted = min(settings.norm_images or recipe.precise_norm_images or NORM_IMAGES, images)
    share = recipe.micro_batch_size * world.size
    if wanted < share:
        raise UserError(
            f"{wanted} training images are less than a micro-batch of {recipe.micro_batch_size} for each of "
            f"{world.size} processes: use a larger --norm-images, or fewer processes"
        )
    return wanted // share * share


def _files(settings: AverageSettings) -> list[Path]:
    """The checkpoint files. Raises UserError where there are too few."""
    paths = list(settings.checkpoints)
    if len(paths) == 1 and not paths[0].is_file():
        run = Run(paths[0])
        _ = run.recipe  # raises UserError where it is no run
        found = sorted(run.checkpoints.folder.glob("step_*.pt"))
        if len(found) < settings.last:
            raise UserError(
                f"{run.checkpoints.folder} holds {len(found)} checkpoints: use --last {max(2, len(found))}, or train "
                f"with --keep-last-checkpoints {settings.last}"
            )
        return found[-settings.last :]
    if len(paths) < 2:
        raise UserError("one file has no mean: give the folder of a run, or two or more checkpoints")
    return paths


def _members(settings: AverageSettings) -> list[Member]:
    """The checkpoints of the mean. Raises UserError where one cannot be averaged, and where two are the same."""
    members = [_member(file, settings) for file in _files(settings)]
    known: dict[str, Path] = {}
    for member in members:
        file = member.weights.file
        if other := known.get(member.weights.sha256):
            which = "is named twice" if file == other else f"is the same checkpoint as {other}"
            raise UserError(f"{file} {which}: each counts once in the mean, leave one out")
        known[member.weights.sha256] = file
    return members


def _selection(members: Sequence[Member]) -> Selection:
    """How the epochs were chosen: best where one was chosen by its accuracy, unknown where one may have been."""
    found = {member.selection for member in members}
    return "best" if "best" in found else "unknown" if "unknown" in found else "newest"


def _member(file: Path, settings: AverageSettings) -> Member:
    weights = file_weights(file, settings.recipe)
    trained, network = weights.networks[0]
    if not isinstance(trained, TrainedWeights) or isinstance(network, Path):
        raise UserError(f"{file} is no checkpoint of this trainer: only these can be averaged")
    content = checked(checkpoint.read(file), file)
    if checkpoint.mean_of(content):
        raise UserError(f"{file} is a mean of checkpoints already: leave it out")
    return Member(weights, network, content, trained.selection)


def _place(settings: AverageSettings) -> Path:
    """The file for the mean. Raises UserError where it would replace a checkpoint, or cannot be written."""
    first = settings.checkpoints[0]
    beside = first.parent if first.is_file() else first / "checkpoints"
    out = settings.out or beside / "average.pt"
    if settings.out is None:
        if first.is_file() and len({path.absolute().parent for path in settings.checkpoints}) > 1:
            raise UserError("the checkpoints are of several runs: where is their mean to be written? Add --out FILE.pt")
    elif out.suffix != ".pt":
        raise UserError(f"--out {out}: a checkpoint ends in .pt")
    elif out.name.startswith(("step_", "best")):
        raise UserError(f"--out {out}: a run's own checkpoints have such names, choose a different one")
    else:
        require_folder(out)
    require_not_read(out, settings.checkpoints)
    if out.absolute().parent.resolve() != beside.resolve():  # a mean may lie among its own run's checkpoints
        require_outside_checkpoints(out)
    return out


def _open_training_images(recipe: Recipe, newest: Member, settings: AverageSettings, world: World) -> Loader:
    data = settings.data or newest.content["data_folder"]
    resolution, classes = recipe.train_crop.resolution, [composed(name) for name in newest.content["classes"]]
    source = open_dataset(
        data,
        "train",
        num_classes=len(classes),
        resolution=resolution,
        check_content=world.local_rank == 0,
        like=classes,
    )
    if isinstance(recipe.train_crop, PaddedCrop):
        check_square(source, resolution)
    if source.classes != classes:
        source.close()
        raise UserError(f"{data} has other classes than the checkpoints: add --data DIR")
    workers = settings.workers or default_workers(world.cpus)
    return Loader(source, workers=workers, pin_memory=world.device.type == "cuda")
