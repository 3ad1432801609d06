"""ResNet for ImageNet (He et al. 2015, arXiv:1512.03385, Table 1), its CIFAR stem and its plain twins.

Parameters and buffers have torchvision's names and order: state_dicts go both ways.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from trainer import recipe
from trainer.errors import UserError
from trainer.model.block import BasicBlock, Bottleneck, conv1x1, conv3x3, initialise
from trainer.model.blur import BlurMaxPool2d

# Table 1: the block, and how many of it in the stages conv2_x to conv5_x
LAYOUTS: dict[int, tuple[type[BasicBlock | Bottleneck], tuple[int, int, int, int]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}


class ResNet(nn.Module):
    """Images [N, 3, H, W] of any size from 1 px on to logits [N, num_classes].

    Raises UserError for a depth that Table 1 does not have, and for an unknown stem or blur_pool.
    """

    def __init__(self, spec: recipe.ResNet, num_classes: int) -> None:
        super().__init__()
        if spec.depth not in LAYOUTS:
            raise UserError(f"model.depth={spec.depth} is not a ResNet: there are {', '.join(map(str, LAYOUTS))}")
        if spec.blur_pool not in (None, "convs", "convs_and_pool"):
            raise UserError(f"model.blur_pool={spec.blur_pool!r} is neither 'convs' nor 'convs_and_pool'")
        block, blocks = LAYOUTS[spec.depth]
        rates = linear_rates(spec.drop_path, sum(blocks))
        first, second, third = blocks[0], sum(blocks[:2]), sum(blocks[:3])  # where the stages after the first begin
        width, blur, residual = block.expansion, spec.blur_pool is not None, spec.residual
        self.conv1, self.maxpool = stem(spec.stem, blur=spec.blur_pool == "convs_and_pool")
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = stage(block, rates[:first], 64, 64, stride=1, residual=residual, blur=blur)
        self.layer2 = stage(block, rates[first:second], 64 * width, 128, stride=2, residual=residual, blur=blur)
        self.layer3 = stage(block, rates[second:third], 128 * width, 256, stride=2, residual=residual, blur=blur)
        self.layer4 = stage(block, rates[third:], 256 * width, 512, stride=2, residual=residual, blur=blur)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512 * width, num_classes)
        initialise(self, zero_init_residual=spec.zero_init_residual, fc_std=spec.fc_std, fc_bias=spec.fc_bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer1(x)
        x = self.layer2(x)
        x = self.layer3(x)
        x = self.layer4(x)
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


def linear_rates(drop_path: float, blocks: int) -> list[float]:
    """Each block's probability of being dropped: from 0 in the first to `drop_path` in the last, in equal steps.

    timm's form. Huang et al. 2016 (arXiv:1603.09382, section 3) count the blocks from 1, so that theirs already drops
    the first.
    """
    return [drop_path * index / (blocks - 1) for index in range(blocks)]


def stem(name: str, *, blur: bool) -> tuple[nn.Conv2d, nn.Module]:
    """The first convolution and the pooling: a quarter of the height and width, or for small images all of it.

    `blur` is for the pooling; small images have none.
    """
    match name:
        case "imagenet":
            conv = nn.Conv2d(3, 64, kernel_size=7, stride=2, padding=3, bias=False)
            return conv, BlurMaxPool2d(64) if blur else nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        case "cifar":
            return conv3x3(3, 64), nn.Identity()
        case _:
            raise UserError(f"model.stem={name!r} is neither 'imagenet' nor 'cifar'")


def stage(
    block: type[BasicBlock | Bottleneck],
    drop_paths: Sequence[float],
    in_channels: int,
    channels: int,
    *,
    stride: int,
    residual: bool,
    blur: bool,
) -> nn.Sequential:
    """A block for each of `drop_paths`, the first with the stride, and a projection for its shortcut if shapes differ.

    That is option B of He et al. 2015, section 3.3: a 1x1 convolution with a norm, and the identity everywhere else.
    `blur` is for the strided convolutions, the projection's too.
    """
    out_channels = channels * block.expansion
    shortcut: nn.Module | None = nn.Identity() if residual else None
    if residual and (stride != 1 or in_channels != out_channels):
        shortcut = nn.Sequential(conv1x1(in_channels, out_channels, stride, blur=blur), nn.BatchNorm2d(out_channels))
    layers: list[nn.Module] = [block(in_channels, channels, stride, shortcut, drop_path=drop_paths[0], blur=blur)]
    for drop_path in drop_paths[1:]:
        identity = nn.Identity() if residual else None
        layers.append(block(out_channels, channels, 1, identity, drop_path=drop_path))
    return nn.Sequential(*layers)
