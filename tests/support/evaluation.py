"""The evaluation of one network, for tests in which its numbers matter."""

from torch import nn

from trainer.data.loader import Loader
from trainer.distributed.process_group import World
from trainer.evaluation.evaluate import evaluate_networks
from trainer.evaluation.result import Evaluation
from trainer.recipe import CenterCrop, Recipe


def evaluate(
    model: nn.Module, loader: Loader, recipe: Recipe, world: World, crop: CenterCrop | None = None
) -> Evaluation:
    """See evaluate_networks."""
    return evaluate_networks({"eval": model}, loader, recipe, world, crop=crop)["eval"]
