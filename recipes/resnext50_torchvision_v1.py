"""ResNeXt-50 32x4d on ImageNet as torchvision trained its V1 weights: reference scripts and weights metadata.

Published: 77.618 % top-1, 93.698 % top-5, one run, 224 px centre crop of short side 256.
As resnet50_torchvision_v1, but of 100 epochs (the scripts' README): 8 GPUs x 32 images, lr 0.1, x 0.1 every 30 epochs.
Not as there: bf16 where torchvision trained in fp32.

    torchrun --nproc-per-node 8 -m trainer train resnext50_torchvision_v1 --data DIR --run-dir DIR
"""

from dataclasses import replace

from recipes.resnet50_torchvision_v1 import recipe as base
from trainer.recipe import Published, ResNet, Steps

recipe = replace(
    base,
    name="resnext50_torchvision_v1",
    published=Published(
        top1=77.618,
        runs=1,
        statistic=None,
        protocol="ImageNet val, 224 px centre crop of short side 256",
        source="torchvision, ResNeXt50_32X4D_Weights.IMAGENET1K_V1",
    ),
    model=ResNet(depth=50, groups=32, width_per_group=4),
    schedule=Steps(milestones=(30, 60, 90)),
    epochs=100,
)
