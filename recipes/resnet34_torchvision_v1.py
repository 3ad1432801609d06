"""ResNet-34 on ImageNet as torchvision trained its V1 weights: its reference scripts and weights metadata.

Published: 73.314 % top-1, 91.420 % top-5, one run, 224 px centre crop of short side 256.
All but the depth is resnet50_torchvision_v1, which says where each number is from and what is unverified.
Not as there: bf16 where torchvision trained in fp32 (--precision fp32 is the literal one).

    torchrun --nproc-per-node 8 -m trainer train resnet34_torchvision_v1 --data DIR --run-dir DIR
"""

from dataclasses import replace

from recipes.resnet50_torchvision_v1 import recipe as base
from trainer.recipe import Published, ResNet

recipe = replace(
    base,
    name="resnet34_torchvision_v1",
    published=Published(
        top1=73.314,
        runs=1,
        statistic=None,
        protocol="ImageNet val, 224 px centre crop of short side 256",
        source="torchvision, ResNet34_Weights.IMAGENET1K_V1",
    ),
    model=ResNet(depth=34),
)
