"""Prints the plan of a recipe: what it would do, on how many processes, and what it would cost."""

from __future__ import annotations

import sys
from itertools import pairwise

from torch import nn

from trainer.commands.cost import (
    Memory,
    PassCost,
    checkpoint_bytes,
    forward_flops,
    gradient_bytes,
    memory,
    parameter_count,
    pass_cost,
)
from trainer.commands.out_file import require_folder_or_none, require_replaceable
from trainer.commands.plan import curve
from trainer.commands.plan.data import DataFacts, data_facts
from trainer.commands.plan.scaling import Links, all_reduce_seconds, ring_bytes, speed, world_sizes
from trainer.commands.plan.warnings import warnings
from trainer.commands.step_memory import choose_device, measured_bytes
from trainer.commands.text import Row, section
from trainer.data.resolution import resolution_changes
from trainer.errors import counted
from trainer.fine_tuning import apply_fine_tuning, train_mode
from trainer.model import build_model, without_pretrained
from trainer.optim.optimizer import audit
from trainer.process.rows import text_table, width
from trainer.process.units import format_bytes, format_duration, format_flops, format_macs
from trainer.recipe import LibraryModel, Recipe
from trainer.recipe_file import overrides_of, recipe_names, recipe_source
from trainer.settings import PlanSettings
from trainer.setup.checks import misfit, steps_in_epoch


def plan(recipe: Recipe, settings: PlanSettings) -> None:
    """Prints the plan, section by section, and trains nothing.

    Raises UserError if the data is unknown, damaged or smaller than a step, if the network cannot run the recipe's
    micro-batch, and if lr.png cannot be written or --measure cannot run.
    """
    if settings.out:
        require_folder_or_none(settings.out)
        require_replaceable(settings.out / "lr.png", data=(settings.data,))
    facts = data_facts(recipe, settings.data)
    steps = steps_in_epoch(recipe, facts.train.count)
    device = choose_device(settings.device) if settings.measure else None
    _say(f"Plan of {recipe.name}: nothing is trained")
    _show("Recipe", _recipe_rows(recipe))
    notes = warnings(recipe, facts, settings.world_size)
    _show("Warnings", [(str(number), note) for number, note in enumerate(notes, 1)] or [("", "none")])
    _show("Training", _training_rows(recipe, facts, steps))
    columns = min(curve.WIDTH, width() - curve.MARGIN - 2)  # 2: what indents each line
    _show("Learning rate", [], curve.draw(recipe, steps, _blocks(), columns))
    if settings.out:
        curve.save_picture(recipe, steps, settings.out / "lr.png")
        _show("", [("picture", str(settings.out / "lr.png"))])

    model = build_model(without_pretrained(recipe.model), recipe.num_classes, recipe.norm_batch_size)
    tuning = apply_fine_tuning(model, recipe.fine_tuning) if recipe.fine_tuning else None
    _show("Network", _network_rows(recipe, model, tuning))
    train_mode(model, recipe.fine_tuning)
    cost = pass_cost(recipe, model)
    _show("Floating-point operations", _flops_rows(recipe, model, cost, steps))
    used = memory(recipe, model, cost.activations)
    measured = None
    if device:
        accumulation = 1 if misfit(recipe, settings.world_size) else recipe.accumulation(settings.world_size)
        measured = measured_bytes(recipe, device, accumulation, used.total), device.type
    _show("Memory of one process", _memory_rows(recipe, used, measured))
    _show("Disk", _disk_rows(used, facts, settings.data))
    _show(*_processes(recipe, settings, steps, gradient_bytes(model)))
    if settings.recipe:
        _say("\nThe resolved recipe\n\n" + recipe_source(recipe))


def _recipe_rows(recipe: Recipe) -> list[Row]:
    changes = overrides_of(recipe)
    unknown = "" if recipe.name in recipe_names() else "unknown: this is not one of the named recipes"
    rows = [("changed", "; ".join(changes) or unknown or "nothing")]
    if published := recipe.published:
        rows.append(("published", str(published)))
    return rows


def _norms_see(recipe: Recipe) -> str:
    images = f"{recipe.norm_batch_size or recipe.micro_batch_size:,} images at a time"
    return f"{images}, of each process" if recipe.sync_norm else images


