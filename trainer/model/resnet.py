"""ResNet for ImageNet (He et al. 2015, arXiv:1512.03385, Table 1), its relatives, its CIFAR stem and its plain twins.

Parameters and buffers have torchvision's names and order, and timm's where torchvision has no such network: state_dicts
go both ways.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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

    Raises UserError for a depth that Table 1 does not have, and for an unknown stem, variant or blur_pool.
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
        width = block.expansion
        self.conv1, maxpool = stem(spec)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = maxpool
        self.layer1 = stage(spec, block, rates[:first], 64, 64, stride=1)
        self.layer2 = stage(spec, block, rates[first:second], 64 * width, 128, stride=2)
        self.layer3 = stage(spec, block, rates[second:third], 128 * width, 256, stride=2)
        self.layer4 = stage(spec, block, rates[third:], 256 * width, 512, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(spec.dropout)
        self.fc = nn.Linear(512 * width, num_classes)
        initialise(self, zero_init_residual=spec.zero_init_residual, fc_std=spec.fc_std, fc_bias=spec.fc_bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer1(x)
        x = self.layer2(x)
        x = self.layer3(x)
        x = self.layer4(x)
        logits: Tensor = self.fc(self.dropout(self.avgpool(x).flatten(1)))
        return logits


def linear_rates(drop_path: float, blocks: int) -> list[float]:
    """Returns each block's drop probability: from 0 in the first to `drop_path` in the last, in equal steps.

    timm's form. Huang et al. 2016 (arXiv:1603.09382, section 3) count the blocks from 1, so that theirs already drops
    the first.
    """
    return [drop_path * index / (blocks - 1) for index in range(blocks)]


class Stem(nn.Sequential):
    """3x3 convolutions, each followed by a norm and a ReLU; those of the deep stem's last one are the network's own."""


def stem(spec: recipe.ResNet) -> tuple[nn.Module, nn.Module]:
    """Builds what comes before the first norm and after its ReLU: to a quarter of height and width, or to all of it.

    The deep stem of variants c, d and rs is that of He et al. 2019 (arXiv:1812.01187, Figure 2b). In variant rs a
    convolution takes the place of the max-pool (Bello et al. 2021, arXiv:2103.07579, in the authors' code).
    """
    if spec.stem not in ("imagenet", "cifar"):
        raise UserError(f"model.stem={spec.stem!r} is neither 'imagenet' nor 'cifar'")
    if spec.variant not in ("a", "b", "c", "d", "rs"):
        raise UserError(f"model.variant={spec.variant!r} is not a ResNet: there are a, b, c, d, rs")
    if spec.stem == "cifar":
        return conv3x3(3, 64), nn.Identity()
    conv: nn.Module
    if spec.variant in ("a", "b"):
        conv = nn.Conv2d(3, 64, kernel_size=7, stride=2, padding=3, bias=False)
    else:
        conv = Stem(*conv_norm_relu(3, 32, stride=2), *conv_norm_relu(32, 32, stride=1), conv3x3(32, 64))
    if spec.variant == "rs":
        return conv, Stem(*conv_norm_relu(64, 64, stride=2))
    if spec.blur_pool == "convs_and_pool":
        return conv, BlurMaxPool2d(64)
    return conv, nn.MaxPool2d(kernel_size=3, stride=2, padding=1)


def conv_norm_relu(in_channels: int, out_channels: int, *, stride: int) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Builds the three layers, in order."""
    return conv3x3(in_channels, out_channels, stride), nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)


def stage(
    spec: recipe.ResNet,
    block: type[BasicBlock | Bottleneck],
    drop_paths: Sequence[float],
    in_channels: int,
    channels: int,
    *,
    stride: int,
) -> nn.Sequential:
    """Builds a block for each of `drop_paths`; the first has the stride, and a projection as shortcut if shapes differ.

    `blur_pool` is for strided convolutions, the projection's too.
    """
    out_channels = channels * block.expansion
    options: dict[str, Any] = {"se_ratio": spec.se_ratio}
    if issubclass(block, Bottleneck):
        options |= {"groups": spec.groups, "width_per_group": spec.width_per_group}
        options["stride_on_1x1"] = spec.variant == "a"
    first = shortcut(spec, in_channels, out_channels, stride)
    blur = spec.blur_pool is not None
    layers: list[nn.Module] = [
        block(in_channels, channels, stride, first, drop_path=drop_paths[0], blur=blur, **options)
    ]
    for drop_path in drop_paths[1:]:
        identity = shortcut(spec, out_channels, out_channels, stride=1)
        layers.append(block(out_channels, channels, 1, identity, drop_path=drop_path, **options))
    return nn.Sequential(*layers)


def shortcut(spec: recipe.ResNet, in_channels: int, out_channels: int, stride: int) -> nn.Module | None:
    """Builds option B of He et al. 2015, section 3.3: the identity, or where shapes differ a 1x1 convolution with norm.

    Variants d and rs average 2x2 pixels before it, where it would have a stride (He et al. 2019, Figure 2c), by timm's
    pooling: odd sizes round up. None in a plain network.
    """
    if not spec.residual:
        return None
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    if spec.variant in ("d", "rs"):
        pool: nn.Module = nn.Identity()
        if stride != 1:
            pool = nn.AvgPool2d(kernel_size=2, stride=stride, ceil_mode=True, count_include_pad=False)
        return nn.Sequential(pool, conv1x1(in_channels, out_channels), nn.BatchNorm2d(out_channels))
    conv = conv1x1(in_channels, out_channels, stride, blur=spec.blur_pool is not None)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels))
