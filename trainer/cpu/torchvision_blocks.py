"""The same for torchvision's ResNets, ResNeXts and wide ResNets. Imported only where torchvision is already."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models import resnet

from trainer.cpu.norm import norm_relu


class FastBasicBlock(resnet.BasicBlock):  # type: ignore[misc]
    _replaced_by_cpu_kernels = "torchvision BasicBlock"

    def forward(self, x: Tensor) -> Tensor:
        y = norm_relu(self.bn1, self.relu, self.conv1(x))
        return norm_relu(self.bn2, self.relu, self.conv2(y), _shortcut(self, x))


class FastBottleneck(resnet.Bottleneck):  # type: ignore[misc]
    _replaced_by_cpu_kernels = "torchvision Bottleneck"

    def forward(self, x: Tensor) -> Tensor:
        y = norm_relu(self.bn1, self.relu, self.conv1(x))
        y = norm_relu(self.bn2, self.relu, self.conv2(y))
        return norm_relu(self.bn3, self.relu, self.conv3(y), _shortcut(self, x))


def _shortcut(block: nn.Module, x: Tensor) -> Tensor:
    """Torchvision's identity is None, where ours is a module."""
    shortcut: Tensor = x if block.downsample is None else block.downsample(x)  # type: ignore[operator]
    return shortcut


class FastResNet(resnet.ResNet):  # type: ignore[misc]
    _replaced_by_cpu_kernels = "torchvision ResNet"

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(norm_relu(self.bn1, self.relu, self.conv1(x)))
        x = self.layer1(x)
        x = self.layer2(x)
        x = self.layer3(x)
        x = self.layer4(x)
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


CLASSES: dict[type[nn.Module], type[nn.Module]] = {
    resnet.BasicBlock: FastBasicBlock,
    resnet.Bottleneck: FastBottleneck,
    resnet.ResNet: FastResNet,
}
