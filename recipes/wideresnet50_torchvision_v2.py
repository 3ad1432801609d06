"""Wide-ResNet-50-2 on ImageNet as torchvision trained its V2 weights: reference scripts and weights metadata.

Published: 81.602 % top-1, 95.758 % top-5, one run, the averaged weights, 224 px centre crop of short side 232.
As resnet50_torchvision_v2, but without repeated augmentation: the metadata names the recipe with FixRes mitigations in
issue 3995 of pytorch/vision, whose crops have 176 px.
Unverified: the flags are read from copies of that command.
Not as there: bf16 where torchvision trained, we assume, in fp32.

    torchrun --nproc-per-node 8 -m trainer train wideresnet50_torchvision_v2 --data DIR --run-dir DIR
"""

from dataclasses import replace

from recipes.resnet50_torchvision_v2 import recipe as base
from trainer.recipe import Published, ResNet

recipe = replace(
    base,
    name="wideresnet50_torchvision_v2",
    published=Published(
        top1=81.602,
        runs=1,
        statistic=None,
        protocol="ImageNet val, 224 px centre crop of short side 232, averaged weights",
        source="torchvision, Wide_ResNet50_2_Weights.IMAGENET1K_V2",
    ),
    model=ResNet(depth=50, width_per_group=128),
    repeats=1,
)
