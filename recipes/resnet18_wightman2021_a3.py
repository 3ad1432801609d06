"""ResNet-18 on ImageNet for 100 epochs, procedure A3: Wightman et al. 2021, arXiv:2110.00476.

Published: 68.250 % top-1 of timm's weights, one run, 224 px centre crop of ratio 0.95.
All but the depth is resnet50_wightman2021_a3, which says where each number is from and what is unverified. Unverified
too: that timm's weights of this depth were trained with ResNet-50's settings.
Not as there: bf16, theirs was fp16; no cooldown, no bicubic filter.

    torchrun --nproc-per-node 4 -m trainer train resnet18_wightman2021_a3 --data DIR --run-dir DIR
"""

from dataclasses import replace

from recipes.resnet50_wightman2021_a3 import recipe as base
from trainer.recipe import Published, ResNet

recipe = replace(
    base,
    name="resnet18_wightman2021_a3",
    published=Published(
        top1=68.250,
        runs=1,
        statistic=None,
        protocol="ImageNet val, 224 px centre crop of ratio 0.95",
        source="Wightman et al. 2021, arXiv:2110.00476; timm, resnet18.a3_in1k",
    ),
    model=ResNet(depth=18, zero_init_residual=True),
)
