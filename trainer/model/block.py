"""What a residual network is made of: the two blocks of He et al. 2015 (arXiv:1512.03385) and their initialisation."""

from __future__ import annotations

from torch import Tensor, nn

from trainer.model.blur import BlurConv2d, wants_blur
from trainer.model.squeeze_excitation import SqueezeExcitation


class Block(nn.Module):
    """relu(branch(x) + shortcut(x)), He et al. 2015, section 3.2. A plain block has no shortcut: relu(branch(x)).

    The shortcut has torchvision's name, `downsample`, so that state_dicts are interchangeable; unlike torchvision's,
    the identity is a module, and None means a plain block. In training an image skips the branch with probability
    `drop_path`, and the branch is scaled by 1 / (1 - drop_path) otherwise, so that evaluation needs no scale (Huang
    et al. 2016, arXiv:1603.09382, scale in evaluation instead). Squeeze-and-excitation, `se`, ends the branch.
    """

    relu: nn.ReLU
    se: nn.Module | None
    downsample: nn.Module | None
    drop_path: nn.Module | None


class BasicBlock(Block):
    """Two 3x3 convolutions (He et al. 2015, Figure 5 left); the first one has the stride."""

    expansion = 1

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int,
        shortcut: nn.Module | None,
        *,
        se_ratio: float | None = None,
        drop_path: float = 0.0,
        blur: bool = False,
    ) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, channels, stride, blur=blur)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = conv3x3(channels, channels)
        self.bn2 = nn.BatchNorm2d(channels)
        self.se = None if se_ratio is None else SqueezeExcitation(channels, se_ratio)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut
        self.drop_path = stochastic_depth(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.se is not None:
            y = self.se(y)
        if self.drop_path is not None:
            y = self.drop_path(y)
        if self.downsample is not None:
            y += self.downsample(x)  # in place: no backward pass above needs y
        out: Tensor = self.relu(y)
        return out


class Bottleneck(Block):
    """1x1 to `channels`, 3x3, 1x1 to four times as many (He et al. 2015, Figure 5 right).

    The 3x3 has channels * width_per_group / 64 in each of its groups (Xie et al. 2016, arXiv:1611.05431, Figure 3c). It
    has the stride, as in Goyal et al. 2017, section 5.1, and torchvision; with `stride_on_1x1` the first 1x1 has it, as
    in He's own.
    """

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int,
        shortcut: nn.Module | None,
        *,
        stride_on_1x1: bool = False,
        groups: int = 1,
        width_per_group: int = 64,
        se_ratio: float | None = None,
        drop_path: float = 0.0,
        blur: bool = False,
    ) -> None:
        super().__init__()
        width, out_channels = channels * width_per_group // 64 * groups, channels * self.expansion
        first, second = (stride, 1) if stride_on_1x1 else (1, stride)
        self.conv1 = conv1x1(in_channels, width, first, blur=blur)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width, second, groups=groups, blur=blur)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv1x1(width, out_channels)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.se = None if se_ratio is None else SqueezeExcitation(out_channels, se_ratio)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut
        self.drop_path = stochastic_depth(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        if self.se is not None:
            y = self.se(y)
        if self.drop_path is not None:
            y = self.drop_path(y)
        if self.downsample is not None:
            y += self.downsample(x)  # in place: no backward pass above needs y
        out: Tensor = self.relu(y)
        return out


def conv3x3(in_channels: int, out_channels: int, stride: int = 1, *, groups: int = 1, blur: bool = False) -> nn.Conv2d:
    """Builds a 3x3 convolution. Its padding keeps height and width at stride 1; the norm after it has the bias."""
    return _conv(in_channels, out_channels, 3, stride, groups, blur)


def conv1x1(in_channels: int, out_channels: int, stride: int = 1, *, blur: bool = False) -> nn.Conv2d:
    """Builds a 1x1 convolution. The norm after it has the bias."""
    return _conv(in_channels, out_channels, 1, stride, 1, blur)


def _conv(in_channels: int, out_channels: int, kernel_size: int, stride: int, groups: int, blur: bool) -> nn.Conv2d:
    if blur and wants_blur(in_channels, stride):
        return BlurConv2d(in_channels, out_channels, kernel_size, stride, groups)
    padding = kernel_size // 2
    return nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False)


def stochastic_depth(drop_path: float) -> nn.Module | None:
    """Drops the branches of images at random, by torch's global generator; None if there is nothing to drop."""
    if drop_path == 0:
        return None
    from torchvision.ops import StochasticDepth  # loads all of torchvision, which our networks do without

    module: nn.Module = StochasticDepth(drop_path, "row")
    return module


def initialise(
    model: nn.Module, *, zero_init_residual: bool, fc_std: float | None, fc_bias: float | None = None
) -> None:
    """Sets the weights that training starts from, in place; draws from torch's global random generator.

    Convolutions: normal with variance 2 / fan_out (He et al. 2015, arXiv:1502.01852, section 2.2, its backward form).
    Norms: gamma 1 and beta 0, but gamma 0 in the last norm of each block where `zero_init_residual`, so that every
    block starts as its shortcut (Goyal et al. 2017, section 5.1). Classifier: normal with `fc_std` and zero bias (same
    section), or PyTorch's default for None; its bias is `fc_bias` where that is given.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            if fc_std is not None:
                nn.init.normal_(module.weight, std=fc_std)
                nn.init.zeros_(module.bias)
            if fc_bias is not None:
                nn.init.constant_(module.bias, fc_bias)
    if zero_init_residual:
        for module in model.modules():
            if isinstance(module, BasicBlock):
                nn.init.zeros_(module.bn2.weight)
            elif isinstance(module, Bottleneck):
                nn.init.zeros_(module.bn3.weight)
