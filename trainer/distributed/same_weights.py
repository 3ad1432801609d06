"""A check that all ranks hold the same weights: a rank whose hardware computes wrongly trains on, and nobody sees it.

Gradients are averaged, so every rank applies the same update to the same weights. After a fault of one rank's memory or
processor its weights differ from then on, and rank 0's, which are saved, may be the wrong ones.
"""

import hashlib
import socket
from collections import Counter
from collections.abc import Iterable

import torch
import torch.distributed as dist

from trainer.distributed.faulty_node import report_faulty_node
from trainer.distributed.process_group import World, gather
from trainer.distributed.run_ahead import wait_for_device
from trainer.errors import EXIT_RETRY, SharedError, first_few


def digest(tensors: Iterable[torch.Tensor]) -> int:
    """63 bits that depend on every bit of the tensors, which may be on any one device. Reads from it once."""
    sums = torch.stack([_bits(tensor.detach()).sum(dtype=torch.int64) for tensor in tensors])
    wait_for_device(sums.device)
    return int.from_bytes(hashlib.sha256(sums.cpu().numpy().tobytes()).digest()[:8], "little") >> 1


def require_same_weights(world: World, weights: Iterable[torch.Tensor], step: int) -> None:
    """Raises SharedError with exit code 75 if a rank's weights differ after `step` steps. Called by all ranks.

    The error names the ranks in the minority with their nodes; all of them where there is no majority.
    """
    if world.size == 1:
        return
    own = torch.tensor([digest(weights)])
    digests = [torch.zeros_like(own) for _ in range(world.size)]
    dist.all_gather(digests, own, group=world.gloo)
    found = [int(each) for each in digests]
    if len(set(found)) == 1:
        return
    if _majority(found) not in (None, found[world.rank]):
        report_faulty_node(f"after step {step} the weights of rank {world.rank} differed from those of the others")
    nodes = gather(world, socket.gethostname())
    raise SharedError(_different(found, nodes, step), EXIT_RETRY)


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor's bits as integers."""
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.view(integers[tensor.element_size()])


def _majority(digests: list[int]) -> int | None:
    """The digest of more than half of the ranks."""
    common, votes = Counter(digests).most_common(1)[0]
    return common if votes > len(digests) / 2 else None


def _different(digests: list[int], nodes: list[str], step: int) -> str:
    majority = _majority(digests)
    ranks = [rank for rank, found in enumerate(digests) if found != majority]
    places = first_few([f"rank {rank} (node {nodes[rank]})" for rank in ranks], 8)
    differ = f"the weights of {places} differ from those of the others" if majority is not None else f"{places} differ"
    return (
        f"after step {step} {differ}: nothing was saved. Faulty hardware, or ranks on different kinds of it; the same "
        f"command continues from the last checkpoint, better without that node"
    )
