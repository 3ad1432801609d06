"""The forward passes of our own networks with the kernel of norm.py; the plain ones are in trainer/model/."""

from __future__ import annotations

from torch import Tensor, nn

from trainer.cpu.norm import norm_relu
from trainer.model.block import BasicBlock, Block, Bottleneck
from trainer.model.cifar import CifarResNet
from trainer.model.resnet import ResNet


class FastBasicBlock(BasicBlock):
    _replaced_by_cpu_kernels = "BasicBlock"

    def forward(self, x: Tensor) -> Tensor:
        y = norm_relu(self.bn1, self.relu, self.conv1(x))
        return _end(self, x, self.conv2(y), self.bn2)


class FastBottleneck(Bottleneck):
    _replaced_by_cpu_kernels = "Bottleneck"

    def forward(self, x: Tensor) -> Tensor:
        y = norm_relu(self.bn1, self.relu, self.conv1(x))
        y = norm_relu(self.bn2, self.relu, self.conv2(y))
        return _end(self, x, self.conv3(y), self.bn3)


def _end(block: Block, x: Tensor, y: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    """From the last convolution's output y to the block's: norm, drop path, shortcut, ReLU."""
    if block.drop_path is None:
        return norm_relu(norm, block.relu, y, None if block.downsample is None else block.downsample(x))
    y = block.drop_path(norm(y))
    if block.downsample is not None:
        y += block.downsample(x)
    out: Tensor = block.relu(y)
    return out


class FastResNet(ResNet):
    _replaced_by_cpu_kernels = "ResNet"

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(norm_relu(self.bn1, self.relu, self.conv1(x)))
        x = self.layer1(x)
        x = self.layer2(x)
        x = self.layer3(x)
        x = self.layer4(x)
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


class FastCifarResNet(CifarResNet):
    _replaced_by_cpu_kernels = "CifarResNet"

    def forward(self, x: Tensor) -> Tensor:
        x = norm_relu(self.bn1, self.relu, self.conv1(x))
        x = self.layer1(x)
        x = self.layer2(x)
        x = self.layer3(x)
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


CLASSES: dict[type[nn.Module], type[nn.Module]] = {
    BasicBlock: FastBasicBlock,
    Bottleneck: FastBottleneck,
    ResNet: FastResNet,
    CifarResNet: FastCifarResNet,
}
