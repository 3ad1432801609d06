"""Images whose classes are a part of the network's: which of its logits are compared."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trainer.errors import UserError, one_line
from trainer.evaluation.imagenet import is_wordnet_id


class RestrictedNetwork(nn.Module):
    """A network whose logits are those of some classes: images [N, 3, H, W] -> logits [N, len(positions)]."""

    positions: Tensor

    def __init__(self, network: nn.Module, positions: Sequence[int]) -> None:
        """`positions`: the network's output for each class of the images."""
        super().__init__()
        self.network = network
        self.register_buffer("positions", torch.tensor(positions, dtype=torch.int64))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits[:, self.positions]


def is_part_of(found: list[str], known: list[str]) -> bool:
    """Whether the images' classes are some of the known ones, or as many numbers, as ImageNet-V2's folders."""
    is_numbered = len(found) == len(known) and all(name.isdecimal() for name in found)
    return set(found) < set(known) or is_numbered


def class_positions(found: list[str], known: list[str], data: str) -> list[int] | None:
    """The network's output for each class of the images; None if the classes are the network's, in its order.

    `found`: the images' classes, `known`: the network's. Folders that are numbers, as ImageNet-V2's, count ImageNet's
    classes from 0. Raises UserError if a class is not the network's, or if all are but in another order.
    """
    if found == known:
        return None
    if all(name.isdecimal() for name in found) and all(map(is_wordnet_id, known)):
        positions = [int(name) for name in found]
        if max(positions) < len(known) and len(set(positions)) == len(positions):
            return None if positions == list(range(len(known))) else positions
    place = {name: index for index, name in enumerate(known)}
    strangers = [name for name in found if name not in place]
    if strangers or len(found) >= len(known):
        raise UserError(f"{data} has other classes than the weights: {_differ(found, known, strangers)}")
    return [place[name] for name in found]


def _differ(found: list[str], known: list[str], strangers: list[str]) -> str:
    if len(found) > len(known):
        return f"{len(found)} instead of {len(known)}"
    if len(found) < len(known):
        return f"{len(strangers)} of {len(found)} are not among its {len(known)}, such as {one_line(strangers[0])!r}"
    which = next(index for index in range(len(found)) if found[index] != known[index])
    return f"class {which} is {found[which]!r} instead of {known[which]!r}"
