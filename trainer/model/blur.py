"""Anti-aliasing: a low-pass filter before each strided convolution.

After Zhang 2019 (arXiv:1904.11486), in the form that FFCV's ImageNet training and MosaicML's Composer gave it: the
filter comes before the strided convolution. Zhang's comes after one that is no longer strided, and costs more.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

MIN_CHANNELS = 16  # FFCV's and Composer's limit: convolutions of fewer input channels, the stem's, stay as they are


class BlurConv2d(nn.Conv2d):
    """A convolution of blurred input: [N, C, H, W] -> what the convolution makes of that shape.

    FFCV's and Composer's (with its default blur_first=True): the filter has stride 1, and zeros around the image.
    It is no parameter and not in the state_dict, where the convolution has the names it has without.
    """

    blur_filter: Tensor

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int, groups: int = 1) -> None:
        padding = kernel_size // 2
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False)
        self.register_buffer("blur_filter", binomial_filter(in_channels), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(blur(x, self.blur_filter))


class BlurMaxPool2d(nn.Module):
    """3x3 max-pooling that halves the resolution: [N, C, H, W] -> [N, C, H/2, W/2], odd sizes round up.

    Composer's: the maximum at stride 1, then the filter at stride 2 with zeros around the image. FFCV leaves the
    max-pool alone.
    """

    blur_filter: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("blur_filter", binomial_filter(channels), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(x, kernel_size=3, stride=1, padding=1)
        return blur(x, self.blur_filter, stride=2)


def wants_blur(in_channels: int, stride: int) -> bool:
    """Whether FFCV and Composer blur the input of such a convolution."""
    return stride > 1 and in_channels >= MIN_CHANNELS


def binomial_filter(channels: int) -> Tensor:
    """Returns [1, 2, 1] by [1, 2, 1] over 16, once per channel: [C, 1, 3, 3] float32.

    Its values are exact in bf16 and fp16.
    """
    row = torch.tensor([1.0, 2.0, 1.0]) / 4
    return torch.outer(row, row).repeat(channels, 1, 1, 1)


def blur(x: Tensor, blur_filter: Tensor, stride: int = 1) -> Tensor:
    """Convolves each channel with its filter: [N, C, H, W] -> [N, C, H/stride, W/stride], in the format of x.

    Under autocast it has the precision of convolutions.
    """
    return functional.conv2d(x, blur_filter, stride=stride, padding=1, groups=x.shape[1])
