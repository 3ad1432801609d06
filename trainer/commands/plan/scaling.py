"""A model, not a measurement, of training on many GPUs: what is sent after each step, and what that does to the speed.

The recipe's batch stays as it is, so more processes compute less each and send as much (strong scaling).
"""

from __future__ import annotations

from dataclasses import dataclass

from trainer.recipe import Recipe

BACKWARD = 2 / 3  # of a micro-step's time: the backward pass has about twice the operations of the forward pass


@dataclass(frozen=True, kw_only=True)
class Links:
    """How GPUs are joined; bytes per second are those of one direction."""

    node_size: int  # GPUs of one machine
    inside: float  # bytes per second of one GPU's link inside its machine
    between: float  # bytes per second of one machine's network, all its adapters together


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What so many processes are expected to do."""

    step_seconds: float
    images_per_second: float
    efficiency: float  # share of the processes' own speed


def world_sizes(asked: int) -> list[int]:
    """The numbers of processes that a plan looks at: powers of two up to 1,024, and the one that was asked for."""
    return sorted({*(2**power for power in range(11)), asked})


def misfit(recipe: Recipe, processes: int) -> str | None:
    """Why so many processes cannot share a step; None where they can."""
    micro_batches = recipe.global_batch_size // recipe.micro_batch_size
    if processes > micro_batches:
        smaller, rest = divmod(recipe.global_batch_size, processes)
        fits = smaller and not rest and smaller % (recipe.norm_batch_size or 1) == 0
        norms = "" if recipe.norm_batch_size else f", with norms over {smaller} images"
        way_out = f"; --micro-batch-size {smaller} would fit{norms}" if fits else ""
        plural = "" if micro_batches == 1 else "es"
        return f"a step has {micro_batches:,} micro-batch{plural}{way_out}"
    if micro_batches % processes:
        return f"{micro_batches:,} micro-batches cannot be shared evenly"
    wanted = recipe.precise_norm_images or 0
    if wanted % (recipe.micro_batch_size * processes):
        return f"precise_norm_images={wanted:,} cannot be shared evenly"
    return None


def ring_bytes(processes: int, gradient_bytes: int) -> float:
    """What each process sends, and receives, so that all have the sum: 2 (n - 1) / n times the gradients.

    The least there is (Patarasuk and Yuan 2009, Journal of Parallel and Distributed Computing 69(2), section 3).
    """
    return 2 * (processes - 1) / processes * gradient_bytes


def all_reduce_seconds(processes: int, gradient_bytes: int, links: Links) -> float:
    """The time of summing the gradients, at the speed of the slowest link of the ring. Latency is left out."""
    slowest = links.inside if processes <= links.node_size else min(links.inside, links.between)
    return ring_bytes(processes, gradient_bytes) / slowest


def speed(
    recipe: Recipe, processes: int, gradient_bytes: int, links: Links, *, images_per_second: float, overlap: bool
) -> Speed:
    """What `processes` do that each compute `images_per_second` alone.

    overlap: the sum runs during the backward pass of the step's last micro-batch, and only what is longer is waited
    for, the best case; else all of it comes after, the worst. Loading, evaluation and stragglers are left out.
    Raises ValueError where so many processes cannot share a step.
    """
    micro_step = recipe.micro_batch_size / images_per_second
    waited = all_reduce_seconds(processes, gradient_bytes, links) - (BACKWARD * micro_step if overlap else 0)
    step = recipe.accumulation(processes) * micro_step + max(0.0, waited)
    rate = recipe.global_batch_size / step
    return Speed(step_seconds=step, images_per_second=rate, efficiency=rate / processes / images_per_second)
