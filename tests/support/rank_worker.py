"""What one rank sees and counts; test_world_size.py starts it and compares what rank 0 prints.

Usage: python -m tests.support.rank_worker DIGITS PHOTOS
"""

import hashlib
import json
import sys
from itertools import product

import numpy as np
import torch
import torch.distributed as dist

from tests.support.evaluation import evaluate
from trainer.data.crop import train_view
from trainer.data.formats import open_source
from trainer.data.loader import Loader
from trainer.data.order import epoch_order, train_batches
from trainer.distributed import process_group
from trainer.model import build_model
from trainer.recipe import RandomResizedCrop
from trainer.recipe_file import load_recipe

MICRO_BATCHES = 6  # of 8 photographs: one step's global batch is 48 of 64


def main(digits: str, photos: str) -> None:
    with process_group.initialize("cpu", timeout_minutes=15) as world:
        seen = stream(photos, world)
        recipe = load_recipe("resnet20_digits")
        torch.manual_seed(0)
        model = build_model(recipe.model, 10)
        if not world.is_main:  # each rank has run its own statistics away from rank 0's
            for buffer in model.buffers():
                buffer.add_(world.rank)
        with Loader(open_source(digits, "val", num_classes=10, resolution=16), workers=1) as loader:
            evaluation = evaluate(model, loader, recipe, world)
        shares: list[dict[str, str]] = [{}] * world.size
        dist.all_gather_object(shares, seen)
        if world.is_main:
            together = {key: digest for share in shares for key, digest in share.items()}
            print(json.dumps({"stream": dict(sorted(together.items())), "evaluation": vars(evaluation)}))


def stream(photos: str, world: process_group.World) -> dict[str, str]:
    """The pixels and labels of this rank's micro-batches of two epochs, by "decoding/epoch/number of micro-batch"."""
    seen = {}
    accumulation = MICRO_BATCHES // world.size
    with Loader(open_source(photos, "train", num_classes=4, resolution=16), workers=1 + world.rank) as loader:
        for decoding, epoch in product(("full", "scaled"), (0, 1)):
            crop = RandomResizedCrop(resolution=16, scaled_decoding=decoding == "scaled")
            indices = train_batches(
                epoch_order(7, epoch, len(loader)),
                first_step=0,
                micro_batch_size=8,
                accumulation=accumulation,
                rank=world.rank,
                world_size=world.size,
            )
            batches = loader.batches(indices, train_view(crop, True, 7, epoch), 16)
            for number, batch in enumerate(batches):
                content = np.ascontiguousarray(batch.images.numpy()).tobytes() + batch.labels.numpy().tobytes()
                seen[f"{decoding}/{epoch}/{world.rank * accumulation + number}"] = hashlib.sha256(content).hexdigest()
    return seen


main(*sys.argv[1:])
