"""The command average: the mean of several checkpoints' weights, with norms recomputed, evaluated and saved."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from trainer.commands.average.members import Member, from_one_run, read_members, selection_of
from trainer.commands.out_file import require_folder, require_not_read, require_outside_runs, require_regular_or_none
from trainer.commands.weights import load_network
from trainer.data.formats import open_split
from trainer.data.listing import composed
from trainer.data.loader import Loader, check_square
from trainer.distributed import process_group
from trainer.distributed.cpus import default_workers
from trainer.distributed.process_group import World, on_every_rank, require_same
from trainer.errors import UserError
from trainer.evaluation.protocol import short
from trainer.model import set_norm_batch
from trainer.precise_bn import batch_norms, remeasure_norms
from trainer.precision import set_tf32
from trainer.recipe import PaddedCrop, Recipe
from trainer.run import checkpoint
from trainer.run.checkpoint import MeanOf
from trainer.run.state import Position
from trainer.run.usable import is_run
from trainer.weights_settings import AverageSettings, EvaluateSettings

NORM_IMAGES = 8192
"""images that norms are measured over where the recipe does not say: pycls's NUM_SAMPLES_PRECISE"""


def average_weights(settings: AverageSettings, evaluate: Callable[[World, EvaluateSettings], None]) -> None:
    """Averages checkpoints, measures the norms, writes the result as a checkpoint and evaluates it. Raises UserError.

    The weights of a checkpoint are those of its run's result: the moving average, where it has one. `evaluate`: what
    evaluates the mean, called by all ranks together.
    """
    with process_group.initialize(settings.device, timeout_minutes=30) as world:
        out = on_every_rank(world, lambda: _place(settings))
        members = on_every_rank(world, lambda: read_members(settings))
        require_same(world, "checkpoints", " ".join(member.weights.sha256 for member in members))
        first, newest = members[0].weights, max(members, key=lambda member: member.epoch)
        recipe = replace(first.recipe, num_classes=len(newest.content["classes"]))
        set_tf32(recipe.precision)
        mean = on_every_rank(world, lambda: mean_state([member.state for member in members]))
        network = on_every_rank(world, lambda: load_network(first, mean, recipe.num_classes, world.device))
        measured = on_every_rank(world, lambda: measures_norms(members, network, settings))
        images = _measure_norms(network, recipe, newest, settings, world) if measured else 0
        epochs = [member.epoch for member in members]
        about = MeanOf(
            count=len(members),
            first=min(epochs),
            last=max(epochs),
            norm_images=images,
            selection=selection_of(members),
            one_run=from_one_run(members),
        )
        state = {name: tensor.cpu() for name, tensor in network.state_dict().items()}
        content = {**newest.content, "model": state, "average": None, "norms_measured": bool(images)}
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
        evaluate(world, evaluation)


def _recipe_for(out: Path, settings: AverageSettings) -> str | None:
    """The recipe to evaluate the mean with; None: that of the run it lies in."""
    if settings.recipe or is_run(out.absolute().parent.parent):
        return settings.recipe
    first = settings.checkpoints[0].absolute()
    return str((first.parent.parent if first.is_file() else first) / "recipe.py")


def mean_state(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of each tensor of floating-point numbers, computed in float64; of others the last one's.

    Raises UserError if names or shapes differ.
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


def measures_norms(members: Sequence[Member], network: nn.Module, settings: AverageSettings) -> bool:
    """Whether the mean needs norms of its own. Raises UserError if it does not, and --norm-images is given."""
    tunings = [member.weights.recipe.fine_tuning for member in members]
    if not batch_norms(network):
        reason = "the network has no batch norm"
    elif all(tuning and tuning.keeps_statistics for tuning in tunings):
        reason = "fine-tuning kept batch norm's statistics, so all checkpoints have the same"
    else:
        return True
    if settings.norm_images:
        raise UserError(f"--norm-images {settings.norm_images}: {reason}: leave it out")
    return False


def _measure_norms(network: nn.Module, recipe: Recipe, newest: Member, settings: AverageSettings, world: World) -> int:
    """Measures the norms over training images, and returns over how many."""
    set_norm_batch(network, recipe.norm_batch_size, sync_norm=recipe.sync_norm)
    with on_every_rank(world, lambda: _open_training_images(recipe, newest, settings, world)) as loader:
        images = on_every_rank(world, lambda: norm_images(settings, recipe, len(loader), world))
        at = Position.from_dict(newest.content["position"])  # the images that training measured norms on at that place
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


def _place(settings: AverageSettings) -> Path:
    """The file for the mean. Raises UserError if it would replace a checkpoint, or cannot be written."""
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
    require_regular_or_none(out)
    require_not_read(out, (*settings.checkpoints, settings.recipe))
    if out.absolute().parent.resolve() != beside.resolve():  # a mean may lie among its own run's checkpoints
        require_outside_runs(out)
    return out


def _open_training_images(recipe: Recipe, newest: Member, settings: AverageSettings, world: World) -> Loader:
    """The images that the checkpoints were trained on. Raises UserError if `--data` has other ones, or none."""
    data = settings.data or newest.content["data_folder"]
    resolution, classes = recipe.train_crop.resolution, [composed(name) for name in newest.content["classes"]]
    source = open_split(
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
    if source.checksum != (trained_on := newest.content["data"].get("train", "unknown")):
        source.close()
        raise UserError(
            f"{data} has other training images ({short(source.checksum)}) than the checkpoints were trained on "
            f"({short(trained_on)}), and batch norm is measured on those: add --data DIR"
        )
    workers = settings.workers or default_workers(world.cpus)
    return Loader(source, workers=workers, pin_memory=world.device.type == "cuda")
