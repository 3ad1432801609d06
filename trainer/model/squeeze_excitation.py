"""Squeeze-and-excitation (Hu et al. 2017, arXiv:1709.01507): channels weighted by what is in the whole image."""

from __future__ import annotations

from torch import Tensor, nn


class SqueezeExcitation(nn.Module):
    """x * sigmoid(fc2(relu(fc1(mean of x over its pixels)))): [N, C, H, W] -> [N, C, H, W], in the format of x.

    fc1 and fc2 are 1x1 convolutions with biases, under timm's names. The hidden channels are C * ratio, rounded to the
    nearest multiple of 8 and at least 8, as in timm.
    """

    def __init__(self, channels: int, ratio: float) -> None:
        super().__init__()
        hidden = max(8, int(channels * ratio + 4) // 8 * 8)
        self.fc1 = nn.Conv2d(channels, hidden, kernel_size=1)
        self.relu = nn.ReLU(inplace=True)
        self.fc2 = nn.Conv2d(hidden, channels, kernel_size=1)
        self.sigmoid = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        squeezed = x.mean((2, 3), keepdim=True)
        excitation: Tensor = self.sigmoid(self.fc2(self.relu(self.fc1(squeezed))))
        return x * excitation
