"""Residual networks for CIFAR that normalise before they convolve: He et al. 2016, Zagoruyko and Komodakis 2016."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from trainer import recipe
from trainer.model.block import conv1x1, conv3x3, initialise
from trainer.model.cifar import SubsampleAndPad


class PreActivationBlock(nn.Module):
    """branch(relu(norm(x))) + shortcut, and nothing after the sum (He et al. 2016, arXiv:1603.05027, Figure 4e).

    The shortcut, under torchvision's name `downsample`, sees x itself, so that signals pass every block unchanged; or
    with `activates_shortcut` what the branch sees, relu(norm(x)).
    """

    relu: nn.ReLU
    downsample: nn.Module
    activates_shortcut: bool


class PreActivationBasicBlock(PreActivationBlock):
    """Two 3x3 convolutions of which the first has the stride, with dropout between them in wide networks."""

    expansion = 1

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int,
        shortcut: nn.Module,
        *,
        activates_shortcut: bool,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = conv3x3(in_channels, channels, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = conv3x3(channels, channels)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(dropout)
        self.downsample = shortcut
        self.activates_shortcut = activates_shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(x))
        shortcut = self.downsample(y if self.activates_shortcut else x)
        y = self.conv1(y)
        y = self.conv2(self.dropout(self.relu(self.bn2(y))))
        y += shortcut  # in place: no backward pass above needs y
        out: Tensor = y
        return out


class PreActivationBottleneck(PreActivationBlock):
    """1x1 with the stride, 3x3, 1x1 to four times as many channels, as in the authors' code (resnet-1k-layers)."""

    expansion = 4

    def __init__(
        self, in_channels: int, channels: int, stride: int, shortcut: nn.Module, *, activates_shortcut: bool
    ) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = conv1x1(in_channels, channels, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = conv3x3(channels, channels)
        self.bn3 = nn.BatchNorm2d(channels)
        self.conv3 = conv1x1(channels, channels * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut
        self.activates_shortcut = activates_shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(x))
        shortcut = self.downsample(y if self.activates_shortcut else x)
        y = self.conv1(y)
        y = self.conv2(self.relu(self.bn2(y)))
        y = self.conv3(self.relu(self.bn3(y)))
        y += shortcut  # in place: no backward pass above needs y
        out: Tensor = y
        return out


class PreActivationResNet(nn.Module):
    """Images [N, 3, H, W], in the papers of 32 px, to logits [N, num_classes].

    A 3x3 convolution, three stages, a last norm and ReLU, the mean over the pixels, a classifier. A CifarResNet is that
    of He et al. 2016, a WideResNet that of Zagoruyko and Komodakis 2016 (arXiv:1605.07146).
    """

    def __init__(self, spec: recipe.CifarResNet | recipe.WideResNet, num_classes: int) -> None:
        super().__init__()
        width = block_of(spec).expansion
        stem = 16 if isinstance(spec, recipe.WideResNet) else 16 * spec.width
        first, second, third = 16 * spec.width, 32 * spec.width, 64 * spec.width
        self.conv1 = conv3x3(3, stem)
        self.layer1 = stage(spec, stem, first, stride=1)
        self.layer2 = stage(spec, first * width, second, stride=2)
        self.layer3 = stage(spec, second * width, third, stride=2)
        self.bn1 = nn.BatchNorm2d(third * width)
        self.relu = nn.ReLU(inplace=True)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(third * width, num_classes)
        initialise(self, zero_init_residual=False, fc_std=spec.fc_std)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        x = self.layer1(x)
        x = self.layer2(x)
        x = self.layer3(x)
        x = self.relu(self.bn1(x))
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


def block_of(spec: recipe.CifarResNet | recipe.WideResNet) -> type[PreActivationBasicBlock | PreActivationBottleneck]:
    """Returns the kind of block that the network is made of."""
    is_bottleneck = isinstance(spec, recipe.CifarResNet) and spec.bottleneck
    return PreActivationBottleneck if is_bottleneck else PreActivationBasicBlock


def stage(
    spec: recipe.CifarResNet | recipe.WideResNet, in_channels: int, channels: int, *, stride: int
) -> nn.Sequential:
    """Builds the blocks of one resolution; the first of them has the stride and may change the number of channels.

    There its shortcut is a 1x1 convolution of the activated input, as in the code of both papers, but for He's basic
    blocks, which keep the parameter-free one of He et al. 2015. The first block of He's network activates its input
    for the shortcut too (He et al. 2016, appendix).
    """
    kind = block_of(spec)
    options: dict[str, Any] = {"dropout": spec.dropout} if isinstance(spec, recipe.WideResNet) else {}
    out_channels = channels * kind.expansion
    is_he = isinstance(spec, recipe.CifarResNet)
    shortcut: nn.Module
    if in_channels == out_channels:
        shortcut, activates_shortcut = nn.Identity(), is_he and stride == 1
    elif is_he and kind is PreActivationBasicBlock:
        shortcut, activates_shortcut = SubsampleAndPad(in_channels, out_channels), False
    else:
        shortcut, activates_shortcut = conv1x1(in_channels, out_channels, stride), True
    layers: list[nn.Module] = [
        kind(in_channels, channels, stride, shortcut, activates_shortcut=activates_shortcut, **options)
    ]
    for _ in range(blocks_in_stage(spec) - 1):
        layers.append(kind(out_channels, channels, 1, nn.Identity(), activates_shortcut=False, **options))
    return nn.Sequential(*layers)


def blocks_in_stage(spec: recipe.CifarResNet | recipe.WideResNet) -> int:
    """Computes the number of blocks in each stage from the depth.

    He counts the layers of the branches, the stem and the classifier; Zagoruyko the stem and three shortcuts.
    """
    if isinstance(spec, recipe.WideResNet):
        return (spec.depth - 4) // 6
    return (spec.depth - 2) // (9 if spec.bottleneck else 6)
