"""A model, not a measurement, of training on many GPUs: communication per step, and its effect on the speed.

The recipe's global batch does not change: with more processes each computes less and sends as much (strong scaling).
"""

from __future__ import annotations

from dataclasses import dataclass

from trainer.recipe import Recipe

BACKWARD = 2 / 3  # share of a micro-step's time: the backward pass has about twice the operations of the forward pass


@dataclass(frozen=True, kw_only=True)
class Links:
    """The links between GPUs; bytes per second are in one direction."""

    node_size: int  # GPUs of one machine
    inside: float  # bytes per second of one GPU's link inside its machine
    between: float  # bytes per second of one machine's network, all its adapters together


@dataclass(frozen=True, kw_only=True)
class Speed:
    """The predicted speed of a number of processes."""

    step_seconds: float
    images_per_second: float
    efficiency: float  # images/s per process, as a share of one process alone


def world_sizes(asked: int) -> list[int]:
    """The numbers of processes in the table: powers of two up to 1,024, and --world-size."""
    return sorted({*(2**power for power in range(11)), asked})


def ring_bytes(processes: int, gradient_bytes: int) -> float:
    """The bytes that each process sends, and receives, in a ring all-reduce: 2 (n - 1) / n times the gradients.

    This is the minimum (Patarasuk and Yuan 2009, Journal of Parallel and Distributed Computing 69(2), section 3).
    """
    return 2 * (processes - 1) / processes * gradient_bytes


def all_reduce_seconds(processes: int, gradient_bytes: int, links: Links) -> float:
    """The time of a ring all-reduce of the gradients, at the speed of the slowest link. Latency is ignored."""
    slowest = links.inside if processes <= links.node_size else min(links.inside, links.between)
    return ring_bytes(processes, gradient_bytes) / slowest


def speed(
    recipe: Recipe, processes: int, gradient_bytes: int, links: Links, *, images_per_second: float, overlap: bool
) -> Speed:
    """The speed of `processes`, each of which computes `images_per_second` alone.

    `overlap`: the all-reduce overlaps with the backward pass of the step's last micro-batch, and only the rest takes
    time, the best case. Otherwise all of it comes afterwards, the worst case. Loading, evaluation and stragglers are
    ignored. Raises ValueError if this number of processes cannot share a step.
    """
    micro_step = recipe.micro_batch_size / images_per_second
    waited = all_reduce_seconds(processes, gradient_bytes, links) - (BACKWARD * micro_step if overlap else 0)
    step = recipe.accumulation(processes) * micro_step + max(0.0, waited)
    rate = recipe.global_batch_size / step
    return Speed(step_seconds=step, images_per_second=rate, efficiency=rate / processes / images_per_second)