def _training_rows(recipe: Recipe, facts: DataFacts, steps: int) -> list[Row]:
    left = facts.train.count - steps * recipe.global_batch_size
    rows = [
        ("data", f"{facts.name}: {facts.train.count:,} training images, {facts.val.count:,} validation images"),
        ("steps", f"{steps:,} x {recipe.epochs} epochs = {steps * recipe.epochs:,}"),
        ("images", f"{steps * recipe.epochs * recipe.global_batch_size:,} in all; {left:,} are left out of each epoch"),
        ("batch", f"{recipe.global_batch_size:,} images per step, in micro-batches of {recipe.micro_batch_size:,}"),
        ("norms see", _norms_see(recipe)),
        ("resolution", f"{_resolutions(recipe)}; evaluated at {recipe.eval_crop.resolution} px"),
    ]
    crops = {name: getattr(recipe, name) for name in ("train_crop", "eval_crop", "also_eval_crop")}
    if scaled := [name for name, crop in crops.items() if crop and crop.scaled_decoding]:
        rows.append(("decoding", f"scaled for {' and '.join(scaled)}"))
    if recipe.distillation:
        rows.append(("teacher", "its forward pass, weights and memory are not counted here"))
    if recipe.order:
        stretch, window = recipe.order.stretch, recipe.order.window
        rows.append(("order", f"stretches of {stretch:,} images of the file, shuffled within {window:,} images"))
    if recipe.repeats > 1:
        rows.append(("repeats", f"an epoch shows one in {recipe.repeats} images, {recipe.repeats} times"))
    return rows


def _resolutions(recipe: Recipe) -> str:
    """The training crops: "160 px from epoch 0, 192 px from epoch 12"."""
    changes = resolution_changes(recipe)
    if len(changes) == 1:
        return f"{changes[0]} px"
    return ", ".join(f"{size} px from epoch {epoch}" for epoch, size in changes.items())


def _network_rows(recipe: Recipe, model: nn.Module, tuning: str | None) -> list[Row]:
    total, trained = parameter_count(model), parameter_count(model, trainable=True)
    rows = [
        ("parameters", f"{total:,}, {'all' if trained == total else f'{trained:,}'} of them trained"),
        ("audit", str(audit(recipe.optimizer, model))),
    ]
    if isinstance(recipe.model, LibraryModel) and recipe.model.pretrained:
        rows.append(
            ("weights", "published ones will replace the initial ones, gammas included; nothing was downloaded")
        )
    if tuning:
        rows.append(("tuning", tuning.removeprefix("fine-tuning: ")))
    return rows


def _flops_rows(recipe: Recipe, model: nn.Module, cost: PassCost, steps: int) -> list[Row]:
    """Counts the forward passes of all resolutions, and assumes the same ratio of training to forward for each."""
    own = recipe.train_crop.resolution
    ratio = cost.training_flops / cost.forward_flops
    changes = resolution_changes(recipe)
    forward = [cost.forward_flops if size == own else forward_flops(recipe, model, size) for size in changes.values()]
    images = [
        steps * recipe.global_batch_size * (after - before) for before, after in pairwise([*changes, recipe.epochs])
    ]
    total = ratio * sum(count * flops for count, flops in zip(images, forward, strict=True))
    return [
        ("forward", f"{format_flops(cost.forward_flops)} per image at {own} px, {format_macs(cost.forward_flops)}"),
        ("training", f"{format_flops(cost.training_flops)} per image, {ratio:.2f} x forward (3 is the usual estimate)"),
        ("whole run", f"{format_flops(total)}, without evaluation"),
    ]


def _memory_rows(recipe: Recipe, used: Memory, measured: tuple[int, str] | None) -> list[Row]:
    rows = [
        (
            "weights",
            f"{format_bytes(used.parameters + used.buffers)}, gradients {format_bytes(used.gradients)}, "
            f"{type(recipe.optimizer).__name__} {format_bytes(used.optimizer)}"
            f"{f', their average {format_bytes(used.average)}' if recipe.average else ''}",
        ),
        ("images", f"{format_bytes(used.images)}, a micro-batch of {recipe.micro_batch_size:,} in fp32"),
        (
            "activations",
            f"{format_bytes(used.activations)}, saved by autograd for that micro-batch in {recipe.precision}",
        ),
        (
            "together",
            f"{format_bytes(used.total)} of tensors; workspaces, gradients of activations and libraries need more",
        ),
    ]
    if measured:
        peak, device = measured
        kind = "torch.cuda.max_memory_allocated" if device == "cuda" else "growth of the resident set"
        rows.append(
            ("measured", f"{format_bytes(peak)} at most in two steps on noise on this machine's {device} ({kind})")
        )
    return rows


