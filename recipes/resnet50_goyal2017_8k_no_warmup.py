"""ResNet-50 on ImageNet with batch 8192 and no warmup: Goyal et al. 2017, arXiv:1706.02677.

Published: 24.84 +- 0.37 % top-1 error at k*n = 8k, where gradual warmup has 23.74: the median of the last 5 epochs,
mean and deviation of 5 runs.
As resnet50_goyal2017_8k, but lr 3.2 from the first step on: the first of the paper's two controls of its warmup.
Not as in the paper: bf16 (--precision fp32 is the literal one).

    torchrun --nproc-per-node 8 -m trainer train resnet50_goyal2017_8k_no_warmup --data DIR --run-dir DIR
"""

from dataclasses import replace

from recipes.resnet50_goyal2017_8k import recipe as base
from trainer.recipe import Published, Steps

recipe = replace(
    base,
    name="resnet50_goyal2017_8k_no_warmup",
    published=Published(
        top1=75.16,
        sd=0.37,
        runs=5,
        statistic="median of the last 5",
        protocol="ImageNet val, 224 px centre crop of short side 256",
        source="Goyal et al. 2017, arXiv:1706.02677, Table 1",
    ),
    schedule=Steps(milestones=(30, 60, 80)),
)
