"""ResNet-50 on ImageNet with batch 1024 and warmup: He et al. 2019, arXiv:1812.01187, Table 4.

Published: 75.93 % top-1, 224 px centre crop of short side 256.
As resnet50_he2019_1k, with a rate that rises from 0 by equal amounts over the first 5 epochs (section 3.1).
Unverified: the result is from memory.
Not as in the paper: as in resnet50_he2019_1k; bf16, there fp32.

    torchrun --nproc-per-node 8 -m trainer train resnet50_he2019_1k_warmup --data DIR --run-dir DIR
"""

from dataclasses import replace

from recipes.resnet50_he2019_1k import recipe as base
from trainer.recipe import Published, Steps, Warmup

recipe = replace(
    base,
    name="resnet50_he2019_1k_warmup",
    published=Published(
        top1=75.93,
        runs=None,
        statistic=None,
        protocol="ImageNet val, 224 px centre crop of short side 256",
        source="He et al. 2019, arXiv:1812.01187, Table 4",
    ),
    schedule=Steps(milestones=(30, 60, 90), warmup=Warmup(epochs=5, lr=0.0)),
)
