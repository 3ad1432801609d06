"""ResNet-50-D on ImageNet with mixup, 200 epochs: He et al. 2019, "Bag of Tricks", arXiv:1812.01187, Table 6.

Published: 79.15 % top-1, 224 px centre crop of short side 256.
As resnet50d_he2019_smoothing, with mixup of alpha 0.2 and 200 epochs, because it needs more of them (section 5.4).
resnet50d_he2019_200ep_distilled has a teacher too.
Unverified: the result is from memory.
Not as in the paper: as in resnet50d_he2019_smoothing; bf16, there fp16.

    torchrun --nproc-per-node 8 -m trainer train resnet50d_he2019_200ep --data DIR --run-dir DIR
"""

from dataclasses import replace

from recipes.resnet50d_he2019_smoothing import recipe as base
from trainer.recipe import Mixing, Published

recipe = replace(
    base,
    name="resnet50d_he2019_200ep",
    published=Published(
        top1=79.15,
        runs=None,
        statistic=None,
        protocol="ImageNet val, 224 px centre crop of short side 256",
        source="He et al. 2019, arXiv:1812.01187, Table 6",
    ),
    mixing=Mixing(mixup_alpha=0.2),
    epochs=200,
)