def _disk_rows(used: Memory, facts: DataFacts, data: str | None) -> list[Row]:
    one = checkpoint_bytes(used)
    rows = [
        ("checkpoints", f"{format_bytes(one)} each; 3 are kept and the best one, and one more while it is written"),
    ]
    files = [found.file_bytes for found in (facts.train, facts.val)]
    if None not in files:
        rows.append(
            (".beton", f"{format_bytes(files[0] or 0)} for training, {format_bytes(files[1] or 0)} for validation")
        )
    else:
        rows.append((".beton", "not prepared" if data else "not known without --data"))
    return rows


def _processes(recipe: Recipe, settings: PlanSettings, steps: int, gradients: int) -> tuple[str, list[Row], list[str]]:
    """The numbers of processes that can share a step, their communication, and their predicted speed."""
    links = Links(
        node_size=settings.gpus_per_node, inside=1e9 * settings.link_gbytes, between=1e9 * settings.network_gbytes
    )
    alone = settings.images_per_second
    if alone is None:
        return "Processes, at the same batch", *_without_speed(recipe, settings.world_size)
    header = ["processes", "micro-batches each", "sent each", "all-reduce", "images/s", "overlap", "none", "training"]
    rows = []
    for count in world_sizes(settings.world_size):
        if reason := misfit(recipe, count):
            if count == settings.world_size:  # of the others, those that fit are enough
                rows.append([f"{count:,}", f"does not fit: {reason}"])
            continue
        accumulation = recipe.accumulation(count)
        all_reduce = all_reduce_seconds(count, gradients, links)
        row = [
            f"{count:,}",
            f"{accumulation:,} x {recipe.micro_batch_size:,}",
            format_bytes(ring_bytes(count, gradients)),
            format_duration(all_reduce) if count > 1 else "-",
        ]
        best, worst = (
            speed(recipe, count, gradients, links, images_per_second=alone, overlap=overlap)
            for overlap in (True, False)
        )
        row += [
            f"{best.images_per_second:,.0f}",
            f"{best.efficiency:.1%}",
            f"{worst.efficiency:.1%}",
            format_duration(steps * recipe.epochs * best.step_seconds),
        ]
        rows.append(row)
    where = f"{settings.link_gbytes:g} GB/s within {settings.gpus_per_node} GPUs, {settings.network_gbytes:g} GB/s per"
    notes = [
        (
            "model",
            f"not a measurement. Ring all-reduce of {format_bytes(gradients)} of gradients per step, at {where} "
            f"machine; no latency",
        ),
        (
            "speed",
            f"stated: {alone:,.5g} images/s for one GPU alone. overlap: efficiency if the all-reduce overlaps with "
            f"the last micro-batch's backward pass, 2/3 of its time; none: if it does not overlap. images/s and "
            f"training assume overlap, and ignore loading, evaluation and stragglers",
        ),
    ]
    return "Processes, at the same batch", notes, text_table([header, *rows], right=range(len(header)))


def _without_speed(recipe: Recipe, asked: int) -> tuple[list[Row], list[str]]:
    """The numbers of processes that fit, in one row."""
    fitting = [f"{count:,}" for count in world_sizes(asked) if misfit(recipe, count) is None]
    rows = [("these fit", ", ".join(fitting) or "none of the powers of two")]
    if reason := misfit(recipe, asked):
        rows.append((f"{asked:,}", f"does not fit: {reason}"))
    else:
        each = f"{counted(recipe.accumulation(asked), 'micro-batch')} of {recipe.micro_batch_size:,} each"
        rows.append((f"with {asked:,}", f"{each} in a step"))
    rows.append(("speed", "give --images-per-second, what one GPU alone trains, for a prediction"))
    return rows, []


def _blocks() -> str:
    """The characters for the curve: blocks if stdout's encoding has them, otherwise ASCII."""
    try:
        curve.BLOCKS.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return curve.ASCII
    return curve.BLOCKS


def _show(title: str, rows: list[Row], drawn: list[str] | None = None) -> None:
    _say(section(title, rows, drawn or []))


def _say(text: str) -> None:
    print(text, flush=True)
