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


def is_part_of(data_classes: list[str], model_classes: list[str]) -> bool:
    """Whether the images' classes are some of the network's, or as many numbers, as ImageNet-V2's folders."""
    is_numbered = len(data_classes) == len(model_classes) and all(name.isdecimal() for name in data_classes)
    return set(data_classes) < set(model_classes) or is_numbered


def class_positions(data_classes: list[str], model_classes: list[str], data: str) -> list[int] | None:
    """Returns the network's output for each class of the images; None if both have the same classes in the same order.

    Folders that are numbers, as ImageNet-V2's, count ImageNet's classes from 0. Raises UserError if a class is not the
    network's, or if all are but in another order.
    """
    if data_classes == model_classes:
        return None
    if all(name.isdecimal() for name in data_classes) and all(map(is_wordnet_id, model_classes)):
        positions = [int(name) for name in data_classes]
        if max(positions) < len(model_classes) and len(set(positions)) == len(positions):
            return None if positions == list(range(len(model_classes))) else positions
    place = {name: index for index, name in enumerate(model_classes)}
    strangers = [name for name in data_classes if name not in place]
    if strangers or len(data_classes) >= len(model_classes):
        raise UserError(f"{data} has other classes than the weights: {_differ(data_classes, model_classes, strangers)}")
    return [place[name] for name in data_classes]


def _differ(found: list[str], known: list[str], strangers: list[str]) -> str:
    if len(found) > len(known):
        return f"{len(found)} instead of {len(known)}"
    if len(found) < len(known):
        return f"{len(strangers)} of {len(found)} are not among its {len(known)}, such as {one_line(strangers[0])!r}"
    which = next(index for index in range(len(found)) if found[index] != known[index])
    return f"class {which} is {found[which]!r} instead of {known[which]!r}"
