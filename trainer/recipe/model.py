"""The networks: the ResNet family, and any model of torchvision or timm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trainer.recipe.check import check_below_one, check_positive_int

__all__ = ["CifarResNet", "LibraryModel", "Model", "ResNet"]


@dataclass(frozen=True, kw_only=True)
class ResNet:
    """ResNet for ImageNet (He et al. 2015, arXiv:1512.03385, Table 1), with torchvision's parameter names."""

    depth: Literal[18, 34, 50, 101, 152]
    stem: Literal["imagenet", "cifar"] = "imagenet"
    """imagenet: 7x7 stride 2 and max-pool; cifar: 3x3 stride 1 and no pool, for inputs of about 32 px"""
    residual: bool = True
    """False gives the plain network of the same depth: the paper's control, without shortcuts"""
    zero_init_residual: bool = False
    """start the last norm of every residual block at gamma = 0 (Goyal et al. 2017, section 5.1)"""
    fc_std: float | None = None
    """standard deviation of the classifier's normal initialisation (Goyal: 0.01); None: PyTorch's default"""
    fc_bias: float | None = None
    """value the classifier's bias starts at; None: PyTorch's default, or 0 where fc_std is set"""
    drop_path: float = 0.0
    """probability that an image skips the last block's branch; it grows linearly from 0 in the first block (stochastic
    depth, Huang et al. 2016, arXiv:1603.09382, section 3)"""
    blur_pool: Literal["convs", "convs_and_pool"] | None = None
    """low-pass filter before every strided convolution but the stem's, as FFCV, or also in the max-pool, as Composer
    (after Zhang 2019, arXiv:1904.11486)"""

    def __post_init__(self) -> None:
        check_below_one("model.drop_path", self.drop_path)
        _check_plain(self)
        if self.drop_path and not self.residual:
            raise ValueError(
                f"model.drop_path={self.drop_path} needs model.residual=True: "
                f"a plain block that is dropped lets no signal through"
            )


@dataclass(frozen=True, kw_only=True)
class CifarResNet:
    """He's CIFAR family (arXiv:1512.03385, section 4.2): depth 6n + 2, 16/32/64 channels, parameter-free shortcuts."""

    depth: int
    width: int = 1
    """multiple of the paper's 16/32/64 channels (Zagoruyko and Komodakis 2016, arXiv:1605.07146, section 2.3)"""
    residual: bool = True
    """False gives the plain network of the same depth: the paper's control, without shortcuts"""
    zero_init_residual: bool = False
    """start the last norm of every residual block at gamma = 0 (Goyal et al. 2017, section 5.1)"""
    fc_std: float | None = None
    """standard deviation of the classifier's normal initialisation; None: PyTorch's default"""

    def __post_init__(self) -> None:
        if self.depth < 8 or self.depth % 6 != 2:
            raise ValueError(
                f"model.depth={self.depth} is not 6n + 2: the CIFAR family has 20, 32, 44, 56, 110, 1202, ..."
            )
        check_positive_int("model.width", self.width)
        _check_plain(self)


def _check_plain(spec: ResNet | CifarResNet) -> None:
    if spec.zero_init_residual and not spec.residual:
        raise ValueError(
            "model.zero_init_residual=True needs model.residual=True: "
            "a plain block that starts with its last gamma at 0 lets no signal through"
        )


@dataclass(frozen=True, kw_only=True)
class LibraryModel:
    """A model of torchvision or timm by its name there, e.g. torchvision/resnext50_32x4d or timm/resnet50d."""

    name: str
    pretrained: bool = False
    """start from the library's published weights; the classifier is new where the number of classes differs"""

    def __post_init__(self) -> None:
        library, _, name = self.name.partition("/")
        if library not in ("torchvision", "timm") or not name:
            raise ValueError(f"model.name={self.name!r} is neither torchvision/NAME nor timm/NAME")


Model = ResNet | CifarResNet | LibraryModel
