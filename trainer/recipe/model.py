"""The networks: the ResNet family, and any model of torchvision or timm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trainer.recipe.check import check_below_one, check_positive_int

__all__ = ["CifarResNet", "LibraryModel", "Model", "ResNet", "WideResNet"]


@dataclass(frozen=True, kw_only=True)
class ResNet:
    """ResNet for ImageNet (He et al. 2015, arXiv:1512.03385, Table 1) and its relatives: ResNeXt, Wide-ResNet-50-2,
    ResNet-D, SE-ResNet, ResNet-RS. Parameters have torchvision's names, or timm's where torchvision has no such one."""

    depth: Literal[18, 34, 50, 101, 152]
    stem: Literal["imagenet", "cifar"] = "imagenet"
    """imagenet: 7x7 stride 2 and max-pool; cifar: 3x3 stride 1 and no pool, for inputs of about 32 px"""
    variant: Literal["a", "b", "c", "d", "rs"] = "b"
    """a: He's own, with a bottleneck's stride on its first 1x1; b: torchvision's, on the 3x3; c: as b, with three 3x3
    convolutions in place of the stem's 7x7; d: as c, and shortcuts that halve the resolution do so by average pooling
    (He et al. 2019, arXiv:1812.01187, section 4); rs: as d, and a 3x3 convolution of stride 2 in place of the max-pool
    (Bello et al. 2021, arXiv:2103.07579)"""
    groups: int = 1
    """groups of the 3x3 convolution of a bottleneck (ResNeXt, Xie et al. 2016, arXiv:1611.05431: 32)"""
    width_per_group: int = 64
    """channels of each group in the first stage; they double from stage to stage. 64 in one group is He's ResNet, 4 in
    32 groups ResNeXt 32x4d, 128 in one group Wide-ResNet-50-2 (Zagoruyko and Komodakis 2016, arXiv:1605.07146)"""
    se_ratio: float | None = None
    """squeeze-and-excitation at the end of each branch (Hu et al. 2017, arXiv:1709.01507: 1/16): its hidden channels as
    a fraction of the block's, rounded to a multiple of 8; None: none"""
    residual: bool = True
    """False gives the plain network of the same depth: the paper's control, without shortcuts"""
    zero_init_residual: bool = False
    """start the last norm of every residual block at gamma = 0 (Goyal et al. 2017, section 5.1)"""
    fc_std: float | None = None
    """standard deviation of the classifier's normal initialisation (Goyal: 0.01); None: PyTorch's default"""
    fc_bias: float | None = None
    """value the classifier's bias starts at; None: PyTorch's default, or 0 if fc_std is set"""
    drop_path: float = 0.0
    """probability that an image skips the last block's branch; it grows linearly from 0 in the first block (stochastic
    depth, Huang et al. 2016, arXiv:1603.09382, section 3)"""
    blur_pool: Literal["convs", "convs_and_pool"] | None = None
    """low-pass filter before every strided convolution but the stem's, as FFCV, or also in the max-pool, as Composer
    (after Zhang 2019, arXiv:1904.11486)"""
    dropout: float = 0.0
    """share of the features before the classifier that are set to zero in training (Srivastava et al. 2014)"""

    def __post_init__(self) -> None:
        check_below_one("model.drop_path", self.drop_path)
        check_below_one("model.dropout", self.dropout)
        check_positive_int("model.groups", self.groups)
        check_positive_int("model.width_per_group", self.width_per_group)
        if self.se_ratio is not None and not 0 < self.se_ratio <= 1:
            raise ValueError(f"model.se_ratio={self.se_ratio} is not within (0, 1]; None leaves it out")
        if self.depth < 50 and (self.groups, self.width_per_group) != (1, 64):
            raise ValueError(
                f"model.groups={self.groups} and model.width_per_group={self.width_per_group} are for bottlenecks, and "
                f"model.depth={self.depth} has none: use 50, 101 or 152"
            )
        if self.variant not in ("a", "b") and self.stem == "cifar":
            raise ValueError(
                f"model.variant={self.variant!r} has a stem of its own: use model.stem='imagenet', or model.variant='b'"
            )
        if self.variant in ("d", "rs") and not self.residual:
            raise ValueError(
                f"model.variant={self.variant!r} changes shortcuts, and model.residual=False has none: use 'b' or 'c'"
            )
        if self.variant == "rs" and self.blur_pool is not None:
            raise ValueError(
                f"model.variant='rs' has no max-pool for model.blur_pool={self.blur_pool!r}: use variant 'd' or None"
            )
        _check_plain(self)
        if self.drop_path and not self.residual:
            raise ValueError(
                f"model.drop_path={self.drop_path} needs model.residual=True: "
                f"a plain block that is dropped lets no signal through"
            )


