"""ResNet for ImageNet (He et al. 2015, arXiv:1512.03385, Table 1), its CIFAR stem and its plain twins.

Parameters and buffers have torchvision's names and order: state_dicts go both ways.
"""

from __future__ import annotations

from torch import Tensor, nn

from trainer import recipe
from trainer.errors import UserError
from trainer.model.block import BasicBlock, Bottleneck, conv1x1, conv3x3, initialise

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

    Raises UserError for a depth that Table 1 does not have, an unknown stem, or zero_init_residual without residual.
    """

    def __init__(self, spec: recipe.ResNet, num_classes: int) -> None:
        super().__init__()
        if spec.depth not in LAYOUTS:
            raise UserError(f"model.depth={spec.depth} is not a ResNet: there are {', '.join(map(str, LAYOUTS))}")
        block, blocks = LAYOUTS[spec.depth]
        self.conv1, self.maxpool = stem(spec.stem)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = stage(block, blocks[0], 64, 64, stride=1, residual=spec.residual)
        self.layer2 = stage(block, blocks[1], 64 * block.expansion, 128, stride=2, residual=spec.residual)
        self.layer3 = stage(block, blocks[2], 128 * block.expansion, 256, stride=2, residual=spec.residual)
        self.layer4 = stage(block, blocks[3], 256 * block.expansion, 512, stride=2, residual=spec.residual)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512 * block.expansion, num_classes)
        initialise(self, residual=spec.residual, zero_init_residual=spec.zero_init_residual, fc_std=spec.fc_std)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer1(x)
        x = self.layer2(x)
        x = self.layer3(x)
        x = self.layer4(x)
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


def stem(name: str) -> tuple[nn.Conv2d, nn.Module]:
    """The first convolution and the pooling: a quarter of the height and width, or for small images all of it."""
    match name:
        case "imagenet":
            conv = nn.Conv2d(3, 64, kernel_size=7, stride=2, padding=3, bias=False)
            return conv, nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        case "cifar":
            return conv3x3(3, 64), nn.Identity()
        case _:
            raise UserError(f"model.stem={name!r} is neither 'imagenet' nor 'cifar'")


def stage(
    block: type[BasicBlock | Bottleneck],
    blocks: int,
    in_channels: int,
    channels: int,
    *,
    stride: int,
    residual: bool,
) -> nn.Sequential:
    """`blocks` blocks of which the first has the stride, and a projection for its shortcut where shapes differ.

    That is option B of He et al. 2015, section 3.3: a 1x1 convolution with a norm, and the identity everywhere else.
    """
    out_channels = channels * block.expansion
    shortcut: nn.Module | None = nn.Identity() if residual else None
    if residual and (stride != 1 or in_channels != out_channels):
        shortcut = nn.Sequential(conv1x1(in_channels, out_channels, stride), nn.BatchNorm2d(out_channels))
    layers: list[nn.Module] = [block(in_channels, channels, stride, shortcut)]
    for _ in range(blocks - 1):
        layers.append(block(out_channels, channels, 1, nn.Identity() if residual else None))
    return nn.Sequential(*layers)
