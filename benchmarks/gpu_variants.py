"""What else of our step is measured on a GPU: precisions, micro-batches, LAMB, EMA, norms, ResNet-18."""

from dataclasses import replace
from math import gcd
from typing import NamedTuple

from trainer.recipe import EMA, LAMB, Recipe, ResNet


class Variant(NamedTuple):
    """A recipe; the mode of torch.compile, None for eager; and whether the whole step is one CUDA graph."""

    recipe: Recipe
    compile_mode: str | None = None
    cuda_graph: bool = False


def variants(recipe: Recipe) -> dict[str, Variant]:
    """By name, the most valuable first: the time may be up before the last. `recipe`: with SGD."""
    size = recipe.micro_batch_size
    small, half = (_with_batch(recipe, max(2, size // part)) for part in (8, 2))
    group = gcd(size, small.micro_batch_size)
    found = {
        f"{small.micro_batch_size} images": Variant(small),
        "tf32": Variant(replace(recipe, precision="tf32")),
        "fp16": Variant(replace(recipe, precision="fp16")),
        f"{small.micro_batch_size} images, compiled, CUDA graphs": Variant(small, "reduce-overhead"),
        "LAMB": Variant(replace(recipe, optimizer=LAMB(lr=0.005))),
        "EMA": Variant(replace(recipe, ema=EMA(decay=0.999))),
        f"norms over {group} images": Variant(replace(recipe, norm_batch_size=group)),
        "fp32": Variant(replace(recipe, precision="fp32")),
        "bf16": Variant(replace(recipe, precision="bf16")),
        f"{half.micro_batch_size} images": Variant(half),
        "ResNet-18": Variant(replace(recipe, model=ResNet(depth=18))),
        f"{small.micro_batch_size} images, compiled": Variant(small, "default"),
        f"{small.micro_batch_size} images, one CUDA graph": Variant(small, cuda_graph=True),
    }
    del found[recipe.precision]
    return found


def _with_batch(recipe: Recipe, images: int) -> Recipe:
    return replace(recipe, global_batch_size=images, micro_batch_size=images)
