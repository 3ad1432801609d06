"""Exact top-1, top-5 and loss: every image once on any number of processes, on the buffers that are saved.

Nothing is padded and nothing assumed: each image's result is stored under its index, together with how often it was
seen, and the report says so. The batches, and the order in which the results are added, do not depend on the number of
processes; so on CPUs with the same number of threads neither do the sums.
"""

import math
import sys
from functools import partial

import torch
from torch import nn

from trainer import distributed
from trainer.checkpoint import State, read
from trainer.data.crop import eval_view
from trainer.data.device import device_batches
from trainer.data.loader import Loader
from trainer.data.order import eval_batches
from trainer.distributed import World, on_every_rank, require_same, share_buffers, sum_over_ranks
from trainer.errors import UserError
from trainer.model import build_model, without_pretrained
from trainer.precision import allow_tensor_float, autocast
from trainer.recipe import CenterCrop, Recipe
from trainer.result import Evaluation, Reading, averaged_in_words, report, trained_in_words
from trainer.run import Run
from trainer.settings import EvaluateSettings
from trainer.setup import open_loader
from trainer.state import Position


def evaluate(
    model: nn.Module, loader: Loader, recipe: Recipe, world: World, crop: CenterCrop | None = None
) -> Evaluation:
    """Evaluates the centre crop of every image. `model` is the module itself: DDP's wrapper would wait for its peers.

    `crop`: another one than the recipe's. With flip_tta an image's logits are the mean of both views'. Ranks other than
    0 get rank 0's buffers; the modules keep the modes they are in. Called by all ranks together.
    """
    crop = crop or recipe.eval_crop
    share_buffers(world, model)
    total = len(loader)
    top_k = min(5, recipe.num_classes)
    table = torch.zeros(total, 4, dtype=torch.float64, device=world.device)  # times seen, top-1, top-5, loss
    batch_size = max(64, recipe.micro_batch_size)
    batches = eval_batches(total, batch_size=batch_size, rank=world.rank, world_size=world.size)
    crops = loader.batches(batches, eval_view(crop), crop.resolution)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    with torch.inference_mode(), autocast(recipe.precision, world.device):
        for images, labels, indices in device_batches(crops, world.device, recipe.mean, recipe.std):
            logits = model(images).float()
            if crop.flip_tta:
                logits = (logits + model(images.flip(3)).float()) / 2
            hits = logits.topk(top_k).indices == labels[:, None]
            losses = nn.functional.cross_entropy(logits, labels, reduction="none")
            rows = torch.stack([torch.ones_like(losses), hits[:, 0].float(), hits.any(dim=1).float(), losses], dim=1)
            table.index_add_(0, indices, rows.double())
    for module, training in modes:
        module.training = training

    times, top1, top5, losses = sum_over_ranks(world, table).unbind(dim=1)  # a row is zero on all ranks but one
    evaluated = int(times.sum())
    return Evaluation(
        top1=100 * int(top1.sum()) / evaluated,
        top5=100 * int(top5.sum()) / evaluated,
        loss=math.fsum(losses.tolist()) / evaluated,  # exactly rounded, so the order of addition cannot matter
        seen=int((times > 0).sum()),
        duplicates=int((times > 1).sum()),
        total=total,
    )


def evaluate_run(settings: EvaluateSettings) -> None:
    """Evaluates a checkpoint of a run with its own recipe and prints the result. Raises UserError where it cannot."""
    run = Run(settings.run_dir)
    with distributed.world(settings.device, timeout_minutes=30) as world:
        recipe = on_every_rank(world, lambda: run.recipe)
        allow_tensor_float(recipe.precision)
        state = on_every_rank(world, lambda: _checkpoint(run, settings.checkpoint))
        require_same(world, "step in its newest checkpoint", str(state["step"]))  # the run may be going on
        if world.is_main and run.checkpoints.damaged:
            print(f"{'; '.join(run.checkpoints.damaged)}; using the one before", file=sys.stderr)
        data, resolution = settings.data or state["data_folder"], recipe.eval_crop.resolution
        at = Position(**state["position"])
        open_val = partial(open_loader, data, "val", recipe, resolution, settings.workers, world)
        with on_every_rank(world, open_val) as loader:
            if loader.source.classes != state["classes"]:
                raise UserError(f"{data} has other classes than the run's data: {state['classes'][:3]}, ...")
            model = build_model(without_pretrained(recipe.model), recipe.num_classes)
            model.to(world.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            trained = trained_in_words(
                recipe,
                at,
                state["started_from"],
                norms_measured=state["norms_measured"],
                best=settings.checkpoint == "best",
            )
            readings = []
            for averaged in [False] if recipe.ema is None else [True, False]:
                model.load_state_dict(state["average" if averaged else "model"])
                readings += read_all(
                    model,
                    loader,
                    recipe,
                    world,
                    f"{trained}, {averaged_in_words(recipe.ema if averaged else None, at.epochs)}",
                )
            if world.is_main:
                print(report(recipe, loader.source, readings), flush=True)


def read_all(
    model: nn.Module,
    loader: Loader,
    recipe: Recipe,
    world: World,
    weights: str,
    known: Evaluation | None = None,
) -> list[Reading]:
    """Evaluates under each protocol of the recipe, that of its result first, unless its evaluation is `known`.

    `weights`: what `model` is, in words.
    """
    readings = [Reading(known or evaluate(model, loader, recipe, world), recipe.eval_crop, weights)]
    if other := recipe.also_eval_crop:
        readings.append(Reading(evaluate(model, loader, recipe, world, other), other, weights))
    return readings


def _checkpoint(run: Run, which: str) -> State:
    if which == "best":
        return read(run.checkpoints.best)
    if found := run.checkpoints.newest():
        return found[1]
    reason = run.checkpoints.damaged[0] if run.checkpoints.damaged else "there is none yet"
    raise UserError(f"{run.checkpoints.folder} holds no checkpoint that can be read ({reason}): try --checkpoint best")
