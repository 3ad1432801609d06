"""ResNet-50-D on ImageNet with mixup and a teacher: He et al. 2019, "Bag of Tricks", arXiv:1812.01187, Table 6.

Published: 79.29 % top-1, 224 px centre crop of short side 256; the paper's best.
As resnet50d_he2019_200ep, with the teacher of resnet50d_he2019_distilled, which sees the mixed images.
Unverified: the result is from memory.
Not as in the paper: as in resnet50d_he2019_200ep; bf16, there fp16.

    torchrun --nproc-per-node 8 -m trainer train resnet50d_he2019_200ep_distilled --data DIR --run-dir DIR \\
        --teacher-weights FILE
"""

from dataclasses import replace

from recipes.resnet50d_he2019_200ep import recipe as base
from recipes.resnet50d_he2019_distilled import recipe as distilled
from trainer.recipe import Published

recipe = replace(
    base,
    name="resnet50d_he2019_200ep_distilled",
    published=Published(
        top1=79.29,
        runs=None,
        statistic=None,
        protocol="ImageNet val, 224 px centre crop of short side 256",
        source="He et al. 2019, arXiv:1812.01187, Table 6",
    ),
    distillation=distilled.distillation,
)
