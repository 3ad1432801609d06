"""He's CIFAR family (He et al. 2015, arXiv:1512.03385, section 4.2): the experiment on depth, with its plain twins."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from trainer import recipe
from trainer.model.block import BasicBlock, conv3x3, initialise


class CifarResNet(nn.Module):
    """Images [N, 3, H, W], in the paper of 32 px, to logits [N, num_classes]: 6n + 2 layers for n blocks per stage.

    `width` multiplies every number of channels, the first convolution's too, so that the shortcuts stay those of the
    paper: Zagoruyko and Komodakis 2016 (arXiv:1605.07146, Table 1) leave that at 16 and widen in a 1x1 shortcut.
    """

    def __init__(self, spec: recipe.CifarResNet, num_classes: int) -> None:
        super().__init__()
        blocks = (spec.depth - 2) // 6
        first, second, third = 16 * spec.width, 32 * spec.width, 64 * spec.width
        self.conv1 = conv3x3(3, first)
        self.bn1 = nn.BatchNorm2d(first)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = stage(blocks, first, first, stride=1, residual=spec.residual)
        self.layer2 = stage(blocks, first, second, stride=2, residual=spec.residual)
        self.layer3 = stage(blocks, second, third, stride=2, residual=spec.residual)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(third, num_classes)
        initialise(self, zero_init_residual=spec.zero_init_residual, fc_std=spec.fc_std)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer1(x)
        x = self.layer2(x)
        x = self.layer3(x)
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


class SubsampleAndPad(nn.Module):
    """Option A of He et al. 2015, section 3.3, the shortcut without parameters: [N, C, H, W] -> [N, C', H/2, W/2].

    Every second row and column (odd sizes round up, as in the 3x3 it runs beside), and zeros for the new channels.
    Half of the zeros come before the old channels and half after. The paper does not say where they go: any
    arrangement is the same network with its channels numbered differently.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.before = (out_channels - in_channels) // 2
        self.after = out_channels - in_channels - self.before

    def forward(self, x: Tensor) -> Tensor:
        # as x[:, :, ::2, ::2], whose backward pass leaves channels-last memory, and everything after it becomes slower
        subsampled = functional.avg_pool2d(x, kernel_size=1, stride=2)
        return functional.pad(subsampled, (0, 0, 0, 0, self.before, self.after))


def stage(blocks: int, in_channels: int, channels: int, *, stride: int, residual: bool) -> nn.Sequential:
    """Builds `blocks` basic blocks of which the first has the stride; no shortcut has parameters."""
    shortcut: nn.Module | None = nn.Identity() if residual else None
    if residual and stride != 1:
        shortcut = SubsampleAndPad(in_channels, channels)
    layers: list[nn.Module] = [BasicBlock(in_channels, channels, stride, shortcut)]
    for _ in range(blocks - 1):
        layers.append(BasicBlock(channels, channels, 1, nn.Identity() if residual else None))
    return nn.Sequential(*layers)
