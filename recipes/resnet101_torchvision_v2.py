"""ResNet-101 on ImageNet as torchvision trained its V2 weights: its reference scripts and weights metadata.

Published: 81.886 % top-1, 95.780 % top-5, one run, the averaged weights, 224 px centre crop of short side 232.
As resnet50_torchvision_v2, but with crops of 224 px and without repeated augmentation: the metadata names the first
recipe of issue 3995 of pytorch/vision, which is without its FixRes mitigations. Unverified: the flags are read from
copies of that command.
Not as there: bf16 where torchvision trained, we assume, in fp32.

    torchrun --nproc-per-node 8 -m trainer train resnet101_torchvision_v2 --data DIR --run-dir DIR
"""

from dataclasses import replace

from recipes.resnet50_torchvision_v2 import recipe as base
from trainer.recipe import Published, RandomResizedCrop, ResNet

recipe = replace(
    base,
    name="resnet101_torchvision_v2",
    published=Published(
        top1=81.886,
        runs=1,
        statistic=None,
        protocol="ImageNet val, 224 px centre crop of short side 232, averaged weights",
        source="torchvision, ResNet101_Weights.IMAGENET1K_V2",
    ),
    model=ResNet(depth=101),
    train_crop=RandomResizedCrop(resolution=224),
    repeats=1,
)
