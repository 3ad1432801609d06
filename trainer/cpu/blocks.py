"""The forward passes of our own networks with the kernel of norm.py; the plain ones are in trainer/model/."""

from __future__ import annotations

from torch import Tensor, nn

from trainer.cpu.norm import norm_relu
from trainer.model.block import BasicBlock, Block, Bottleneck
from trainer.model.cifar import CifarResNet
from trainer.model.preactivation import PreActivationBasicBlock, PreActivationBottleneck, PreActivationResNet
from trainer.model.resnet import ResNet, Stem


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
    """From the last convolution's output y to the block's: norm, squeeze-and-excitation, drop path, shortcut, ReLU."""
    if block.se is None and block.drop_path is None:
        return norm_relu(norm, block.relu, y, None if block.downsample is None else block.downsample(x))
    y = norm(y)
    if block.se is not None:
        y = block.se(y)
    if block.drop_path is not None:
        y = block.drop_path(y)
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
        logits: Tensor = self.fc(self.dropout(self.avgpool(x).flatten(1)))
        return logits


class FastStem(Stem):
    _replaced_by_cpu_kernels = "Stem"

    def forward(self, input: Tensor) -> Tensor:
        x, layers = input, list(self)
        for conv, norm, relu in zip(layers[0::3], layers[1::3], layers[2::3], strict=False):
            assert isinstance(norm, nn.BatchNorm2d) and isinstance(relu, nn.ReLU)
            x = norm_relu(norm, relu, conv(x))
        return x if len(layers) % 3 == 0 else layers[-1](x)  # type: ignore[no-any-return]


class FastCifarResNet(CifarResNet):
    _replaced_by_cpu_kernels = "CifarResNet"

    def forward(self, x: Tensor) -> Tensor:
        x = norm_relu(self.bn1, self.relu, self.conv1(x))
        x = self.layer1(x)
        x = self.layer2(x)
        x = self.layer3(x)
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


class FastPreActivationBasicBlock(PreActivationBasicBlock):
    _replaced_by_cpu_kernels = "PreActivationBasicBlock"

    def forward(self, x: Tensor) -> Tensor:
        y = norm_relu(self.bn1, self.relu, x)
        shortcut = self.downsample(y if self.activates_shortcut else x)
        y = norm_relu(self.bn2, self.relu, self.conv1(y))
        y = self.conv2(self.dropout(y))
        y += shortcut
        out: Tensor = y
        return out


class FastPreActivationBottleneck(PreActivationBottleneck):
    _replaced_by_cpu_kernels = "PreActivationBottleneck"

    def forward(self, x: Tensor) -> Tensor:
        y = norm_relu(self.bn1, self.relu, x)
        shortcut = self.downsample(y if self.activates_shortcut else x)
        y = norm_relu(self.bn2, self.relu, self.conv1(y))
        y = self.conv3(norm_relu(self.bn3, self.relu, self.conv2(y)))
        y += shortcut
        out: Tensor = y
        return out


class FastPreActivationResNet(PreActivationResNet):
    _replaced_by_cpu_kernels = "PreActivationResNet"

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        x = self.layer1(x)
        x = self.layer2(x)
        x = self.layer3(x)
        x = norm_relu(self.bn1, self.relu, x)
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


CLASSES: dict[type[nn.Module], type[nn.Module]] = {
    BasicBlock: FastBasicBlock,
    Bottleneck: FastBottleneck,
    ResNet: FastResNet,
    Stem: FastStem,
    CifarResNet: FastCifarResNet,
    PreActivationBasicBlock: FastPreActivationBasicBlock,
    PreActivationBottleneck: FastPreActivationBottleneck,
    PreActivationResNet: FastPreActivationResNet,
}