@dataclass(frozen=True, kw_only=True)
class CifarResNet:
    """He's CIFAR family (arXiv:1512.03385, section 4.2): depth 6n + 2, 16/32/64 channels, parameter-free shortcuts.

    With `preactivation`, that of He et al. 2016 (arXiv:1603.05027).
    """

    depth: int
    width: int = 1
    """multiple of the paper's 16/32/64 channels (Zagoruyko and Komodakis 2016, arXiv:1605.07146, section 2.3)"""
    residual: bool = True
    """False gives the plain network of the same depth: the paper's control, without shortcuts"""
    zero_init_residual: bool = False
    """start the last norm of every residual block at gamma = 0 (Goyal et al. 2017, section 5.1)"""
    fc_std: float | None = None
    """standard deviation of the classifier's normal initialisation; None: PyTorch's default"""
    preactivation: bool = False
    """norm and ReLU before each convolution, nothing after the sum with the shortcut (He et al. 2016, Figure 4e)"""
    bottleneck: bool = False
    """blocks of 1x1, 3x3 and 1x1, of depth 9n + 2, with four times the channels and 1x1 convolutions in the shortcuts
    that change shape (He et al. 2016: 164, 1001); for `preactivation` only"""

    def __post_init__(self) -> None:
        if not self.bottleneck and (self.depth < 8 or self.depth % 6 != 2):
            raise ValueError(
                f"model.depth={self.depth} is not 6n + 2: the CIFAR family has 20, 32, 44, 56, 110, 1202, ..."
            )
        if self.bottleneck and (self.depth < 11 or self.depth % 9 != 2):
            raise ValueError(f"model.depth={self.depth} is not 9n + 2: with bottlenecks there are 164, 1001, ...")
        check_positive_int("model.width", self.width)
        if self.bottleneck and not self.preactivation:
            raise ValueError(
                "model.bottleneck=True needs model.preactivation=True: no paper has the CIFAR family without"
            )
        if self.preactivation and not self.residual:
            raise ValueError("model.preactivation=True needs model.residual=True: it is about what shortcuts carry")
        if self.preactivation and self.zero_init_residual:
            raise ValueError(
                "model.zero_init_residual=True needs model.preactivation=False: "
                "a last norm that starts at 0 before a ReLU gets no gradient, and its branch would never learn"
            )
        _check_plain(self)


@dataclass(frozen=True, kw_only=True)
class WideResNet:
    """WRN for CIFAR (Zagoruyko and Komodakis 2016, arXiv:1605.07146, Table 1): WRN-28-10 is depth 28 and width 10.

    Pre-activation blocks of two 3x3 convolutions, 1x1 convolutions in the shortcuts that change shape, 16 channels in
    the stem whatever the width. For ImageNet's Wide-ResNet-50-2 see ResNet.width_per_group.
    """

    depth: int
    """6n + 4 for n blocks in each of three stages, as the paper counts"""
    width: int
    """multiple of 16/32/64 channels: the paper's widening factor k"""
    dropout: float = 0.0
    """share of the values between a block's convolutions that are set to zero in training (section 2.4: 0.3)"""
    fc_std: float | None = None
    """standard deviation of the classifier's normal initialisation; None: PyTorch's default"""

    def __post_init__(self) -> None:
        if self.depth < 10 or self.depth % 6 != 4:
            raise ValueError(f"model.depth={self.depth} is not 6n + 4: wide ResNets have 16, 22, 28, 40, ...")
        check_positive_int("model.width", self.width)
        check_below_one("model.dropout", self.dropout)


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
    """torchvision/NAME or timm/NAME"""
    pretrained: bool = False
    """start from the library's published weights; the classifier is new where the number of classes differs"""

    def __post_init__(self) -> None:
        library, _, name = self.name.partition("/")
        if library not in ("torchvision", "timm") or not name:
            raise ValueError(f"model.name={self.name!r} is neither torchvision/NAME nor timm/NAME")


Model = ResNet | CifarResNet | WideResNet | LibraryModel
