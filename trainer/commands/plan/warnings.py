"""The warnings of a plan: values that are each valid, but probably not intended together."""

from __future__ import annotations

from trainer.commands.plan.data import DataFacts, data_warnings
from trainer.model.library import pixel_mismatch
from trainer.optim.optimizer import batch_scaling
from trainer.recipe import Recipe, Steps
from trainer.recipe_file import load_recipe, recipe_names
from trainer.setup.checks import likely_mistakes, misfit


def warnings(recipe: Recipe, facts: DataFacts, world_size: int) -> list[str]:
    """All warnings, one sentence each: first what training would refuse, then likely mistakes of overrides."""
    notes = []
    if reason := misfit(recipe, world_size):
        notes.append(f"training would refuse {world_size:,} processes: {reason}")
    notes += data_warnings(recipe, facts)
    if recipe.name in recipe_names():
        notes += override_warnings(load_recipe(recipe.name), recipe)
    if problem := pixel_mismatch(recipe.model, recipe.mean, recipe.std):
        notes.append(f"the pretrained {problem}")
    return notes + likely_mistakes(recipe)


def override_warnings(named: Recipe, recipe: Recipe) -> list[str]:
    """Settings that papers change together with the overridden one, and that the overrides left unchanged.

    The trainer never derives one setting from another.
    """
    notes = []
    factor = recipe.global_batch_size / named.global_batch_size
    if factor != 1 and recipe.optimizer.lr == named.optimizer.lr:
        rule = batch_scaling(recipe.optimizer)
        advice = "no rule for this optimizer is known"
        if rule:
            rate = recipe.optimizer.lr * factor**rule.exponent
            advice = f"{rule.name} would be --optimizer.lr {rate:.6g}"
        notes.append(
            f"global_batch_size went from {named.global_batch_size:,} to {recipe.global_batch_size:,}, and the "
            f"learning rate stayed: {advice}"
        )
    sees, saw = (one.norm_batch_size or one.micro_batch_size for one in (recipe, named))
    if sees != saw:
        remedy = (
            f"--norm-batch-size {saw} keeps it"
            if recipe.micro_batch_size % saw == 0
            else f"{saw} are more than a micro-batch of {recipe.micro_batch_size} holds"
            if saw > recipe.micro_batch_size
            else f"a micro-batch that is a multiple of {saw} could keep it"
        )
        notes.append(f"batch normalisation sees {sees} images at a time instead of {saw}: {remedy}")
    schedule = recipe.schedule
    if recipe.epochs != named.epochs and isinstance(schedule, Steps) and schedule == named.schedule:
        notes.append(
            f"epochs went from {named.epochs} to {recipe.epochs}, and schedule.milestones stayed {schedule.milestones}"
        )
    return notes
